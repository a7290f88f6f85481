//! A fleet of real processes that moves from one backend to another, while others look it up all
//! the time: nobody is missed, and nobody is found who has ended.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod fleet;
mod member;
mod record;

use std::time::Duration;

use tidings::Phase;
use tidings_testkit::etcd::{Cluster, Options};

use self::fleet::{Ends, Fleet};

const THERE: [Phase; 4] = [
    Phase::BothReadOld,
    Phase::BothReadMerged,
    Phase::BothReadNew,
    Phase::New,
];
const BACK: [Phase; 4] = [
    Phase::BothReadNew,
    Phase::BothReadMerged,
    Phase::BothReadOld,
    Phase::Old,
];

/// What each process of the fleet runs; see [`member`].
#[test]
#[ignore = "it is run by the other tests, as a process of its own"]
fn one_member_of_the_fleet() {
    member::run();
}

tidings_testkit::server_tests! { etcd_3_4:
    async fn gossip_to_etcd_at_run_time() {
        move_at_run_time(&THERE).await;
    }

    async fn gossip_to_etcd_and_back_at_run_time() {
        move_at_run_time(&[THERE, BACK].concat()).await;
    }

    async fn gossip_to_etcd_by_rolling_restarts() {
        let etcd = Cluster::start(Options::default()).await.unwrap();
        let mut fleet = Fleet::new(Ends::gossip_to_etcd(&etcd));
        fleet.start(12, 4, Phase::Old).await;
        for phase in THERE {
            fleet.roll(phase).await;
        }
        fleet.end().await.expect_nobody_missed();
    }

    async fn gossip_to_etcd_with_etcd_down_in_every_phase() {
        let mut etcd = Cluster::start(Options::default()).await.unwrap();
        let mut fleet = Fleet::new(Ends::gossip_to_etcd(&etcd));
        fleet.start(12, 4, Phase::Old).await;
        for phase in THERE.into_iter().take(3) {
            fleet.set_phase(phase).await;
            etcd.kill_all();
            tokio::time::sleep(Duration::from_secs(10)).await;
            etcd.restart_all().await.unwrap();
        }
        fleet.end().await.expect_nobody_missed();
    }

    async fn a_process_that_never_upgrades_holds_the_gate() {
        let etcd = Cluster::start(Options::default()).await.unwrap();
        let mut fleet = Fleet::new(Ends::gossip_to_etcd(&etcd));
        fleet.start(3, 1, Phase::Old).await;
        let plain = fleet.start_plain().await;
        for phase in [Phase::BothReadOld, Phase::BothReadMerged] {
            fleet.set_phase(phase).await;
        }
        let reasons = fleet.refused(Phase::BothReadNew).await;
        assert!(reasons.contains(&format!("web/{plain} is not on the new side")), "{reasons}");
        fleet.end().await.expect_nobody_missed();
    }
}

/// Goes through phases under a hundred changes a second, with a crash in each.
async fn move_at_run_time(phases: &[Phase]) {
    let etcd = Cluster::start(Options::default()).await.unwrap();
    let mut fleet = Fleet::new(Ends::gossip_to_etcd(&etcd));
    fleet.changes = Some(Duration::from_millis(120));
    fleet.start(12, 4, Phase::Old).await;
    for phase in phases {
        fleet.set_phase(*phase).await;
        fleet.crash_one().await;
        fleet.restart_one(*phase).await;
    }
    fleet.end().await.expect_nobody_missed();
}
