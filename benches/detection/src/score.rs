//! What the members' views of each other were worth: how soon a silent host was out of all of them,
//! and who was taken for dead while it ran.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::net::HostId;
use crate::node::Standing;
use crate::process::Pace;

/// For this long after a pause or a cut what is said of a member is still put down to that: the word
/// that convicted it may have been on its way.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Why a member that ran was taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// For no reason: a false death.
    None,
    /// It was paused.
    Paused,
    /// It handles what arrives too slowly.
    Sick,
    /// A one-way partition lay around it, or around who said so.
    Cut,
}

/// A verdict on a running member. Others that pass the same one count with it, until everybody has the
/// member back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) at: Duration,
    pub(crate) subject: HostId,
    /// Who said so first.
    pub(crate) by: HostId,
    pub(crate) cause: Cause,
}

/// A host that was taken away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim {
    pub(crate) host: HostId,
    pub(crate) at: Duration,
    /// When it had left every view.
    pub(crate) gone: Option<Duration>,
}

#[derive(Debug)]
struct Host {
    started: Duration,
    running: bool,
    pace: Pace,
    resumed: Option<Duration>,
    cuts: u32,
    healed: Option<Duration>,
    /// Who takes it for dead.
    dead_to: BTreeSet<HostId>,
    /// Causes for which its death is counted already, until everybody has it back.
    counted: BTreeSet<Cause>,
}

/// The score of one world.
#[derive(Debug, Default)]
pub(crate) struct Score {
    pub(crate) deaths: Vec<Death>,
    /// How many views lost a running member for no reason.
    pub(crate) views: u64,
    pub(crate) victims: Vec<Victim>,
    hosts: Vec<Host>,
}

impl Score {
    pub(crate) fn started(&mut self, host: HostId, now: Duration) {
        debug_assert_eq!(host.0, self.hosts.len());
        self.hosts.push(Host {
            started: now,
            running: true,
            pace: Pace::Normal,
            resumed: None,
            cuts: 0,
            healed: None,
            dead_to: BTreeSet::new(),
            counted: BTreeSet::new(),
        });
    }

    pub(crate) fn silenced(&mut self, host: HostId, now: Duration) {
        self.hosts[host.0].running = false;
        for other in &mut self.hosts {
            other.dead_to.remove(&host);
        }
        self.victims.push(Victim {
            host,
            at: now,
            gone: None,
        });
    }

    pub(crate) fn pace(&mut self, host: HostId, pace: Pace, now: Duration) {
        let host = &mut self.hosts[host.0];
        if host.pace == Pace::Paused {
            host.resumed = Some(now);
        }
        host.pace = pace;
        self.look_at_victims(now);
    }

    pub(crate) fn cut(&mut self, hosts: &BTreeSet<HostId>, begins: bool, now: Duration) {
        for host in hosts {
            let host = &mut self.hosts[host.0];
            if begins {
                host.cuts += 1;
            } else {
                host.cuts -= 1;
                host.healed = Some(now);
            }
        }
        self.look_at_victims(now);
    }

    /// A member takes another for this from now on, by its own verdict or on another's word. Only a
    /// verdict is a death; who believes it has lost somebody from its view.
    pub(crate) fn told(
        &mut self,
        now: Duration,
        (by, own): (HostId, bool),
        subject: HostId,
        standing: Standing,
    ) {
        if standing != Standing::Dead {
            let subject = &mut self.hosts[subject.0];
            subject.dead_to.remove(&by);
            if subject.dead_to.is_empty() {
                subject.counted.clear();
            }
            return;
        }
        let cause = self.cause(now, by, subject);
        let host = &mut self.hosts[subject.0];
        host.dead_to.insert(by);
        if !host.running {
            self.look_at_victims(now);
            return;
        }
        self.views += u64::from(cause == Cause::None);
        if own && host.counted.insert(cause) {
            self.deaths.push(Death {
                at: now,
                subject,
                by,
                cause,
            });
        }
    }

    fn cause(&self, now: Duration, by: HostId, subject: HostId) -> Cause {
        let lately = |since: Option<Duration>| since.is_some_and(|at| now < at + AFTERMATH);
        let host = &self.hosts[subject.0];
        match host.pace {
            Pace::Paused => return Cause::Paused,
            Pace::Slow(_) => return Cause::Sick,
            Pace::Normal if lately(host.resumed) => return Cause::Paused,
            Pace::Normal => {}
        }
        let cut = |host: &Host| host.cuts > 0 || lately(host.healed);
        if cut(host) || cut(&self.hosts[by.0]) {
            Cause::Cut
        } else {
            Cause::None
        }
    }

    /// A victim is out of every view when all members that could know it say so: those that run,
    /// aren't paused, sick or behind a cut, nor were so lately.
    fn look_at_victims(&mut self, now: Duration) {
        let lately = |since: Option<Duration>| since.is_some_and(|at| now < at + AFTERMATH);
        for victim in self.victims.iter_mut().filter(|v| v.gone.is_none()) {
            let dead_to = &self.hosts[victim.host.0].dead_to;
            let mut able = self.hosts.iter().enumerate().filter(|(_, host)| {
                host.running
                    && host.pace == Pace::Normal
                    && !lately(host.resumed)
                    && host.cuts == 0
                    && !lately(host.healed)
                    && host.started < victim.at
            });
            if able.all(|(id, _)| dead_to.contains(&HostId(id))) {
                victim.gone = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn score(hosts: usize) -> Score {
        let mut score = Score::default();
        for host in 0..hosts {
            score.started(HostId(host), Duration::ZERO);
        }
        score
    }

    #[test]
    fn a_victim_is_gone_when_the_last_view_has_lost_it() {
        let mut score = score(4);
        score.pace(HostId(3), Pace::Paused, SECOND);
        score.silenced(HostId(0), SECOND);
        score.told(2 * SECOND, (HostId(1), true), HostId(0), Standing::Dead);
        assert_eq!(score.victims[0].gone, None);
        score.told(3 * SECOND, (HostId(2), true), HostId(0), Standing::Dead);
        assert_eq!(score.victims[0].gone, Some(3 * SECOND));
        assert!(score.deaths.is_empty());
    }

    #[test]
    fn a_false_death_counts_once_until_everybody_has_the_member_back() {
        let mut score = score(3);
        for by in [1, 2] {
            score.told(SECOND, (HostId(by), true), HostId(0), Standing::Dead);
        }
        score.told(SECOND, (HostId(2), false), HostId(1), Standing::Dead);
        assert_eq!((score.deaths.len(), score.views), (1, 3));
        for by in [1, 2] {
            score.told(SECOND, (HostId(by), true), HostId(0), Standing::Alive);
        }
        score.told(2 * SECOND, (HostId(1), true), HostId(0), Standing::Dead);
        assert_eq!(
            (score.deaths.len(), score.deaths[0].cause),
            (2, Cause::None)
        );
    }

    #[test]
    fn a_pause_explains_a_death_and_so_does_a_cut() {
        let mut score = score(4);
        score.pace(HostId(0), Pace::Paused, SECOND);
        score.pace(HostId(0), Pace::Normal, 6 * SECOND);
        score.cut(&BTreeSet::from([HostId(1)]), true, SECOND);
        score.told(9 * SECOND, (HostId(2), true), HostId(0), Standing::Dead);
        score.told(9 * SECOND, (HostId(1), true), HostId(3), Standing::Dead);
        score.told(60 * SECOND, (HostId(3), true), HostId(0), Standing::Dead);
        let causes: Vec<_> = score.deaths.iter().map(|death| death.cause).collect();
        assert_eq!(causes, [Cause::Paused, Cause::Cut, Cause::None]);
    }
}
