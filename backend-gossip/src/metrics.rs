//! What a member reports through the `metrics` facade: to the recorder the process has installed, or
//! to nobody. Names, units and meanings are in `docs/metrics.md`.
//!
//! Counters and gauges are brought up to date once a second, from what is counted anyway, so that they
//! cost nothing on the way of a frame. Only round trips are recorded one by one.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Label, SharedString, Unit, counter, gauge, histogram};

use crate::Stats;
use crate::engine::MemberState;

/// From a ping to its answer.
const ROUND_TRIP: &str = "tidings_gossip_round_trip_seconds";
/// Frames that were dropped for their seal, by reason.
const REJECTED: &str = "tidings_gossip_rejected_frames_total";
/// Members by state.
const MEMBERS: &str = "tidings_gossip_members";

/// All that is reported once a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) stats: Stats,
    /// Alive, suspect, dead, left.
    pub(crate) members: [usize; 4],
    pub(crate) broadcasts_queued: usize,
    pub(crate) datagrams_queued: usize,
    pub(crate) views_published: u64,
}

/// A counter: name, unit, meaning, value.
type Row<T> = (&'static str, Unit, &'static str, fn(&Figures) -> T);

const COUNTERS: &[Row<u64>] = &[
    (
        "tidings_gossip_probes_total",
        Unit::Count,
        "members probed",
        |f| f.stats.engine.probes,
    ),
    (
        "tidings_gossip_probes_failed_total",
        Unit::Count,
        "probes that neither the member nor a helper answered",
        |f| f.stats.engine.probes_failed,
    ),
    (
        "tidings_gossip_suspicions_total",
        Unit::Count,
        "suspicions this member raised",
        |f| f.stats.engine.suspicions,
    ),
    (
        "tidings_gossip_refutations_total",
        Unit::Count,
        "accusations of itself that this member refuted",
        |f| f.stats.engine.refutations,
    ),
    (
        "tidings_gossip_deaths_total",
        Unit::Count,
        "members this member declared dead",
        |f| f.stats.engine.deaths,
    ),
    (
        "tidings_gossip_syncs_total",
        Unit::Count,
        "syncs this member started",
        |f| f.stats.engine.syncs,
    ),
    (
        "tidings_gossip_digest_mismatches_total",
        Unit::Count,
        "answers to probes whose registry digest differed",
        |f| f.stats.engine.digest_mismatches,
    ),
    (
        "tidings_gossip_received_datagrams_total",
        Unit::Count,
        "datagrams that reached the engine",
        |f| f.stats.engine.datagrams_in,
    ),
    (
        "tidings_gossip_sent_datagrams_total",
        Unit::Count,
        "datagrams sent",
        |f| f.stats.engine.datagrams_out,
    ),
    (
        "tidings_gossip_sent_bytes_total",
        Unit::Bytes,
        "bytes of frames sent, without seals and headers below",
        |f| f.stats.engine.bytes_out,
    ),
    (
        "tidings_gossip_sync_bytes_total",
        Unit::Bytes,
        "the part of them that went over links: syncs, and records too large for a datagram",
        |f| f.stats.engine.link_bytes_out,
    ),
    (
        "tidings_gossip_malformed_frames_total",
        Unit::Count,
        "frames dropped because they don't decode",
        |f| f.stats.engine.malformed + f.stats.links.malformed,
    ),
    (
        "tidings_gossip_dropped_datagrams_total",
        Unit::Count,
        "datagrams the system had no room for, or refused",
        |f| f.stats.net.dropped + f.stats.net.errors,
    ),
    (
        "tidings_gossip_dropped_link_frames_total",
        Unit::Count,
        "frames dropped because their link was gone or too slow",
        |f| f.stats.links.dropped,
    ),
    (
        "tidings_gossip_sealed_frames_total",
        Unit::Count,
        "frames sealed",
        |f| f.stats.seal.sealed,
    ),
    (
        "tidings_gossip_opened_frames_total",
        Unit::Count,
        "sealed frames opened",
        |f| f.stats.seal.opened,
    ),
    (
        "tidings_gossip_views_published_total",
        Unit::Count,
        "views published to local watches",
        |f| f.views_published,
    ),
];

const GAUGES: &[Row<usize>] = &[
    (
        "tidings_gossip_broadcasts_queued",
        Unit::Count,
        "members and records that are being gossiped",
        |f| f.broadcasts_queued,
    ),
    (
        "tidings_gossip_datagrams_queued",
        Unit::Count,
        "datagrams that wait for the socket",
        |f| f.datagrams_queued,
    ),
    (
        "tidings_gossip_links_open",
        Unit::Count,
        "links that are open",
        |f| f.stats.links.open,
    ),
];

const STATES: [MemberState; 4] = [
    MemberState::Alive,
    MemberState::Suspect,
    MemberState::Dead,
    MemberState::Left,
];

/// Reports for one member.
#[derive(Debug)]
pub(crate) struct Meters {
    cluster: SharedString,
}

impl Meters {
    /// Describes everything to the recorder that is installed.
    pub(crate) fn new(cluster: &str) -> Self {
        for (name, unit, meaning, _) in COUNTERS {
            ::metrics::describe_counter!(*name, *unit, *meaning);
        }
        for (name, unit, meaning, _) in GAUGES {
            ::metrics::describe_gauge!(*name, *unit, *meaning);
        }
        ::metrics::describe_counter!(
            REJECTED,
            Unit::Count,
            "frames dropped for their seal, by reason"
        );
        ::metrics::describe_gauge!(MEMBERS, Unit::Count, "members known, by state");
        ::metrics::describe_histogram!(ROUND_TRIP, Unit::Seconds, "from a ping to its answer");
        Self {
            cluster: cluster.to_owned().into(),
        }
    }

    /// A ping was answered.
    pub(crate) fn round_trip(&self, member: &Arc<str>, round_trip: Duration) {
        histogram!(ROUND_TRIP, self.labels(member)).record(round_trip);
    }

    /// Brings counters and gauges up to date.
    pub(crate) fn report(&self, member: &Arc<str>, figures: &Figures) {
        let labels = self.labels(member);
        for (name, _, _, value) in COUNTERS {
            counter!(*name, labels.clone()).absolute(value(figures));
        }
        for (name, _, _, value) in GAUGES {
            // A count of what is in memory: exact in f64.
            gauge!(*name, labels.clone()).set(value(figures) as f64);
        }
        for (reason, count) in figures.stats.seal.rejected() {
            let labels = with(&labels, "reason", reason);
            counter!(REJECTED, labels).absolute(count);
        }
        for (state, count) in STATES.into_iter().zip(figures.members) {
            let state = match state {
                MemberState::Alive => "alive",
                MemberState::Suspect => "suspect",
                MemberState::Dead => "dead",
                MemberState::Left => "left",
            };
            gauge!(MEMBERS, with(&labels, "state", state)).set(count as f64);
        }
    }

    fn labels(&self, member: &Arc<str>) -> Vec<Label> {
        vec![
            Label::new("cluster", self.cluster.clone()),
            Label::new("member", SharedString::from_shared(member.clone())),
        ]
    }
}

fn with(labels: &[Label], key: &'static str, value: &'static str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::from_static_parts(key, value));
    labels
}
