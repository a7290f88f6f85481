//! Beside etcd's official client for Go: its gRPC resolver finds our instances, and we find what its
//! naming package registers.
//!
//! Debian's package is of etcd 3.4, into which the naming package of 3.5 was taken back; both read
//! and write the same.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;

use std::fs;
use std::path::Path;

use support::{Seen, config, eventually, web};
use tidings_api::{Discovery, Instance, Removal};
use tidings_etcd::EtcdDiscovery;
use tidings_testkit::etcd::{Cluster, Options};
use tidings_testkit::go::Program;

tidings_testkit::server_tests! { go_naming:
    async fn the_official_resolver_finds_us_and_we_find_its_endpoints() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        let ours = EtcdDiscovery::start(config(&cluster)).await.unwrap();
        let seen = Seen::by(&ours).await;
        ours.register(web("rust-1", 1)).await.unwrap();
        // Not to be found: its name only starts the same.
        ours.register(Instance::new("web-2", "192.0.2.2:2").unwrap()).await.unwrap();

        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/beside.go");
        let program = Program::build(&source).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let leave = program.folder().join("leave");
        let server = cluster.addresses()[0].to_string();
        let arguments = [&*server, "tidings/web", leave.to_str().unwrap()];
        let _running = program.start(&arguments, log.path()).unwrap();
        let view = seen.wait("go's endpoint is there", |view| view.len() == 2).await;
        let go = view.iter().find(|found| found.id().as_str() == "go-1").unwrap();
        assert_eq!(go.address().to_string(), "192.0.2.9:9090");
        assert_eq!(go.metadata()["version"], "go");
        let (own, other) = ("192.0.2.1:8080 map[n:1]", "192.0.2.9:9090 map[version:go]");
        prints(log.path(), &format!("resolved [{own}, {other}]")).await;

        fs::write(&leave, "").unwrap();
        seen.wait("go's endpoint has gone", |view| view.len() == 1).await;
        assert!(seen.view().is_live());
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(!text.contains("192.0.2.2"), "{text}");
        let key = support::key("rust-1");
        assert_eq!(ours.deregister(&key).await.unwrap(), Removal::Removed);
        prints(log.path(), "resolved []").await;
    }
}

/// Waits until this is what the program has printed last.
async fn prints(log: &Path, line: &str) {
    let what = format!("the last line is {line:?}");
    eventually(&what, || {
        let text = fs::read_to_string(log).unwrap();
        text.lines().last() == Some(line)
    })
    .await;
}
