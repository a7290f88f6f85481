import java.io.File;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeSet;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryOneTime;
import org.apache.curator.x.discovery.ServiceCache;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.ServiceProvider;

/**
 * Registers an instance of its own, prints all it sees whenever that changes, and leaves when it
 * is asked to by a file.
 *
 * Arguments: connect string, base path, payload (void, map or spring), the file.
 */
public class Beside {
    public static void main(String[] arguments) throws Exception {
        switch (arguments[2]) {
            case "void":
                run(arguments, Void.class, null);
                break;
            case "map":
                Map<String, Object> metadata = new LinkedHashMap<>();
                metadata.put("version", "java");
                run(arguments, Object.class, metadata);
                break;
            default:
                SpringLike.run(arguments);
        }
    }

    static <T> void run(String[] arguments, Class<T> payloadClass, T payload) throws Exception {
        CuratorFramework client =
            CuratorFrameworkFactory.newClient(arguments[0], 10_000, 5_000, new RetryOneTime(100));
        client.start();
        ServiceDiscovery<T> discovery = ServiceDiscoveryBuilder.builder(payloadClass)
            .client(client).basePath(arguments[1]).watchInstances(true).build();
        discovery.start();
        ServiceInstance<T> self = ServiceInstance.<T>builder()
            .name("web").id("java-1").address("192.0.2.9").port(9090).payload(payload).build();
        discovery.registerService(self);
        ServiceCache<T> cache = discovery.serviceCacheBuilder().name("web").build();
        cache.start();
        ServiceProvider<T> provider = discovery.serviceProviderBuilder().serviceName("web").build();
        provider.start();

        String last = "";
        while (!new File(arguments[3]).exists()) {
            String asked = show(discovery.queryForInstances("web"));
            String cached = show(cache.getInstances());
            TreeSet<String> chosen = new TreeSet<>();
            for (ServiceInstance<T> instance : provider.getAllInstances()) {
                chosen.add(instance.getId());
            }
            String now = "asked" + asked + "\ncached" + cached + "\nchosen" + chosen
                + "\nnames" + new TreeSet<>(discovery.queryForNames());
            if (!now.equals(last)) {
                System.out.println(now);
                System.out.println("----");
                last = now;
            }
            Thread.sleep(50);
        }
        provider.close();
        cache.close();
        discovery.unregisterService(self);
        discovery.close();
        client.close();
        System.out.println("left");
    }

    static <T> String show(Iterable<ServiceInstance<T>> instances) {
        TreeSet<String> shown = new TreeSet<>();
        for (ServiceInstance<T> instance : instances) {
            shown.add(instance.getId() + " " + instance.buildUriSpec() + " " + instance.getPayload()
                + (instance.isEnabled() ? "" : " disabled"));
        }
        return shown.toString();
    }
}

/** A stand-in for Spring Cloud's payload class, which is looked up by its name. */
class SpringLike {
    static void run(String[] arguments) throws Exception {
        Class<?> type =
            Class.forName("org.springframework.cloud.zookeeper.discovery.ZookeeperInstance");
        run(arguments, type);
    }

    private static <T> void run(String[] arguments, Class<T> type) throws Exception {
        Beside.run(arguments, type, type.getDeclaredConstructor().newInstance());
    }
}
