//! What the members' views of each other were worth: how soon a lost member was out of them, and who
//! was taken for dead while it ran.
//!
//! The rules are the same for every engine, and were written down before any figure was looked at:
//!
//! - A member is **ordinary** while its process runs at its normal pace and no cut lies around it, and
//!   has done so for [`GRACE`]: word of what was wrong with it before may still be on its way.
//! - A lost member is **out** of half of the views, or of all, in the first moment in which half of the
//!   ordinary members, or all, take it for dead; members that came after it was lost don't count.
//! - A **false death**: an ordinary member takes another ordinary member for dead, whether by its own
//!   verdict or on another's word. All who do so count as one, until everybody has the member back.
//!   How many views it was is counted as well.
//! - All other deaths of members whose processes run are counted by what explains them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::net::HostId;
use crate::node::Standing;
use crate::process::Pace;

/// How long a member has to be without trouble to be ordinary: a few times what either engine needs
/// to tell a hundred members something while a third of all packets is lost.
const GRACE: Duration = Duration::from_secs(5);

/// What explains that a member whose process runs was taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Nothing: both are ordinary. A false death.
    None,
    /// It is stopped: the verdict is right.
    Stopped,
    /// It handles what arrives too slowly.
    Sick,
    /// A cut lies around it.
    Cut,
    /// It is ordinary again soon: it went on, or its cut healed, less than [`GRACE`] ago.
    Aftermath,
    /// It is ordinary, and who takes it for dead isn't.
    Observer,
}

/// A member whose process runs is taken for dead. Others that take it for dead for the same cause
/// count with it, until everybody has the member back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) at: Duration,
    pub(crate) subject: HostId,
    /// Who was first.
    pub(crate) by: HostId,
    pub(crate) cause: Cause,
}

/// A member that was taken away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim {
    pub(crate) host: HostId,
    pub(crate) at: Duration,
    /// When the first ordinary member took it for dead.
    pub(crate) first: Option<Duration>,
    /// When it was out of half of the views.
    pub(crate) half: Option<Duration>,
    /// When it was out of all.
    pub(crate) all: Option<Duration>,
}

#[derive(Debug)]
struct Host {
    started: Duration,
    running: bool,
    pace: Pace,
    cuts: u32,
    /// When it was last paused or cut off, if it was.
    troubled: Option<Duration>,
    /// Who takes it for dead.
    dead_to: BTreeSet<HostId>,
    /// Causes for which its death is counted already, until everybody has it back.
    counted: BTreeSet<Cause>,
}

impl Host {
    fn is_in_trouble(&self) -> bool {
        self.pace != Pace::Normal || self.cuts > 0
    }

    fn is_ordinary(&self, now: Duration) -> bool {
        let lately = |at: Duration| now < at + GRACE;
        self.running && !self.is_in_trouble() && !self.troubled.is_some_and(lately)
    }
}

/// The score of one world.
#[derive(Debug, Default)]
pub(crate) struct Score {
    pub(crate) deaths: Vec<Death>,
    /// How many views of ordinary members lost an ordinary member.
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
            cuts: 0,
            troubled: None,
            dead_to: BTreeSet::new(),
            counted: BTreeSet::new(),
        });
    }

    /// A member is gone for good.
    pub(crate) fn lost(&mut self, host: HostId, now: Duration) {
        self.hosts[host.0].running = false;
        for other in &mut self.hosts {
            other.dead_to.remove(&host);
        }
        self.victims.push(Victim {
            host,
            at: now,
            first: None,
            half: None,
            all: None,
        });
    }

    pub(crate) fn pace(&mut self, host: HostId, pace: Pace, now: Duration) {
        let host = &mut self.hosts[host.0];
        if host.is_in_trouble() {
            host.troubled = Some(now);
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
                host.troubled = Some(now);
            }
        }
        self.look_at_victims(now);
    }

    /// A member takes another for this from now on.
    pub(crate) fn told(&mut self, now: Duration, by: HostId, subject: HostId, standing: Standing) {
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
        if host.counted.insert(cause) {
            self.deaths.push(Death {
                at: now,
                subject,
                by,
                cause,
            });
        }
    }

    fn cause(&self, now: Duration, by: HostId, subject: HostId) -> Cause {
        let host = &self.hosts[subject.0];
        match host.pace {
            Pace::Paused => Cause::Stopped,
            Pace::Slow(_) => Cause::Sick,
            Pace::Normal if host.cuts > 0 => Cause::Cut,
            Pace::Normal if !host.is_ordinary(now) => Cause::Aftermath,
            Pace::Normal if !self.hosts[by.0].is_ordinary(now) => Cause::Observer,
            Pace::Normal => Cause::None,
        }
    }

    fn look_at_victims(&mut self, now: Duration) {
        for victim in self.victims.iter_mut().filter(|v| v.all.is_none()) {
            let dead_to = &self.hosts[victim.host.0].dead_to;
            let hosts = self.hosts.iter().enumerate();
            let able = hosts.filter(|(_, h)| h.is_ordinary(now) && h.started < victim.at);
            let (mut members, mut agreed) = (0, 0);
            for (id, _) in able {
                members += 1;
                agreed += usize::from(dead_to.contains(&HostId(id)));
            }
            if agreed > 0 {
                victim.first.get_or_insert(now);
            }
            if agreed * 2 >= members {
                victim.half.get_or_insert(now);
            }
            if agreed == members {
                victim.all = Some(now);
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

    fn dead(score: &mut Score, second: u32, by: usize, subject: usize) {
        let (by, subject) = (HostId(by), HostId(subject));
        score.told(second * SECOND, by, subject, Standing::Dead);
    }

    fn alive(score: &mut Score, second: u32, by: usize, subject: usize) {
        let (by, subject) = (HostId(by), HostId(subject));
        score.told(second * SECOND, by, subject, Standing::Alive);
    }

    fn causes(score: &Score) -> Vec<Cause> {
        score.deaths.iter().map(|death| death.cause).collect()
    }

    #[test]
    fn a_lost_member_is_out_when_the_last_ordinary_view_has_lost_it() {
        let mut score = score(6);
        score.pace(HostId(5), Pace::Paused, SECOND);
        score.lost(HostId(0), SECOND);
        for (second, by) in [(2, 1), (3, 2), (4, 3), (5, 4)] {
            dead(&mut score, second, by, 0);
        }
        let Victim {
            first, half, all, ..
        } = score.victims[0];
        assert_eq!(
            [first, half, all],
            [2, 3, 5].map(|second| Some(second * SECOND))
        );
        assert!(score.deaths.is_empty());
    }

    #[test]
    fn who_came_after_the_loss_does_not_count() {
        let mut score = score(2);
        score.lost(HostId(0), SECOND);
        score.started(HostId(2), 2 * SECOND);
        dead(&mut score, 3, 1, 0);
        assert_eq!(score.victims[0].all, Some(3 * SECOND));
    }

    #[test]
    fn a_false_death_counts_once_until_everybody_has_the_member_back() {
        let mut score = score(3);
        dead(&mut score, 1, 1, 0);
        dead(&mut score, 1, 2, 0);
        dead(&mut score, 1, 2, 1);
        assert_eq!((score.deaths.len(), score.views), (2, 3));
        alive(&mut score, 2, 1, 0);
        dead(&mut score, 3, 1, 0);
        assert_eq!(score.deaths.len(), 2, "one still took it for dead");
        alive(&mut score, 4, 1, 0);
        alive(&mut score, 4, 2, 0);
        dead(&mut score, 5, 1, 0);
        assert_eq!(causes(&score), [Cause::None; 3]);
    }

    #[test]
    fn other_deaths_are_put_down_to_what_explains_them() {
        let mut score = score(6);
        score.pace(HostId(0), Pace::Paused, SECOND);
        score.pace(HostId(1), Pace::Slow(SECOND), SECOND);
        score.cut(&BTreeSet::from([HostId(2)]), true, SECOND);
        for subject in 0..3 {
            dead(&mut score, 2, 5, subject);
        }
        dead(&mut score, 2, 1, 4);
        let found = [Cause::Stopped, Cause::Sick, Cause::Cut, Cause::Observer];
        assert_eq!(causes(&score), found);
    }

    #[test]
    fn a_member_is_ordinary_again_some_time_after_its_trouble() {
        let mut score = score(3);
        score.pace(HostId(0), Pace::Paused, SECOND);
        score.pace(HostId(0), Pace::Normal, 10 * SECOND);
        dead(&mut score, 14, 1, 0);
        alive(&mut score, 14, 1, 0);
        dead(&mut score, 15, 1, 0);
        score.cut(&BTreeSet::from([HostId(2)]), true, 20 * SECOND);
        score.cut(&BTreeSet::from([HostId(2)]), false, 30 * SECOND);
        dead(&mut score, 34, 2, 1);
        dead(&mut score, 35, 2, 1);
        let found = [Cause::Aftermath, Cause::None, Cause::Observer, Cause::None];
        assert_eq!(causes(&score), found);
        assert_eq!(score.views, 2);
    }
}
