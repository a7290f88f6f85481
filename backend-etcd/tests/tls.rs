//! TLS and users: who gets in, and what those see who don't.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]

mod support;

use std::time::Duration;

use support::{Seen, config, eventually, is_registered, web};
use tidings_api::{Connection, Discovery};
use tidings_etcd::{EtcdConfig, EtcdDiscovery};
use tidings_testkit::etcd::{Cluster, Options, ROOT, Transport};

tidings_testkit::server_tests! { etcd_3_4:
    async fn tls_with_the_servers_certificate() {
        let cluster = start(Transport::Tls).await;
        let etcd = EtcdDiscovery::start(tls_config(&cluster, false)).await.unwrap();
        etcd.register(web("a", 1)).await.unwrap();
        is_registered(&etcd, "a").await;
        Seen::by(&etcd).await.shows(&[("a", 1)]).await;
    }

    async fn mutual_tls_with_users() {
        let cluster = start(Transport::MutualTls).await;
        let etcd = EtcdDiscovery::start(tls_config(&cluster, true)).await.unwrap();
        etcd.register(web("a", 1)).await.unwrap();
        is_registered(&etcd, "a").await;
        Seen::by(&etcd).await.shows(&[("a", 1)]).await;
        etcd.close().await.unwrap();
    }

    async fn without_the_clients_certificate_nothing_is_heard() {
        let cluster = start(Transport::MutualTls).await;
        let etcd = EtcdDiscovery::start(tls_config(&cluster, false)).await.unwrap();
        is_not_heard(&etcd).await;
    }

    async fn an_unknown_authority_is_not_trusted() {
        let cluster = start(Transport::Tls).await;
        let other = start(Transport::Tls).await;
        let mut config = tls_config(&cluster, false);
        config.ca_file = Some(other.certificates().unwrap().ca());
        let etcd = EtcdDiscovery::start(config).await.unwrap();
        is_not_heard(&etcd).await;
    }

    async fn a_wrong_password_is_told_without_showing_it() {
        let cluster = start(Transport::Tls).await;
        let mut config = tls_config(&cluster, false);
        config.password = Some("hunter2".into());
        let etcd = EtcdDiscovery::start(config).await.unwrap();
        is_not_heard(&etcd).await;
        etcd.register(web("a", 1)).await.unwrap();
        let status = format!("{:?}", etcd.status());
        assert!(status.contains("authentication failed"), "{status}");
        assert!(!status.contains("hunter2"), "{status}");
    }
}

async fn start(transport: Transport) -> Cluster {
    let options = Options {
        transport,
        users: true,
        ..Options::default()
    };
    Cluster::start(options).await.unwrap()
}

fn tls_config(cluster: &Cluster, with_certificate: bool) -> EtcdConfig {
    let certificates = cluster.certificates().unwrap();
    let mut config = config(cluster);
    config.tls = true;
    config.timeout = Duration::from_secs(3);
    config.ca_file = Some(certificates.ca());
    config.user = Some(ROOT.0.into());
    config.password = Some(ROOT.1.into());
    if with_certificate {
        let (certificate, key) = certificates.client();
        config.cert_file = Some(certificate);
        config.key_file = Some(key);
    }
    config
}

/// Waits until the handle says that no endpoint lets it in.
async fn is_not_heard(etcd: &EtcdDiscovery) {
    eventually("it says that etcd is not heard", || {
        let status = etcd.status();
        let connection = status.connection();
        matches!(connection, Connection::Disconnected { reason, .. } if !reason.contains("yet"))
    })
    .await;
}
