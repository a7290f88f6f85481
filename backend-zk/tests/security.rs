//! TLS, credentials and access lists.
#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod support;

#[cfg(any(feature = "tls", feature = "sasl"))]
use std::time::Duration;

use tidings_api::{Discovery, DiscoveryExt, ErrorKind, Instance};
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::{ZkConfig, ZkDiscovery};

use self::support::{config, eventually};

const NAMESPACE: &str = "services";

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn what_a_user_registers_nobody_else_can_write() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut owners = config(&ensemble.addresses(), NAMESPACE);
        owners.user = Some("me".into());
        owners.password = Some("secret".into());
        owners.acl = vec!["auth::cdrwa".into(), "world:anyone:r".into()];
        let [owner, colleague] = [start(&owners).await, start(&owners).await];
        let key = owner.register(web("a")).await.unwrap();
        colleague.register(web("b")).await.unwrap();
        let removal = colleague.deregister(&web("b").key().clone()).await.unwrap();
        assert_eq!(removal, tidings_api::Removal::Removed);

        // Others may look.
        let stranger = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        let view = stranger.resolve("web").await.unwrap();
        assert!(view.is_live() && view.len() == 1);
        for id in ["a", "new"] {
            let error = stranger.register(web(id)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        }
        assert!(stranger.status().registrations().is_empty());
        let client = support::raw(&ensemble.addresses()).await;
        let path = support::path(NAMESPACE, &key);
        let denied = client.delete(&path, None).await.unwrap_err();
        assert_eq!(denied, zookeeper_client::Error::NoAuth);

        // A wrong password is somebody else.
        owners.password = Some("wrong".into());
        let error = start(&owners).await.register(web("new")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    }

    async fn what_may_not_be_read_is_denied() {
        let ensemble = Ensemble::start(Options::default()).await.unwrap();
        let mut owners = config(&ensemble.addresses(), NAMESPACE);
        owners.user = Some("me".into());
        owners.password = Some("secret".into());
        owners.acl = vec!["auth::cdrwa".into()];
        let owner = start(&owners).await;
        owner.register(web("a")).await.unwrap();
        let stranger = start(&config(&ensemble.addresses(), NAMESPACE)).await;
        let error = stranger.watch_service("web").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        eventually("nothing is left of the watch", async || stranger.subscriptions() == 0).await;
        assert_eq!(owner.resolve("web").await.unwrap().len(), 1);
    }
}

#[cfg(feature = "tls")]
tidings_testkit::server_tests! { zookeeper_3_8:
    async fn over_tls() {
        let options = Options {
            tls: true,
            ..Options::default()
        };
        let mut ensemble = Ensemble::start(options).await.unwrap();
        let certificates = ensemble.certificates().unwrap();
        let text = |path: std::path::PathBuf| path.display().to_string();
        let (certificate, key) = certificates.client();
        let mut tls = config(&ensemble.addresses(), NAMESPACE);
        tls.tls = true;
        tls.ca_file = Some(text(certificates.ca()));
        let mut unknown = tls.clone();
        tls.cert_file = Some(text(certificate));
        tls.key_file = Some(text(key));
        let [a, b] = [start(&tls).await, start(&tls).await];
        let key = a.register(web("a")).await.unwrap();
        let mut seen = b.watch_service("web").await.unwrap();
        assert_eq!(seen.view().len(), 1);

        // The server wants a certificate, and so does the client.
        unknown.connect_wait = Duration::from_millis(500);
        let refused = ZkDiscovery::start(unknown).await.unwrap();
        assert!(!refused.status().connection().is_connected());
        let mut plain = config(&ensemble.addresses(), NAMESPACE);
        plain.connect_wait = Duration::from_millis(500);
        let refused = ZkDiscovery::start(plain).await.unwrap();
        assert!(!refused.status().connection().is_connected());

        ensemble.kill(0);
        ensemble.restart(0).await.unwrap();
        let back = seen.wait_until(|view| view.is_live() && view.get(&key).is_some());
        tokio::time::timeout(Duration::from_secs(60), back).await.unwrap().unwrap();
    }
}

#[cfg(feature = "sasl")]
tidings_testkit::server_tests! { zookeeper_3_8:
    async fn with_sasl() {
        use tidings_testkit::zookeeper::SASL_USER;

        let options = Options {
            sasl: true,
            lines: vec!["sessionRequireClientSASLAuth=true".into()],
            ..Options::default()
        };
        let ensemble = Ensemble::start(options).await.unwrap();
        let mut sasl = config(&ensemble.addresses(), NAMESPACE);
        sasl.user = Some(SASL_USER.0.into());
        sasl.password = Some(SASL_USER.1.into());
        sasl.auth = tidings_zk::Auth::Sasl;
        sasl.acl = vec![format!("sasl:{}:cdrwa", SASL_USER.0)];
        let owner = start(&sasl).await;
        owner.register(web("a")).await.unwrap();
        assert_eq!(start(&sasl).await.resolve("web").await.unwrap().len(), 1);

        sasl.password = Some("wrong".into());
        sasl.connect_wait = Duration::from_millis(500);
        let refused = ZkDiscovery::start(sasl).await.unwrap();
        let view = refused.resolve("web").await.unwrap();
        assert!(view.is_empty() && !view.is_live(), "{view:?}");
    }
}

async fn start(config: &ZkConfig) -> ZkDiscovery {
    let handle = ZkDiscovery::start(config.clone()).await.unwrap();
    assert!(
        handle.status().connection().is_connected(),
        "{:?}",
        handle.status()
    );
    handle
}

fn web(id: &str) -> Instance {
    Instance::new("web", "192.0.2.1:8080")
        .unwrap()
        .with_id(id)
        .unwrap()
}
