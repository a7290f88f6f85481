//! What goes wrong in a run, and when: drawn before it, so that both engines get the same.

use std::time::Duration;

use fastrand::Rng;

use crate::net::{Direction, HostId};

/// Members that are told to newcomers; nothing but pauses happens to them.
pub(crate) const SEEDS: usize = 3;
/// The one that is sick where one is.
const SICK: HostId = HostId(SEEDS);
/// How long it takes for each thing it handles: it falls behind at a little less than what a member of
/// a hundred gets.
const SICK_TURN: Duration = Duration::from_millis(200);

/// When faults begin: everybody has joined by then.
const FAULTS_BEGIN: u64 = 30;
/// Seconds between two members that are lost, and until one is replaced: far enough apart for each to
/// be a failure of its own.
const LOSS_INTERVAL: u64 = 45;
const REPLACED_AFTER: u64 = 40;
/// Nobody is lost so late that the slowest suspicion would outlast the run.
const LOSS_LAST: u64 = 120;
/// Share of members that are paused, or cut off, at a time.
const SHARE: f64 = 0.05;
/// Share of all ordered pairs of members of which one doesn't reach the other.
const WAYS_SHARE: f64 = 0.05;

/// What is wrong with a network.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    /// Share of datagrams that is lost; connections suffer alike.
    pub(crate) loss: f64,
    /// One in twenty is paused for 5–30 s, at all times.
    pub(crate) pauses: bool,
    /// One in twenty hears nobody, or isn't heard, for 10–30 s, at all times.
    pub(crate) one_way: bool,
    /// One in twenty ordered pairs has no way from the first to the second.
    pub(crate) ways: bool,
    /// One member takes 200 ms for whatever it handles.
    pub(crate) sick: bool,
    /// Members are lost as processes that are killed, whose hosts go on, and not with their hosts.
    pub(crate) killed: bool,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A member starts on the next new host.
    Start,
    Loss(f64),
    /// The member's host is gone: nothing answers there.
    Silence(HostId),
    /// The member's process is killed: its host refuses.
    Kill(HostId),
    Pause(HostId, Duration),
    Slow(HostId, Duration),
    /// These against all others, for a while.
    Cut(Vec<HostId>, Direction, Duration),
    /// What the first sends doesn't reach the second.
    CutWay(HostId, HostId),
}

/// Draws a run of `members` for `seconds`.
pub(crate) fn draw(
    seed: u64,
    conditions: Conditions,
    members: usize,
    seconds: u64,
) -> Vec<(Duration, Fault)> {
    let mut draw = Draw {
        rng: Rng::with_seed(seed),
        steps: Vec::new(),
        // Nothing else happens to the seeds and the sick one, and one thing at a time to the others.
        free_at: vec![0; members],
    };
    for _ in 0..members {
        let at = draw.rng.u64(0..2_000_000);
        draw.steps.push((Duration::from_micros(at), Fault::Start));
    }
    draw.lasting(conditions, members);
    let slots = (members as f64 * SHARE).round() as usize;
    let mut pauses = vec![FAULTS_BEGIN; if conditions.pauses { slots } else { 0 }];
    let mut cut_free = if conditions.one_way {
        FAULTS_BEGIN
    } else {
        u64::MAX
    };
    let mut next_loss = FAULTS_BEGIN + LOSS_INTERVAL;
    for now in FAULTS_BEGIN..seconds {
        for slot in &mut pauses {
            if *slot <= now {
                let lasting = draw.rng.u64(5..=30);
                if let Some(host) = draw.take(now, now + lasting + 1, 0) {
                    let lasting = Duration::from_secs(lasting);
                    draw.at(now, Fault::Pause(host, lasting));
                }
                *slot = now + lasting;
            }
        }
        if cut_free <= now {
            let lasting = draw.rng.u64(10..=30);
            let free = (0..slots).filter_map(|_| draw.take(now, now + lasting + 1, SEEDS));
            let inside: Vec<_> = free.collect();
            let way = if draw.rng.bool() {
                Direction::In
            } else {
                Direction::Out
            };
            draw.at(now, Fault::Cut(inside, way, Duration::from_secs(lasting)));
            cut_free = now + lasting + 1;
        }
        if next_loss <= now && now + LOSS_LAST <= seconds {
            next_loss = now + LOSS_INTERVAL;
            if let Some(host) = draw.take(now, u64::MAX, SEEDS) {
                let lose = if conditions.killed {
                    Fault::Kill
                } else {
                    Fault::Silence
                };
                draw.at(now, lose(host));
                draw.at(now + REPLACED_AFTER, Fault::Start);
                draw.free_at.push(now + REPLACED_AFTER + 5);
            }
        }
    }
    draw.steps.sort_by_key(|(at, _)| *at);
    draw.steps
}

struct Draw {
    rng: Rng,
    steps: Vec<(Duration, Fault)>,
    /// By host, in seconds.
    free_at: Vec<u64>,
}

impl Draw {
    /// What is wrong from the beginning to the end.
    fn lasting(&mut self, conditions: Conditions, members: usize) {
        self.at(FAULTS_BEGIN, Fault::Loss(conditions.loss));
        if conditions.sick {
            self.free_at[SICK.0] = u64::MAX;
            self.at(FAULTS_BEGIN, Fault::Slow(SICK, SICK_TURN));
        }
        if conditions.ways {
            let pairs = members * (members - 1);
            for _ in 0..(pairs as f64 * WAYS_SHARE) as usize {
                let (from, to) = (self.rng.usize(..members), self.rng.usize(..members));
                if from != to {
                    self.at(FAULTS_BEGIN, Fault::CutWay(HostId(from), HostId(to)));
                }
            }
        }
    }

    fn at(&mut self, second: u64, fault: Fault) {
        let within = Duration::from_micros(self.rng.u64(0..900_000));
        self.steps
            .push((Duration::from_secs(second) + within, fault));
    }

    /// Somebody to whom nothing happens now, from `first` on; it is taken until then.
    fn take(&mut self, now: u64, until: u64, first: usize) -> Option<HostId> {
        let free = self.free_at.iter().enumerate().skip(first);
        let free: Vec<_> = free.filter(|(_, at)| **at <= now).collect();
        let host = self.rng.choice(free)?.0;
        self.free_at[host] = until;
        Some(HostId(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_what_its_conditions_say_and_is_drawn_alike_each_time() {
        let conditions = Conditions {
            loss: 0.2,
            pauses: true,
            one_way: true,
            ways: true,
            sick: true,
            killed: false,
        };
        let plan = draw(1, conditions, 100, 600);
        let count = |of: fn(&Fault) -> bool| plan.iter().filter(|(_, fault)| of(fault)).count();
        assert!(count(|fault| matches!(fault, Fault::Pause(..))) > 100);
        assert!(count(|fault| matches!(fault, Fault::Cut(..))) > 15);
        assert!(count(|fault| matches!(fault, Fault::CutWay(..))) > 400);
        assert_eq!(count(|fault| matches!(fault, Fault::Slow(..))), 1);
        let silenced = count(|fault| matches!(fault, Fault::Silence(_)));
        assert!(silenced >= 9);
        assert_eq!(count(|fault| matches!(fault, Fault::Start)), 100 + silenced);
        let again = draw(1, conditions, 100, 600);
        assert_eq!(format!("{plan:?}"), format!("{again:?}"));
    }
}
