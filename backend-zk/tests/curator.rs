//! Beside real Apache Curator: we see its services and it sees ours.
#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tidings_api::{Discovery, DiscoveryExt, Health, Instance, InstanceKey, Watch};
use tidings_testkit::process::Process;
use tidings_testkit::zookeeper::{Curator, Ensemble, Options};
use tidings_zk::{Payload, ZkDiscovery};

use self::support::config;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

tidings_testkit::server_tests! { curator:
    async fn clients_without_payload_see_us_and_we_them() {
        let mut beside = Beside::start(Payload::None, "void").await;
        beside.java_is_seen(&[]).await;
        let key = beside.register().await;
        beside.java_sees("asked", "rust-1 http://192.0.2.1:8080 null").await;
        beside.java_sees("cached", "rust-1 http://192.0.2.1:8080 null").await;
        beside.java_sees("chosen", "[java-1, rust-1]").await;
        beside.java_sees("names", "[web]").await;

        // Curator's providers leave out what should get nothing.
        beside.rust.health(&key, Health::draining()).await.unwrap();
        beside.java_sees("chosen", "[java-1]").await;
        beside.java_sees("asked", "rust-1 http://192.0.2.1:8080 null disabled").await;
        beside.rust.health(&key, Health::passing()).await.unwrap();
        beside.java_sees("chosen", "[java-1, rust-1]").await;
        beside.part(&key).await;
    }

    async fn clients_with_a_map_as_payload_see_the_metadata() {
        let mut beside = Beside::start(Payload::Map, "map").await;
        beside.java_is_seen(&[("version", "java")]).await;
        let key = beside.register().await;
        beside.java_sees("asked", "rust-1 http://192.0.2.1:8080 {version=rust}").await;
        beside.java_sees("cached", "{version=rust}").await;
        beside.part(&key).await;
    }

    async fn spring_cloud_sees_its_own_payload() {
        let mut beside = Beside::start(Payload::Spring, "spring").await;
        beside.java_is_seen(&[("version", "spring"), ("instance_status", "UP")]).await;
        let key = beside.register().await;
        let expected = "rust-1 http://192.0.2.1:8080 spring{instance_status=UP, version=rust}";
        beside.java_sees("asked", expected).await;
        beside.rust.health(&key, Health::draining()).await.unwrap();
        beside.java_sees("cached", "spring{instance_status=OUT_OF_SERVICE, version=rust} disabled").await;
        beside.part(&key).await;
    }
}

struct Beside {
    rust: ZkDiscovery,
    web: Watch,
    java: Process,
    curator: Curator,
    log: tempfile::NamedTempFile,
    _ensemble: Ensemble,
}

impl Beside {
    async fn start(payload: Payload, class: &str) -> Self {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut config = config(&ensemble.addresses(), "prod/services");
        config.payload = payload;
        let rust = ZkDiscovery::start(config).await.unwrap();
        let web = rust.watch_service("web").await.unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/curator");
        let sources = ["ZookeeperInstance.java", "Beside.java"].map(|name| sources.join(name));
        let curator = Curator::compile(&sources).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let server = ensemble.addresses()[0].to_string();
        let leave = curator.folder().join("leave").display().to_string();
        let arguments = [&*server, "/prod/services", class, &leave];
        let java = curator.start("Beside", &arguments, log.path()).unwrap();
        Self {
            rust,
            web,
            java,
            curator,
            log,
            _ensemble: ensemble,
        }
    }

    async fn register(&self) -> InstanceKey {
        let instance = Instance::new("web", "192.0.2.1:8080")
            .and_then(|instance| instance.with_id("rust-1"))
            .and_then(|instance| instance.with_metadata("version", "rust"))
            .unwrap();
        self.rust.register(instance).await.unwrap()
    }

    async fn java_is_seen(&mut self, metadata: &[(&str, &str)]) {
        let view = self.web.wait_until(|view| !view.is_empty());
        let view = tokio::time::timeout(DEADLINE, view)
            .await
            .expect("java registers")
            .unwrap();
        let java = view.iter().next().unwrap();
        assert_eq!(java.key().to_string(), "web/java-1");
        assert_eq!(java.address().to_string(), "192.0.2.9:9090");
        assert_eq!(java.health(), &Health::passing());
        assert_eq!(java.metadata().len(), metadata.len(), "{java:?}");
        for (key, value) in metadata {
            assert_eq!(java.metadata().get(*key).map(String::as_str), Some(*value));
        }
    }

    /// Waits until the newest of Java's lines that starts with `what` has `expected` in it.
    async fn java_sees(&mut self, what: &str, expected: &str) {
        self.java_prints(what, expected, |line| sees(line, expected))
            .await;
    }

    async fn java_prints(&mut self, what: &str, name: &str, expected: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(self.log.path()).unwrap();
            let newest = log.lines().rfind(|line| line.starts_with(what));
            if newest.is_some_and(&expected) {
                return;
            }
            assert!(
                start.elapsed() < DEADLINE && self.java.is_running(),
                "{what} is never {name}: {log}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Both deregister, and each sees the other go.
    async fn part(mut self, key: &InstanceKey) {
        self.rust.deregister(key).await.unwrap();
        self.java_sees("chosen", "[java-1]").await;
        // Java asks for one after the other, and may print what it had before with what is now.
        for what in ["asked", "cached"] {
            let only_java = |line: &str| line.contains("java-1") && !line.contains("rust-1");
            self.java_prints(what, "without rust-1", only_java).await;
        }
        fs::write(self.curator.folder().join("leave"), "").unwrap();
        let gone = self
            .web
            .wait_until(|view| view.is_empty() && view.is_live());
        tokio::time::timeout(DEADLINE, gone)
            .await
            .expect("java deregisters")
            .unwrap();
        assert_eq!(self.rust.unreadable(), 0);
    }
}

/// Whether the line has one entry that is as expected, up to its end.
fn sees(line: &str, expected: &str) -> bool {
    line.match_indices(expected).any(|(at, _)| {
        matches!(
            line[at + expected.len()..].chars().next(),
            None | Some(',' | ']')
        )
    })
}
