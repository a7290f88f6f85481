//! Three servers of which one dies.

use tidings_api::Discovery;
use tidings_testkit::zookeeper::{Ensemble, Options};
use tidings_zk::ZkDiscovery;

use crate::recorder::{Recorder, eventually, is_registered, is_sick, number, register_sick, web};
use crate::support::config;

/// So many that each server has some of them.
const HANDLES: usize = 6;

tidings_testkit::server_tests! { zookeeper_3_8:
    async fn one_of_three_servers_killed() {
        let ensemble = Ensemble::start(Options::default().members(3)).await.unwrap();
        let leader = ensemble.leader().await.unwrap();
        let all = Crowd::start(&ensemble).await;
        let victim = busiest_follower(&ensemble, leader).await;
        all.outlive(ensemble, victim).await;
    }

    async fn leader_killed() {
        let ensemble = Ensemble::start(Options::default().members(3)).await.unwrap();
        let all = Crowd::start(&ensemble).await;
        let leader = ensemble.leader().await.unwrap();
        let ensemble = all.outlive(ensemble, leader).await;
        let now = ensemble.leader().await.unwrap();
        assert_ne!(now, leader, "there was no election");
    }
}

struct Crowd {
    handles: Vec<ZkDiscovery>,
    seen: Vec<Recorder>,
}

impl Crowd {
    async fn start(ensemble: &Ensemble) -> Self {
        let mut handles = Vec::new();
        for number in 0..HANDLES {
            let config = config(&ensemble.addresses(), "services");
            let handle = ZkDiscovery::start(config).await.unwrap();
            register_sick(&handle, &format!("web-{number}"), 1).await;
            handles.push(handle);
        }
        let mut seen = Vec::new();
        for handle in &handles {
            let recorder = Recorder::start(handle, "web").await;
            recorder
                .until("all", |view| view.len() == HANDLES && view.is_live())
                .await;
            recorder.restart();
            seen.push(recorder);
        }
        Self { handles, seen }
    }

    /// Kills a server, and checks that nobody is lost and all that is new arrives.
    async fn outlive(&self, mut ensemble: Ensemble, victim: usize) -> Ensemble {
        ensemble.kill(victim);
        eventually("somebody has noticed", async || {
            self.seen.iter().any(Recorder::was_stale)
        })
        .await;
        for (number, handle) in self.handles.iter().enumerate() {
            let id = format!("web-{number}");
            handle.register(web(&id, 2)).await.unwrap();
            is_registered(handle, &id).await;
        }
        for recorder in &self.seen {
            recorder
                .until("the newest of all", |view| {
                    view.is_live()
                        && (0..HANDLES).all(|n| number(view, &format!("web-{n}")) == Some(2))
                })
                .await;
            for number in 0..HANDLES {
                let id = format!("web-{number}");
                assert!(is_sick(&recorder.view(), &id));
                assert!(
                    !recorder.changes_of(&id).contains(['+', '-']),
                    "{id} flapped"
                );
            }
        }
        ensemble.restart(victim).await.unwrap();
        self.handles[0].register(web("last", 1)).await.unwrap();
        for recorder in &self.seen {
            recorder.until_number("last", 1).await;
        }
        ensemble
    }
}

/// The follower that most clients are connected to.
async fn busiest_follower(ensemble: &Ensemble, leader: usize) -> usize {
    let mut busiest = (0, 0);
    for member in (0..3).filter(|member| *member != leader) {
        let text = ensemble.ask(member, "cons").await.unwrap();
        // The question is a connection too.
        let clients = text.lines().filter(|line| line.contains("sid=")).count();
        busiest = busiest.max((clients, member));
    }
    assert!(busiest.0 > 0, "no handle is connected to a follower");
    busiest.1
}
