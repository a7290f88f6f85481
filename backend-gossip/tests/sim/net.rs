//! The network: hosts, and what happens to what is sent between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use crate::history::ProcessId;

/// An address with whatever runs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) usize);

const PORT: u16 = 7946;

/// Pairs whose latest arrival is kept, about: those of the past are dropped beyond.
const ARRIVALS_MAX: usize = 1 << 18;

impl HostId {
    /// The address of the one process on this host.
    pub(crate) fn address(self) -> SocketAddr {
        let [.., high, low] = self.0.to_be_bytes();
        (Ipv4Addr::new(10, 0, high, low), PORT).into()
    }

    /// The host at an address; `None` for one that no host has.
    pub(crate) fn at(address: SocketAddr) -> Option<Self> {
        let SocketAddr::V4(v4) = address else {
            return None;
        };
        let [ten, zero, high, low] = v4.ip().octets();
        ((ten, zero, v4.port()) == (10, 0, PORT))
            .then(|| Self(usize::from(high) << 8 | usize::from(low)))
    }
}

/// How long a frame travels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    /// Added to every frame.
    pub(crate) base: Duration,
    /// Mean of what is added on top, exponentially distributed.
    pub(crate) jitter: Duration,
}

/// What happens to datagrams everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weather {
    /// Share that is lost.
    pub(crate) loss: f64,
    /// Share that arrives twice.
    pub(crate) duplicate: f64,
    /// Share that arrives a second time after seconds.
    pub(crate) replay: f64,
    /// Share that is held up by as much as a second.
    pub(crate) spike: f64,
}

/// Which way a cut stops frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Nothing passes.
    Both,
    /// The inside hears nobody outside.
    In,
    /// The inside isn't heard outside.
    Out,
}

/// A partition: some hosts against all others, or against some.
#[derive(Clone, Debug)]
struct Cut {
    inside: BTreeSet<HostId>,
    /// `None`: everybody who isn't inside.
    outside: Option<BTreeSet<HostId>>,
    direction: Direction,
}

impl Cut {
    fn stops(&self, from: HostId, to: HostId) -> bool {
        let outside = |host| {
            let named = self.outside.as_ref();
            named.map_or(!self.inside.contains(&host), |named| named.contains(&host))
        };
        let leaves = self.inside.contains(&from) && outside(to);
        let enters = self.inside.contains(&to) && outside(from);
        match self.direction {
            Direction::Both => leaves || enters,
            Direction::In => enters,
            Direction::Out => leaves,
        }
    }
}

/// Names a cut, to heal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CutId(u64);

#[derive(Debug, Default)]
struct Host {
    process: Option<ProcessId>,
    /// Nothing answers: not even "refused".
    silent: bool,
    loss: f64,
}

/// Hosts and the faults between them.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) latency: Latency,
    pub(crate) weather: Weather,
    hosts: Vec<Host>,
    cuts: BTreeMap<CutId, Cut>,
    cuts_made: u64,
    /// Latest arrival so far from one host to another, to tell which datagrams were overtaken.
    arrivals: BTreeMap<(HostId, HostId), Duration>,
}

/// What becomes of a datagram: when its copies arrive, or why none does.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) arrivals: Vec<Duration>,
    pub(crate) cut: bool,
    pub(crate) lost: bool,
    pub(crate) duplicated: bool,
    pub(crate) replayed: bool,
    pub(crate) reordered: bool,
}

/// What answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Process(ProcessId),
    Refused,
    Nothing,
}

impl Net {
    pub(crate) fn new(latency: Latency) -> Self {
        Self {
            latency,
            weather: Weather::default(),
            hosts: Vec::new(),
            cuts: BTreeMap::new(),
            cuts_made: 0,
            arrivals: BTreeMap::new(),
        }
    }

    /// A host with an address that nobody had before.
    pub(crate) fn add_host(&mut self) -> HostId {
        self.hosts.push(Host::default());
        HostId(self.hosts.len() - 1)
    }

    pub(crate) fn occupy(&mut self, host: HostId, process: ProcessId) {
        self.hosts[host.0] = Host {
            process: Some(process),
            ..Host::default()
        };
    }

    pub(crate) fn vacate(&mut self, host: HostId, silent: bool) {
        self.hosts[host.0] = Host {
            silent,
            ..Host::default()
        };
    }

    /// Makes one host lose this share of what it sends and of what it is sent.
    pub(crate) fn set_loss(&mut self, host: HostId, loss: f64) {
        self.hosts[host.0].loss = loss;
    }

    /// What is at an address, the network aside.
    pub(crate) fn answer(&self, address: SocketAddr) -> Answer {
        match HostId::at(address).and_then(|host| self.hosts.get(host.0)) {
            None => Answer::Nothing,
            Some(host) if host.silent => Answer::Nothing,
            Some(host) => host.process.map_or(Answer::Refused, Answer::Process),
        }
    }

    pub(crate) fn cut(
        &mut self,
        inside: BTreeSet<HostId>,
        outside: Option<BTreeSet<HostId>>,
        direction: Direction,
    ) -> CutId {
        self.cuts_made += 1;
        let id = CutId(self.cuts_made);
        let cut = Cut {
            inside,
            outside,
            direction,
        };
        self.cuts.insert(id, cut);
        id
    }

    pub(crate) fn heal(&mut self, cut: CutId) {
        self.cuts.remove(&cut);
    }

    /// Ends every fault of the network. Hosts that are gone stay gone.
    pub(crate) fn calm(&mut self) {
        self.cuts.clear();
        self.weather = Weather::default();
        for host in &mut self.hosts {
            host.loss = 0.0;
        }
    }

    /// Whether a partition stops what one host sends to an address, or nothing is there to hear it.
    pub(crate) fn is_blocked(&self, from: HostId, to: SocketAddr) -> bool {
        match HostId::at(to).filter(|to| to.0 < self.hosts.len()) {
            None => true,
            Some(to) => self.hosts[to.0].silent || self.is_cut(from, to),
        }
    }

    /// Whether a partition stops what one host sends to another.
    pub(crate) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cuts.values().any(|cut| cut.stops(from, to))
    }

    /// Whether a partition stops what one address sends to another.
    pub(crate) fn is_cut_between(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let hosts = HostId::at(from).zip(HostId::at(to));
        hosts.is_some_and(|(from, to)| self.is_cut(from, to))
    }

    /// Share lost on the way from one host to an address.
    pub(crate) fn loss(&self, from: HostId, to: SocketAddr) -> f64 {
        let of = |host: HostId| self.hosts.get(host.0).map_or(0.0, |host| host.loss);
        let passes =
            (1.0 - self.weather.loss) * (1.0 - of(from)) * (1.0 - HostId::at(to).map_or(0.0, of));
        1.0 - passes
    }

    /// How long one frame travels now.
    pub(crate) fn delay(&self, rng: &mut Rng) -> Duration {
        let spread = -(1.0 - rng.f64()).ln();
        let mut delay = self.latency.base + self.latency.jitter.mul_f64(spread.min(20.0));
        if rng.f64() < self.weather.spike {
            delay += Duration::from_millis(rng.u64(50..1_000));
        }
        delay
    }

    /// Draws what becomes of a datagram.
    pub(crate) fn fate(
        &mut self,
        rng: &mut Rng,
        now: Duration,
        from: HostId,
        to: SocketAddr,
    ) -> Fate {
        let mut fate = Fate::default();
        if self.is_blocked(from, to) {
            fate.cut = true;
            return fate;
        }
        if rng.f64() < self.loss(from, to) {
            fate.lost = true;
            return fate;
        }
        let first = now + self.delay(rng);
        fate.arrivals.push(first);
        if let Some(to) = HostId::at(to) {
            if self.arrivals.len() > ARRIVALS_MAX {
                // What has arrived already can't be overtaken any more.
                self.arrivals.retain(|_, latest| *latest > now);
            }
            let latest = self.arrivals.entry((from, to)).or_default();
            fate.reordered = first < *latest;
            *latest = first.max(*latest);
        }
        if rng.f64() < self.weather.duplicate {
            fate.duplicated = true;
            fate.arrivals.push(now + self.delay(rng));
        }
        if rng.f64() < self.weather.replay {
            fate.replayed = true;
            fate.arrivals
                .push(first + Duration::from_millis(rng.u64(500..30_000)));
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> (Net, HostId, HostId) {
        let mut net = Net::new(Latency {
            base: Duration::from_millis(1),
            jitter: Duration::from_millis(1),
        });
        let (a, b) = (net.add_host(), net.add_host());
        net.occupy(a, ProcessId(0));
        net.occupy(b, ProcessId(1));
        (net, a, b)
    }

    #[test]
    fn addresses_lead_back_to_hosts() {
        for id in [0, 1, 255, 256, 65_535] {
            assert_eq!(HostId::at(HostId(id).address()), Some(HostId(id)));
        }
    }

    #[test]
    fn one_way_cuts_stop_one_way() {
        let (mut net, a, b) = net();
        let cut = net.cut(BTreeSet::from([a]), None, Direction::In);
        assert!(net.is_cut(b, a) && !net.is_cut(a, b));
        net.heal(cut);
        net.cut(BTreeSet::from([a]), None, Direction::Out);
        assert!(net.is_cut(a, b) && !net.is_cut(b, a));
    }

    #[test]
    fn loss_is_as_large_as_said() {
        let (mut net, a, b) = net();
        net.weather.loss = 0.3;
        let mut rng = Rng::with_seed(7);
        let lost = (0..10_000)
            .filter(|_| net.fate(&mut rng, Duration::ZERO, a, b.address()).lost)
            .count();
        assert!((2_800..3_200).contains(&lost), "{lost} of 10000 lost");
    }

    #[test]
    fn a_host_without_its_process_refuses_and_a_dead_host_says_nothing() {
        let (mut net, a, b) = net();
        assert_eq!(net.answer(b.address()), Answer::Process(ProcessId(1)));
        net.vacate(b, false);
        assert_eq!(net.answer(b.address()), Answer::Refused);
        net.vacate(b, true);
        assert_eq!(net.answer(b.address()), Answer::Nothing);
        assert!(net.is_blocked(a, b.address()));
    }
}
