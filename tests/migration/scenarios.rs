//! What a fleet is put through, on any move.

use std::time::Duration;

use tidings::Phase;
use tidings::moving::Side;

use crate::ends::{Course, Move};
use crate::fleet::Fleet;
use crate::is_long;
use crate::member::now;

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
const SERVICES: usize = 12;
const CLIENTS: usize = 4;
/// A fleet for what doesn't depend on its size.
const FEW: (usize, usize) = (3, 1);

/// How long a server stays killed.
const OUTAGE_SHORT: Duration = Duration::from_secs(8);
const OUTAGE_LONG: Duration = Duration::from_secs(60);
/// How long views hold what has vanished in an outage, as configured, and then notice it.
const HOLD: Duration = Duration::from_secs(5 + 5);

/// How often each service changes its content: well over a hundred times a second with all.
const CHANGE_PAUSE: Duration = Duration::from_millis(75);
/// What of these has to be done, with crashes, restarts and a busy machine.
const CHANGES_PER_SECOND_MIN: f64 = 50.0;

/// Rolling restarts through all phases and back. In each, two services are killed: one is started
/// again at once, the other when everybody has seen it go.
pub(crate) async fn rolling_restarts(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.start(SERVICES, CLIENTS, Phase::Old).await;
    for (number, phase) in THERE.into_iter().chain(BACK).enumerate() {
        let is_seen_to_go = is_long() || number % 3 == 1;
        let crashed = match is_seen_to_go {
            true => Some(fleet.crash_one().await),
            false => None,
        };
        fleet.roll(phase, &[number]).await;
        if let Some(crashed) = crashed {
            fleet.is_seen(&crashed, false).await;
        }
        fleet.restart_missing(SERVICES, phase).await;
        println!("{phase}: everybody was restarted and is there");
    }
    fleet.end().await.expect_nobody_missed();
}

/// In each phase each server is killed for a while. Where that leaves a side to read, services crash
/// and start meanwhile.
pub(crate) async fn lost_sides(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.start(SERVICES, CLIENTS, Phase::Old).await;
    for phase in Phase::ALL {
        fleet.set_phase(phase).await;
        for side in fleet.ends.servers() {
            lose(&mut fleet, side, phase).await;
        }
    }
    fleet.end().await.expect_nobody_missed();
}

async fn lose(fleet: &mut Fleet, side: Side, phase: Phase) {
    let outage = if is_long() { OUTAGE_LONG } else { OUTAGE_SHORT };
    let (before, since) = (fleet.stale_views(side), now());
    fleet.ends.kill(side);
    let end = tokio::time::Instant::now() + outage;
    if phase.writes().has(side) {
        fleet.all_find(side, false).await;
    }
    let is_read = phase.reads().has(side);
    if !is_read || phase.reads().has(side.other()) {
        let crashed = fleet.crash_one().await;
        fleet.is_seen(&crashed, false).await;
        fleet.restart_missing(SERVICES, phase).await;
        let missing = crashed.split(':').next().unwrap();
        fleet.is_seen(&fleet.instance(missing), true).await;
    }
    tokio::time::sleep_until(end).await;
    if is_read {
        for (before, after) in before.iter().zip(fleet.stale_views(side)) {
            assert!(
                after > *before,
                "{phase}: a client hasn't noticed that {side} is lost"
            );
        }
    }
    fleet.ends.restart(side).await;
    if phase.writes().has(side) {
        fleet.all_find(side, true).await;
    }
    if is_read {
        fleet.holds(since, HOLD);
    }
    println!(
        "{phase}: the {side} side was lost for {outage:?} from {since} to {}, and everybody noticed",
        now()
    );
}

/// The phase of everybody changed while they run and change their contents a hundred times a
/// second, there and back, with a crash in each phase.
pub(crate) async fn at_run_time(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.changes = Some(CHANGE_PAUSE);
    fleet.start(SERVICES, CLIENTS, Phase::Old).await;
    let (start, before) = (tokio::time::Instant::now(), fleet.changes_made());
    for phase in THERE.into_iter().chain(BACK) {
        fleet.set_phase(phase).await;
        let crashed = fleet.crash_one().await;
        fleet.is_seen(&crashed, false).await;
        fleet.restart_missing(SERVICES, phase).await;
        println!("{phase}: everybody is there");
    }
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let rate = (fleet.changes_made() - before) as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} changes a second");
    assert!(rate > CHANGES_PER_SECOND_MIN, "{rate}");
    fleet.end().await.expect_nobody_missed();
}

/// Both ends are shown side by side before anybody moves, and nobody has moved by that.
pub(crate) async fn preflight(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.start(1, 0, Phase::Old).await;
    let compared = fleet.first().preflight().await;
    println!("{}", compared.replace("; ", "\n"));
    let (old, new) = (on.from.scheme(), on.to.scheme());
    assert!(compared.contains(&format!("{old} → {new}")), "{compared}");
    for topic in [
        "gone after a crash: ≤ ",
        "most of an instance",
        "health for other clients",
    ] {
        assert!(compared.contains(topic), "{topic} is not in {compared}");
    }
    assert_eq!(fleet.first().phase().await, Phase::Old);
    fleet.end().await;
}

/// A process that knows the old backend alone, and one that stays in an early phase, hold the gates
/// that they would suffer from, and are named.
pub(crate) async fn a_process_that_never_upgrades(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.start(FEW.0, FEW.1, Phase::Old).await;
    fleet.start_plain("plain").await;
    fleet.set_phase(Phase::BothReadOld).await;
    fleet.set_phase(Phase::BothReadMerged).await;
    for _ in 0..3 {
        let reasons = fleet.refused(Phase::BothReadNew).await;
        assert!(
            reasons.contains("web/plain is not on the new side"),
            "{reasons}"
        );
        // Longer than what would be steady.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    fleet.end_others().await;
    fleet.start_laggard("laggard", Phase::BothReadOld).await;
    fleet.set_phase(Phase::BothReadNew).await;
    for _ in 0..3 {
        let reasons = fleet.refused(Phase::New).await;
        assert!(
            reasons.contains("process laggard is in phase both-read-old"),
            "{reasons}"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    fleet.end_others().await;
    fleet.set_phase(Phase::New).await;
    fleet.end().await.expect_nobody_missed();
}

/// Each step that comes too early is refused, says why, and changes nothing.
pub(crate) async fn the_wrong_order(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.start(FEW.0, FEW.1, Phase::Old).await;
    for phase in [Phase::BothReadMerged, Phase::BothReadNew, Phase::New] {
        let reasons = fleet.refused(phase).await;
        let expected = "the new side can't be heard (it is not in use yet)";
        assert!(reasons.contains(expected), "{phase}: {reasons}");
    }
    fleet.first().set_phase(Phase::BothReadOld).await;
    for phase in [Phase::BothReadNew, Phase::New] {
        let reasons = fleet.refused(phase).await;
        for other in ["web/s1", "web/s2"] {
            let expected = format!("{other} is not on the new side");
            assert!(reasons.contains(&expected), "{phase}: {reasons}");
        }
    }
    fleet.set_phase(Phase::BothReadOld).await;
    let reasons = fleet.refused(Phase::New).await;
    for other in ["s1", "s2", "c0"] {
        let expected = format!("process {other} is in phase both-read-old");
        assert!(reasons.contains(&expected), "{reasons}");
    }
    for phase in &THERE[1..] {
        fleet.set_phase(*phase).await;
    }
    let reasons = fleet.refused(Phase::Old).await;
    let expected = "the old side can't be heard (it is not in use yet)";
    assert!(reasons.contains(expected), "{reasons}");
    fleet.end().await.expect_nobody_missed();
}

/// Given the target alone, everybody walks there. Where the new side fails, all read both again,
/// see who comes and goes meanwhile, and walk on when it is back.
pub(crate) async fn by_itself(on: Move) {
    let mut fleet = Fleet::new(on).await;
    fleet.start(SERVICES, CLIENTS, Course::Automatic).await;
    fleet.all_reach(Phase::New).await;
    let mut expected = THERE[1..].to_vec();
    expect_walks(&fleet, &expected);
    println!("everybody has walked {expected:?}");
    // Who comes late finds everybody, though nobody is on the old side any more.
    fleet.roll_clients(Course::Automatic).await;
    fleet.all_reach(Phase::New).await;
    if fleet.ends.servers().any(|side| side == Side::New) {
        step_back(&mut fleet).await;
        expected.extend([Phase::BothReadMerged, Phase::BothReadNew, Phase::New]);
        expect_walks(&fleet, &expected);
        println!("everybody has stepped back and walked on: {expected:?}");
    }
    fleet.end().await.expect_nobody_missed();
}

async fn step_back(fleet: &mut Fleet) {
    let (before, since) = (fleet.stale_views(Side::New), now());
    fleet.ends.kill(Side::New);
    fleet.all_find(Side::New, false).await;
    fleet.all_reach(Phase::BothReadMerged).await;
    for (before, after) in before.iter().zip(fleet.stale_views(Side::New)) {
        assert!(
            after > *before,
            "a client hasn't noticed that the new side is lost"
        );
    }
    // The side that is left shows who comes and goes.
    let crashed = fleet.crash_one().await;
    fleet.is_seen(&crashed, false).await;
    let late = "s12";
    fleet.start_service(late, Course::Automatic).await;
    fleet.is_seen(&fleet.instance(late), true).await;
    if is_long() {
        tokio::time::sleep(OUTAGE_LONG).await;
    }
    for (name, walked) in fleet.walks() {
        assert_eq!(
            walked.last(),
            Some(&Phase::BothReadMerged),
            "{name}: {walked:?}"
        );
    }
    fleet.ends.restart(Side::New).await;
    fleet.holds(since, HOLD);
    fleet.all_reach(Phase::New).await;
}

fn expect_walks(fleet: &Fleet, expected: &[Phase]) {
    for (name, walked) in fleet.walks() {
        // One that has started meanwhile has walked the end of it.
        assert!(
            expected.ends_with(&walked) && walked.len() >= 3,
            "{name}: {walked:?}"
        );
    }
}
