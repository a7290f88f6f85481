//! Fleets of real processes that move from one backend to another, while others look them up all
//! the time: nobody is missed, and nobody is found who has ended.
//!
//! ```text
//! cargo test --all-features --test migration
//! ```
//!
//! runs what takes a few minutes: five moves by rolling restarts, with a server killed for 8 s in
//! each phase, with processes that hold the gates; and one of them at run time and by itself. In the
//! long version servers stay killed for a minute, and every move is also made at run time and by
//! itself:
//!
//! ```text
//! TIDINGS_MIGRATION=long cargo test --all-features --test migration -- --include-ignored --nocapture
//! ```
//!
//! With `gossip_to_zookeeper::` behind it, one move alone.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod ends;
mod fleet;
mod member;
mod process;
mod record;
mod scenarios;

use self::ends::{Kind, Move};

/// Makes outages last as long as a bad one in real life, where it is `long`.
const VARIABLE: &str = "TIDINGS_MIGRATION";

fn is_long() -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| value == "long")
}

/// What each process of the fleet runs; see [`member`].
#[test]
#[ignore = "it is run by the other tests, as a process of its own"]
fn one_member_of_the_fleet() {
    member::run();
}

/// All scenarios on one move, where those that change phases at run time may be ignored.
macro_rules! moves {
    ($($server:ident: $name:ident, $from:ident => $to:ident, at_run_time($(#[$run:meta])?);)*) => {$(
        mod $name {
            use super::{Kind, Move, scenarios};

            const MOVE: Move = Move { from: Kind::$from, to: Kind::$to };

            tidings_testkit::server_tests! { $server:
                async fn both_ends_are_compared_first() {
                    scenarios::preflight(MOVE).await;
                }

                async fn by_rolling_restarts_and_back() {
                    scenarios::rolling_restarts(MOVE).await;
                }

                async fn with_a_side_lost_in_each_phase() {
                    scenarios::lost_sides(MOVE).await;
                }

                async fn a_process_that_never_upgrades_holds_the_gates() {
                    scenarios::a_process_that_never_upgrades(MOVE).await;
                }

                async fn the_wrong_order_is_refused_with_the_reason() {
                    scenarios::the_wrong_order(MOVE).await;
                }

                $(#[$run])?
                async fn at_run_time_under_changes_and_back() {
                    scenarios::at_run_time(MOVE).await;
                }

                $(#[$run])?
                async fn by_itself_and_back_where_a_side_fails() {
                    scenarios::by_itself(MOVE).await;
                }
            }
        }
    )*};
}

moves! {
    etcd_3_4: gossip_to_etcd, Gossip => Etcd, at_run_time();
    zookeeper_3_8: gossip_to_zookeeper, Gossip => ZooKeeper, at_run_time(#[ignore = "it takes long"]);
    consul: gossip_to_consul, Gossip => Consul, at_run_time(#[ignore = "it takes long"]);
    etcd_3_4: etcd_to_gossip, Etcd => Gossip, at_run_time(#[ignore = "it takes long"]);
    zookeeper_3_8_and_etcd_3_4: zookeeper_to_etcd, ZooKeeper => Etcd,
        at_run_time(#[ignore = "it takes long"]);
}
