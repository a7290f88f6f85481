//! The agents themselves.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use tidings_testkit::consul::{Agent, Options, Role};

tidings_testkit::server_tests! { consul:
    async fn data_survives_a_restart_and_can_be_lost() {
        let mut agent = Agent::start(Options::new(Role::Server)).await.unwrap();
        agent.call("PUT", "/v1/kv/k", "v").await.unwrap();
        agent.kill();
        assert!(agent.call("GET", "/v1/kv/k?raw", "").await.is_err());
        agent.restart().await.unwrap();
        assert_eq!(agent.call("GET", "/v1/kv/k?raw", "").await.unwrap(), "v");
        agent.lose_data().unwrap();
        agent.restart().await.unwrap();
        let lost = agent.call("GET", "/v1/kv/k?raw", "").await.unwrap_err().to_string();
        assert!(lost.contains("404"), "{lost}");
    }

    async fn a_client_agent_finds_its_server_and_acls_are_asked_for() {
        let server = Agent::start(Options::new(Role::Server).acl("deny")).await.unwrap();
        let options = Options::new(Role::Client(server.serf())).acl("deny");
        let client = Agent::start(options).await.unwrap();
        client.call("PUT", "/v1/kv/k", "v").await.unwrap();
        assert_eq!(server.call("GET", "/v1/kv/k?raw", "").await.unwrap(), "v");
    }
}
