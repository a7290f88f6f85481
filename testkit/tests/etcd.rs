//! The servers themselves.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use tidings_testkit::etcd::{Cluster, Options, Transport};

tidings_testkit::server_tests! { etcd_3_4:
    async fn data_survives_a_restart_and_can_be_lost() {
        let mut cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.ctl(&["put", "k", "v"]).unwrap();
        cluster.kill(0);
        assert!(cluster.ctl(&["--command-timeout=300ms", "get", "k"]).is_err());
        cluster.restart(0).await.unwrap();
        assert_eq!(cluster.ctl(&["get", "k"]).unwrap(), "k\nv\n");
        cluster.lose_data().unwrap();
        cluster.restart_all().await.unwrap();
        assert_eq!(cluster.ctl(&["get", "k"]).unwrap(), "");
    }

    async fn three_members_have_a_leader_that_can_be_killed() {
        let mut cluster = Cluster::start(Options::default().members(3)).await.unwrap();
        let leader = cluster.leader().unwrap();
        cluster.kill(leader);
        let mut tries = 0;
        while cluster.ctl(&["--command-timeout=1s", "put", "k", "v"]).is_err() {
            tries += 1;
            assert!(tries < 30, "no leader after {tries} tries");
        }
        cluster.restart(leader).await.unwrap();
    }

    async fn tls_and_users_are_asked_for() {
        let options = Options {
            transport: Transport::MutualTls,
            users: true,
            ..Options::default()
        };
        let cluster = Cluster::start(options).await.unwrap();
        cluster.ctl(&["put", "k", "v"]).unwrap();
        assert!(cluster.ctl(&["--user", "nobody:x", "put", "k", "v"]).is_err());
    }
}
