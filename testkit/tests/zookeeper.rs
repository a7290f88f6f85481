//! The servers themselves.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use tidings_testkit::zookeeper::{Ensemble, Options};

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn a_server_is_paused_killed_and_loses_its_data() {
        let mut ensemble = Ensemble::start(Options::default()).await.unwrap();
        assert!(ensemble.ask(0, "srvr").await.unwrap().contains("Mode: standalone"));
        ensemble.pause(0).unwrap();
        assert!(ensemble.ask(0, "srvr").await.is_err());
        ensemble.resume(0).unwrap();
        assert!(ensemble.ask(0, "srvr").await.is_ok());
        ensemble.kill(0);
        assert!(ensemble.ask(0, "srvr").await.is_err());
        ensemble.lose_data().unwrap();
        ensemble.restart(0).await.unwrap();
        assert!(ensemble.ask(0, "srvr").await.is_ok());
    }

    async fn three_servers_have_a_leader_that_can_be_killed() {
        let mut ensemble = Ensemble::start(Options::default().members(3)).await.unwrap();
        let leader = ensemble.leader().await.unwrap();
        ensemble.kill(leader);
        ensemble.restart(leader).await.unwrap();
        ensemble.leader().await.unwrap();
    }
}
