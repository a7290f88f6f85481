//! A handle at an agent that answers as it is told, where a real one can't be made to.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::scripted::{Answer, Request, ScriptedAgent};
use support::*;
use tidings_api::{Discovery, DiscoveryExt, Health, View};
use tidings_consul::ConsulDiscovery;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

const REGISTER: &str = "PUT /v1/agent/service/register";
const WEB: &str = "GET /v1/health/service/web";
const BEAT: &str = "GET /v1/health/node/-";

#[tokio::test]
async fn what_was_accepted_isnt_dropped_when_a_later_try_is_refused() {
    let tries = Arc::new(AtomicUsize::new(0));
    let agent = ScriptedAgent::start(move |request| {
        let tries = tries.clone();
        async move {
            if request.what != REGISTER {
                return Answer::nothing(&request).await;
            }
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => Answer::no(500),
                1 => Answer::no(403),
                _ => Answer::nothing(&request).await,
            }
        }
    })
    .await;
    let consul = ConsulDiscovery::start(quick(agent.address()))
        .await
        .unwrap();
    let key = consul.register(web("a")).await.unwrap();
    is_registered(&consul, &key).await;
    consul.health(&key, Health::draining()).await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_in_an_outage_isnt_dropped_when_the_first_try_is_refused() {
    let tries = Arc::new(AtomicUsize::new(0));
    let (silent, refusing) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let script = (tries.clone(), silent.clone(), refusing.clone());
    let agent = ScriptedAgent::start(move |request| {
        let (tries, silent, refusing) = script.clone();
        async move {
            if request.what != REGISTER {
                return match silent.load(Ordering::SeqCst) {
                    true => Answer::no(500),
                    false => Answer::nothing(&request).await,
                };
            }
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    refusing.notified().await;
                    Answer::no(403)
                }
                _ => Answer::nothing(&request).await,
            }
        }
    })
    .await;
    let consul = ConsulDiscovery::start(quick(agent.address()))
        .await
        .unwrap();
    let outage = async {
        until("the first try", || tries.load(Ordering::SeqCst) == 1).await;
        silent.store(true, Ordering::SeqCst);
    };
    let (key, ()) = tokio::join!(consul.register(web("a")), outage);
    refusing.notify_one();
    silent.store(false, Ordering::SeqCst);
    is_registered(&consul, &key.unwrap()).await;
}

/// An agent since Consul 1.10, which answers queries that wait from its own copy of a service, unless
/// they want its nodes in order of distance; and how many wait.
struct Streaming {
    agent: ScriptedAgent,
    web: watch::Sender<(u64, Value)>,
    waiting: Arc<AtomicUsize>,
}

impl Streaming {
    async fn start(found: Value) -> Self {
        let (web, waiting) = (
            watch::Sender::new((1, found)),
            Arc::<AtomicUsize>::default(),
        );
        let script = (web.clone(), waiting.clone());
        let agent = ScriptedAgent::start(move |request| {
            let (web, waiting) = script.clone();
            async move {
                if request.what != WEB {
                    return Answer::nothing(&request).await;
                }
                waiting.fetch_add(usize::from(request.index() > 0), Ordering::SeqCst);
                Self::answer(&request, web.subscribe()).await
            }
        })
        .await;
        Self {
            agent,
            web,
            waiting,
        }
    }

    async fn answer(request: &Request, mut web: watch::Receiver<(u64, Value)>) -> Answer {
        let after = request.index();
        let _ = timeout(request.wait(), web.wait_for(|(index, _)| *index > after)).await;
        let (index, found) = web.borrow().clone();
        let answer = Answer::catalog(index, &found);
        match after > 0 && request.parameter("near").is_empty() {
            true => answer.leaderless(),
            false => answer,
        }
    }

    /// Has the catalog change while `queries` wait for it.
    async fn change(&self, queries: usize, found: Value) {
        until("as many queries wait", || {
            self.waiting.load(Ordering::SeqCst) >= queries
        })
        .await;
        self.web.send_modify(|(index, now)| {
            *index += 1;
            *now = found;
        });
    }
}

#[tokio::test]
async fn a_watch_goes_on_where_the_agent_keeps_a_copy() {
    let noted = |id: &str| {
        json!({"Node": {"Node": "n", "Address": "192.0.2.9"},
               "Service": {"ID": id, "Service": "web", "Port": 80}})
    };
    let streaming = Streaming::start(json!([noted("a")])).await;
    let consul = ConsulDiscovery::start(quick(streaming.agent.address()))
        .await
        .unwrap();
    let mut watch = consul.watch_service("web").await.unwrap();
    seen(&mut watch, "a", |view| view.is_live() && ids(view) == "n:a").await;
    streaming.change(1, json!([noted("b"), noted("a")])).await;
    seen(&mut watch, "b", |view| {
        view.is_live() && ids(view) == "n:a n:b"
    })
    .await;
}

#[tokio::test]
async fn an_owner_learns_of_a_newer_one_where_the_agent_keeps_a_copy() {
    let newer = json!({"tidings": 1, "revision": 1, "health": {"state": "passing"}});
    let id = format!("web:a:{}", u64::MAX / 2);
    let newer = json!({
        "Node": {"Node": "n", "Address": "192.0.2.9"},
        "Service": {"ID": id, "Service": "web", "Address": "192.0.2.9", "Port": 80},
        "Checks": [{"CheckID": format!("{id}:alive"), "Status": "passing",
                    "Notes": newer.to_string()}],
    });
    let streaming = Streaming::start(json!([])).await;
    let consul = ConsulDiscovery::start(quick(streaming.agent.address()))
        .await
        .unwrap();
    let key = consul.register(web("a")).await.unwrap();
    streaming.change(1, json!([newer])).await;
    until("it has learnt it", || {
        registration(&consul, &key).is_superseded()
    })
    .await;
}

#[tokio::test]
async fn queries_that_an_outage_has_left_behind_stay_few() {
    const SERVICES: usize = 60;
    let silent = Arc::<AtomicBool>::default();
    let waiting = Arc::<AtomicUsize>::default();
    let script = (silent.clone(), waiting.clone());
    let agent = ScriptedAgent::start(move |request| {
        let (silent, waiting) = script.clone();
        async move {
            if request.what == BEAT && silent.load(Ordering::SeqCst) {
                return Answer::no(500);
            }
            let waits = usize::from(request.index() > 0);
            waiting.fetch_add(waits, Ordering::SeqCst);
            let answer = Answer::nothing(&request).await;
            waiting.fetch_sub(waits, Ordering::SeqCst);
            answer
        }
    })
    .await;
    let mut config = quick(agent.address());
    config.loss_hold = Duration::from_secs(1);
    let hold = config.loss_hold;
    let consul = ConsulDiscovery::start(config).await.unwrap();
    let mut watches = Vec::new();
    for number in 0..SERVICES {
        let watch = consul.watch_service(&format!("web-{number}")).await;
        watches.push(watch.unwrap());
    }
    let waiting = || waiting.load(Ordering::SeqCst);
    until("all wait", || waiting() == SERVICES).await;
    silent.store(true, Ordering::SeqCst);
    for watch in &mut watches {
        seen(watch, "it is stale", |view| !view.is_live()).await;
    }
    silent.store(false, Ordering::SeqCst);
    for watch in &mut watches {
        seen(watch, "it is live", View::is_live).await;
    }
    let live = Instant::now();
    until("all wait again", || waiting() >= 2 * SERVICES).await;
    until("losses aren't held any more", || live.elapsed() > hold * 3).await;
    assert!(waiting() < 2 * SERVICES + 10, "{} wait", waiting());
}
