//! HTTPS to an agent that asks for client certificates.
#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

mod support;

use support::*;
use tidings_api::{Discovery, DiscoveryExt};
use tidings_consul::ConsulDiscovery;
use tidings_testkit::consul::{Agent, Options, Role};

tidings_testkit::server_tests! { consul:
    async fn tls_with_client_certificates() {
        let agent = Agent::start(Options::new(Role::Dev).tls()).await.unwrap();
        let certificates = agent.certificates().unwrap();
        let mut config = quick(agent.https());
        config.ca_file = Some(certificates.ca());
        let without = ConsulDiscovery::start(config.clone()).await.unwrap();
        assert!(!without.status().connection().is_connected(), "no client certificate was asked for");
        let (certificate, key) = certificates.client();
        (config.cert_file, config.key_file) = (Some(certificate), Some(key));
        let consul = ConsulDiscovery::start(config).await.unwrap();
        consul.register(web("a")).await.unwrap();
        assert_eq!(ids(&consul.resolve("web").await.unwrap()), "a");
        let mut plain = quick(agent.https());
        plain.tls_server_name = Some("elsewhere.internal".into());
        plain.ca_file = Some(agent.certificates().unwrap().ca());
        let other = ConsulDiscovery::start(plain).await.unwrap();
        assert!(!other.status().connection().is_connected(), "any server is trusted");
    }
}
