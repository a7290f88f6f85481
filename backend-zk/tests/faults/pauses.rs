//! Servers and clients that hang, and come back after their sessions have ended.

use std::path::Path;
use std::time::Duration;

use tidings_api::{Discovery, DiscoveryExt, Health};
use tidings_testkit::process::Process;
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::{ZkConfig, ZkDiscovery};

use crate::recorder::{Recorder, is_registered, is_sick, key, number, register_sick, web};
use crate::support::{SESSION_TIMEOUT, config, path, raw};

const NAMESPACE: &str = "services";
/// How often a server is stopped for the sessions to end: nearly always they do the first time.
const PAUSES_MAX: u32 = 5;
/// Names the servers for the process that [`client_process`] is.
const HOSTS_VARIABLE: &str = "TIDINGS_ZK_TEST_HOSTS";

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn server_stopped_past_the_session_timeout() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let config = config(&ensemble.addresses(), NAMESPACE);
        let a = ZkDiscovery::start(config.clone()).await.unwrap();
        let b = ZkDiscovery::start(config).await.unwrap();
        register_sick(&a, "a", 1).await;
        register_sick(&b, "b", 1).await;
        b.register(web("gone", 1)).await.unwrap();
        let seen = [Recorder::start(&a, "web").await, Recorder::start(&b, "web").await];
        for recorder in &seen {
            recorder.until("all three", |view| view.len() == 3).await;
            recorder.restart();
        }
        let client = raw(&ensemble.addresses()).await;
        let path = path(NAMESPACE, &key("b"));
        let before = client.check_stat(&path).await.unwrap().unwrap().ephemeral_owner;

        // A server that goes on may hear its clients before it looks which sessions have ended. Then they live
        // on, and it is stopped once more.
        for pause in 1.. {
            ensemble.pause(0).unwrap();
            let stopped = tokio::time::Instant::now();
            for recorder in &seen {
                recorder.until_stale().await;
            }
            a.register(web("a", 1 + pause)).await.unwrap();
            b.deregister(&key("gone")).await.unwrap();
            // A time that has to pass, not one in which something is hoped to happen.
            tokio::time::sleep_until(stopped + SESSION_TIMEOUT.mul_f32(2.0)).await;
            a.health(&key("a"), Health::critical("newest")).await.unwrap();
            ensemble.resume(0).unwrap();

            for recorder in &seen {
                recorder.until_live().await;
                recorder.until_number("a", 1 + pause).await;
                recorder.until("gone is gone", |view| view.len() == 2).await;
            }
            is_registered(&a, "a").await;
            is_registered(&b, "b").await;
            let client = raw(&ensemble.addresses()).await;
            let after = client.check_stat(&path).await.unwrap().unwrap().ephemeral_owner;
            if after != before {
                break;
            }
            assert!(pause < PAUSES_MAX, "the sessions did not end");
        }
        for recorder in &seen {
            let view = recorder.view();
            assert_eq!(recorder.changes_of("b"), "", "b never went away");
            assert!(!recorder.changes_of("a").contains(['+', '-']), "nor did a");
            assert_eq!(recorder.changes_of("gone"), "-");
            assert_eq!(view.get(&key("a")).unwrap().health(), &Health::critical("newest"));
            assert!(is_sick(&view, "b"));
        }
    }

    async fn client_stopped_past_the_session_timeout() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let watcher = ZkDiscovery::start(config(&ensemble.addresses(), NAMESPACE)).await.unwrap();
        watcher.register(web("other", 1)).await.unwrap();
        let seen = Recorder::start(&watcher, "web").await;
        let log = tempfile::NamedTempFile::new().unwrap();
        let variable = format!("{HOSTS_VARIABLE}={}", ensemble.addresses()[0]);
        let program = std::env::current_exe().unwrap().display().to_string();
        let arguments = [
            &*variable, &program, "--exact", "pauses::client_process", "--ignored", "--nocapture",
        ]
        .map(String::from);
        let client = Process::start(Path::new("/usr/bin/env"), &arguments, log.path()).unwrap();
        seen.until("the client counts", |view| number(view, "client") > Some(3)).await;
        seen.restart();

        client.pause().unwrap();
        let before = number(&seen.view(), "client");
        seen.until("the session has ended", |view| number(view, "client").is_none()).await;
        client.resume().unwrap();
        seen.until("the client counts on", |view| number(view, "client") > before).await;
        seen.until("and on", |view| number(view, "client") > before.map(|n| n + 3)).await;
        let changes = seen.changes_of("client").replace('~', "");
        assert_eq!((changes, seen.changes_of("other")), ("-+".into(), "".into()));
        assert!(seen.view().is_live() && is_sick(&seen.view(), "client"));
    }
}

/// What the test above runs as a process of its own: registers an instance and counts in it.
#[test]
#[ignore = "not a test, but a process that one starts"]
fn client_process() {
    let Ok(hosts) = std::env::var(HOSTS_VARIABLE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut config: ZkConfig = config(&[], NAMESPACE);
        config.hosts = vec![hosts];
        let discovery = ZkDiscovery::start(config).await.unwrap();
        for number in 0.. {
            discovery.register(web("client", number)).await.unwrap();
            let sick = Health::warning("sick");
            discovery.health(&key("client"), sick).await.unwrap();
            let mut own = discovery.watch_service("web").await.unwrap();
            let counted =
                |view: &tidings_api::View| crate::recorder::number(view, "client") == Some(number);
            own.wait_until(counted).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}
