//! A handle at an agent that answers as it is told, where a real one can't be made to.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has to end its test, as an unwrap in the test does"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::scripted::{Answer, ScriptedAgent};
use support::*;
use tidings_api::{Discovery, Health};
use tidings_consul::ConsulDiscovery;
use tokio::sync::Notify;

const REGISTER: &str = "PUT /v1/agent/service/register";

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
