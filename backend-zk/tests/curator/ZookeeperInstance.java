package org.springframework.cloud.zookeeper.discovery;

import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;

/** The members of Spring Cloud ZooKeeper's payload class, as Jackson sees them. */
public class ZookeeperInstance {
    private String id = "application-1";
    private String name = "web";
    private Map<String, String> metadata = new HashMap<>();

    public ZookeeperInstance() {
        metadata.put("instance_status", "UP");
        metadata.put("version", "spring");
    }

    public String getId() {
        return id;
    }

    public void setId(String id) {
        this.id = id;
    }

    public String getName() {
        return name;
    }

    public void setName(String name) {
        this.name = name;
    }

    public Map<String, String> getMetadata() {
        return metadata;
    }

    public void setMetadata(Map<String, String> metadata) {
        this.metadata = metadata;
    }

    @Override
    public String toString() {
        return "spring" + new TreeMap<>(metadata);
    }
}
