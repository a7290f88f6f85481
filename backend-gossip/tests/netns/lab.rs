//! The laboratory: a network, members on its hosts, and questions about all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::MutexGuard;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::network::{Direction, FOLDER, Network, PORT};
use crate::process::Process;
use crate::record::Record;

/// Members, and hosts.
pub(crate) const MEMBERS: usize = 12;
/// Names of the first members' hosts.
const SEEDS: [&str; 2] = ["seed-1.lab", "seed-2.lab"];
/// How long anything may take that is waited for; far above what it takes.
const LONG: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// Twelve members `m1` …, each of which offers `web/m1` ….
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) network: Network,
    members: Vec<Option<Process>>,
    began: Instant,
    story: String,
}

impl Lab {
    /// Members on all hosts, which agree.
    pub(crate) fn start() -> Self {
        let network = Network::build(MEMBERS);
        let members = (0..MEMBERS).map(|_| None).collect();
        let mut lab = Self {
            network,
            members,
            began: Instant::now(),
            story: String::new(),
        };
        lab.name_seeds();
        for member in 0..MEMBERS {
            lab.start_member(member);
        }
        lab.until_agreed(&lab.offers());
        lab
    }

    /// Makes the seeds' names lead to where the first members are now.
    pub(crate) fn name_seeds(&self) {
        let hosts = 0..MEMBERS;
        let names: Vec<_> = SEEDS.into_iter().zip(hosts).collect();
        self.network.name(&names);
    }

    /// Starts a member that knows the seeds.
    pub(crate) fn start_member(&mut self, member: usize) {
        let seeds = SEEDS.join(",");
        self.start_with(member, &format!("join={seeds}&state={FOLDER}"));
    }

    /// Starts a member with these options.
    pub(crate) fn start_with(&mut self, member: usize, options: &str) {
        let address = self.network.address(member);
        self.start_bound(member, address, options);
    }

    /// Starts a member that knows the seeds and is bound to whatever addresses its host has.
    pub(crate) fn start_anywhere(&mut self, member: usize) {
        let options = format!("join={}", SEEDS.join(","));
        self.start_bound(member, Ipv4Addr::UNSPECIFIED, &options);
    }

    fn start_bound(&mut self, member: usize, address: Ipv4Addr, options: &str) {
        let name = name(member);
        let url = format!("gossip://{address}:{PORT}?seal=off&name={name}&{options}");
        self.say(&format!("{name} starts: {url}"));
        let process = Process::start(self.network.command(member), &url);
        let former = self.members[member].replace(process);
        assert!(former.is_none(), "{name} runs already");
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.say(&format!("{} is killed", name(member)));
        let mut process = self.members[member].take().unwrap();
        process.kill();
    }

    pub(crate) fn process(&self, member: usize) -> &Process {
        self.members[member].as_ref().unwrap()
    }

    pub(crate) fn record(&self, member: usize) -> MutexGuard<'_, Record> {
        self.process(member).record()
    }

    /// Tells a member to register or deregister, and waits until it has.
    pub(crate) fn ask(&mut self, member: usize, command: &str) {
        self.say(&format!("{}: {command}", name(member)));
        self.members[member].as_mut().unwrap().ask(command);
        self.until("the command is carried out", |lab| {
            lab.process(member).has_done_all()
        });
    }

    /// Who runs.
    pub(crate) fn running(&self) -> Vec<usize> {
        (0..MEMBERS)
            .filter(|member| self.members[*member].is_some())
            .collect()
    }

    /// What those who run offer from the start.
    pub(crate) fn offers(&self) -> BTreeSet<String> {
        self.running().into_iter().map(offer).collect()
    }

    /// Waits until everybody who runs shows exactly these instances, live, and knows everybody who
    /// runs to be alive, and nobody else.
    pub(crate) fn until_agreed(&mut self, keys: &BTreeSet<String>) -> Duration {
        let begin = Instant::now();
        self.until("all agree", |lab| lab.disagreement(keys).is_none());
        let took = begin.elapsed();
        self.say(&format!("all agree after {took:.1?}"));
        took
    }

    /// Waits for a condition.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !condition(self) {
            if Instant::now() > deadline {
                let keys = self.offers();
                let disagreement = self.disagreement(&keys).unwrap_or_default();
                panic!("waited in vain until {what}\n{disagreement}");
            }
            self.look_after();
            sleep(POLL);
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.say(&format!("{time:?} pass"));
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.look_after();
            sleep(POLL);
        }
    }

    /// Parts some members from the others, and does it for real.
    pub(crate) fn cut(&mut self, inside: &[usize], direction: Direction) {
        self.say(&format!("cut off ({direction:?}): {inside:?}"));
        self.network.cut(inside, direction);
    }

    /// Ends all damage to the network, which has to have done some to each of these hosts.
    pub(crate) fn repair(&mut self, damaged: impl IntoIterator<Item = usize>) {
        let dropped = self.network.repair();
        self.say(&format!("repaired; packets dropped: {dropped:?}"));
        for host in damaged {
            assert!(dropped[host] > 0, "no packet to {} was dropped", name(host));
        }
    }

    /// Holds all members to what they have shown since a moment: who saw an instance go whose owner
    /// `may` have gone for it, and nobody else; and the same for members that were called dead.
    pub(crate) fn assert_no_flap(&self, since: Instant, may: impl Fn(usize, usize) -> bool) {
        for observer in self.running() {
            let record = self.record(observer);
            let offers = (0..MEMBERS).map(|owner| (owner, offer(owner), name(owner)));
            for (owner, offer, owner_name) in offers.filter(|(owner, ..)| !may(observer, *owner)) {
                let gone = record.since(since, "-").contains(&offer.as_str());
                assert!(!gone, "{} saw {offer} go", name(observer));
                let dead = record.since(since, "dead").contains(&owner_name.as_str());
                assert!(!dead, "{} took m{} for dead", name(observer), owner + 1);
            }
        }
    }

    /// Holds members to not having shown an instance anew since a moment.
    pub(crate) fn assert_stayed_gone(&self, observers: Range<usize>, since: Instant, key: &str) {
        for observer in self
            .running()
            .into_iter()
            .filter(|member| observers.contains(member))
        {
            let record = self.record(observer);
            let back = record.since(since, "+").contains(&key) || record.shows.contains(key);
            assert!(!back, "{key} is back for {}", name(observer));
        }
    }

    /// A line for people.
    pub(crate) fn say(&mut self, line: &str) {
        let at = self.began.elapsed().as_secs_f64();
        writeln!(self.story, "{at:>9.3} {line}").unwrap();
    }

    fn disagreement(&self, keys: &BTreeSet<String>) -> Option<String> {
        let running = self.running();
        running.iter().find_map(|member| {
            let record = self.record(*member);
            let alive = record.states.iter().filter(|(_, state)| *state == "alive");
            let alive: BTreeSet<_> = alive.map(|(name, _)| name.clone()).collect();
            let expected = running.iter().map(|member| name(*member)).collect();
            let agrees = record.is_live && record.shows == *keys && alive == expected;
            (!agrees).then(|| {
                let (name, live, shows) = (name(*member), record.is_live, &record.shows);
                format!("{name} (live: {live}) shows {shows:?} and has alive {alive:?}")
            })
        })
    }

    fn look_after(&mut self) {
        for member in self.running() {
            let ended = self.members[member].as_mut().unwrap().has_ended();
            assert!(!ended, "{} has ended by itself", name(member));
        }
    }
}

/// Tells what happened, and where it went wrong everything.
impl Drop for Lab {
    fn drop(&mut self) {
        print!("{}", self.story);
        if thread::panicking() {
            for member in self.running() {
                print!(
                    "--- {}\n{}",
                    name(member),
                    self.record(member).to_text(self.began)
                );
            }
        }
    }
}

pub(crate) fn name(member: usize) -> String {
    format!("m{}", member + 1)
}

pub(crate) fn offer(member: usize) -> String {
    format!("web/{}", name(member))
}
