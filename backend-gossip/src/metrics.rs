//! What a member counts, for the [`metrics`] facade: docs/metrics.md lists it for users.
//!
//! The engine counts in plain integers; every few seconds they are handed over, and the round trips
//! since. So measuring costs nothing per packet, and next to nothing where no recorder is installed.

use std::sync::Arc;
use std::sync::Once;

use metrics::{
    Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::Stats;
use crate::engine::{Engine, MemberState};

/// Every counter: its name, unit and meaning, and where it stands.
type Counter = (&'static str, Unit, &'static str, fn(&Stats) -> u64);

const COUNTERS: &[Counter] = &[
    (
        "tidings_gossip_datagrams_received_total",
        Unit::Count,
        "datagrams received",
        |stats| stats.engine.datagrams_in,
    ),
    (
        "tidings_gossip_datagrams_sent_total",
        Unit::Count,
        "datagrams sent",
        |stats| stats.engine.datagrams_out,
    ),
    (
        "tidings_gossip_link_frames_sent_total",
        Unit::Count,
        "frames sent over links",
        |stats| stats.engine.link_frames_out,
    ),
    (
        "tidings_gossip_sent_bytes_total",
        Unit::Bytes,
        "bytes of datagrams and frames sent",
        |stats| stats.engine.bytes_out,
    ),
    (
        "tidings_gossip_malformed_frames_total",
        Unit::Count,
        "frames that don't decode",
        |stats| stats.engine.malformed + stats.links.malformed,
    ),
    (
        "tidings_gossip_foreign_frames_total",
        Unit::Count,
        "frames of other clusters",
        |stats| stats.engine.foreign,
    ),
    (
        "tidings_gossip_probes_total",
        Unit::Count,
        "members probed",
        |stats| stats.engine.probes,
    ),
    (
        "tidings_gossip_failed_probes_total",
        Unit::Count,
        "probes that nobody answered",
        |stats| stats.engine.failed_probes,
    ),
    (
        "tidings_gossip_suspicions_total",
        Unit::Count,
        "suspicions raised by this member",
        |stats| stats.engine.suspicions,
    ),
    (
        "tidings_gossip_refutations_total",
        Unit::Count,
        "accusations of itself refuted",
        |stats| stats.engine.refutations,
    ),
    (
        "tidings_gossip_deaths_total",
        Unit::Count,
        "members this one declared dead",
        |stats| stats.engine.deaths,
    ),
    (
        "tidings_gossip_digest_mismatches_total",
        Unit::Count,
        "answers with another digest",
        |stats| stats.engine.digest_mismatches,
    ),
    (
        "tidings_gossip_syncs_total",
        Unit::Count,
        "syncs started by this member",
        |stats| stats.engine.syncs,
    ),
    (
        "tidings_gossip_sync_sent_bytes_total",
        Unit::Bytes,
        "bytes sent in syncs",
        |stats| stats.engine.sync_bytes_out,
    ),
    (
        "tidings_gossip_refused_records_total",
        Unit::Count,
        "records beyond a bound",
        |stats| stats.engine.refused_records,
    ),
    (
        "tidings_gossip_refused_members_total",
        Unit::Count,
        "members beyond a bound",
        |stats| stats.engine.refused_members,
    ),
    (
        "tidings_gossip_unanswered_total",
        Unit::Count,
        "answers not given to who asked too much",
        |stats| stats.engine.unanswered,
    ),
    (
        "tidings_gossip_dropped_datagrams_total",
        Unit::Count,
        "datagrams without room",
        |stats| stats.net.dropped,
    ),
    (
        "tidings_gossip_socket_errors_total",
        Unit::Count,
        "datagrams the system refused",
        |stats| stats.net.errors,
    ),
    (
        "tidings_gossip_links_opened_total",
        Unit::Count,
        "links opened by this member",
        |stats| stats.links.opened,
    ),
    (
        "tidings_gossip_links_accepted_total",
        Unit::Count,
        "links opened by others",
        |stats| stats.links.accepted,
    ),
    (
        "tidings_gossip_links_evicted_total",
        Unit::Count,
        "links ended to make room",
        |stats| stats.links.evicted,
    ),
    (
        "tidings_gossip_links_refused_total",
        Unit::Count,
        "links without room",
        |stats| stats.links.turned_away,
    ),
    (
        "tidings_gossip_links_timed_out_total",
        Unit::Count,
        "links whose peer said nothing, half a frame, or read nothing",
        |stats| stats.links.timed_out,
    ),
    (
        "tidings_gossip_dropped_link_frames_total",
        Unit::Count,
        "frames without a link",
        |stats| stats.links.dropped,
    ),
    (
        "tidings_gossip_observer_sent_bytes_total",
        Unit::Bytes,
        "bytes sent to observers",
        |stats| stats.engine.observer_bytes_out,
    ),
    (
        "tidings_gossip_observers_refused_total",
        Unit::Count,
        "observers turned away",
        |stats| stats.engine.observers_refused,
    ),
    (
        "tidings_gossip_observers_behind_total",
        Unit::Count,
        "observers shown all anew",
        |stats| stats.engine.observers_behind,
    ),
    (
        "tidings_gossip_sealed_frames_total",
        Unit::Count,
        "frames sealed",
        |stats| stats.seal.sealed,
    ),
    (
        "tidings_gossip_opened_frames_total",
        Unit::Count,
        "sealed frames opened",
        |stats| stats.seal.opened,
    ),
    (
        "tidings_gossip_events_sent_total",
        Unit::Count,
        "user events sent",
        |stats| stats.engine.events.sent,
    ),
    (
        "tidings_gossip_events_heard_total",
        Unit::Count,
        "user events told",
        |stats| stats.engine.events.told,
    ),
    (
        "tidings_gossip_events_missed_total",
        Unit::Count,
        "user events nobody had any more",
        |stats| stats.engine.events.missed,
    ),
    (
        "tidings_gossip_refused_events_total",
        Unit::Count,
        "user events beyond a bound",
        |stats| stats.engine.events.refused,
    ),
    (
        "tidings_gossip_event_pulls_total",
        Unit::Count,
        "streams of events asked for",
        |stats| stats.engine.events.pulls,
    ),
    (
        "tidings_gossip_event_replay_sent_bytes_total",
        Unit::Bytes,
        "bytes that compare or replay events",
        |stats| stats.engine.events.replay_bytes_out,
    ),
    (
        "tidings_gossip_queries_asked_total",
        Unit::Count,
        "queries asked",
        |stats| stats.engine.queries.asked,
    ),
    (
        "tidings_gossip_query_answers_total",
        Unit::Count,
        "answers to them in time",
        |stats| stats.engine.queries.answers,
    ),
    (
        "tidings_gossip_late_query_answers_total",
        Unit::Count,
        "words on queries too late or twice",
        |stats| stats.engine.queries.late,
    ),
    (
        "tidings_gossip_queries_heard_total",
        Unit::Count,
        "queries handed to the application",
        |stats| stats.engine.queries.heard,
    ),
    (
        "tidings_gossip_refused_queries_total",
        Unit::Count,
        "queries beyond a bound",
        |stats| stats.engine.queries.refused,
    ),
    (
        "tidings_gossip_views_published_total",
        Unit::Count,
        "views given to watches",
        |stats| stats.views_published,
    ),
];

const REJECTED: &str = "tidings_gossip_rejected_frames_total";
const MEMBERS: &str = "tidings_gossip_members";
const RECORDS: &str = "tidings_gossip_records";
const QUEUED_BROADCASTS: &str = "tidings_gossip_queued_broadcasts";
const QUEUED_DATAGRAMS: &str = "tidings_gossip_queued_datagrams";
const EVENT_BYTES: &str = "tidings_gossip_event_bytes";
const QUEUED_LINK_BYTES: &str = "tidings_gossip_queued_link_bytes";
const OPEN_LINKS: &str = "tidings_gossip_open_links";
const OBSERVERS: &str = "tidings_gossip_observers";
const ROUND_TRIP: &str = "tidings_gossip_round_trip_seconds";

const STATES: [(MemberState, &str); 4] = [
    (MemberState::Alive, "alive"),
    (MemberState::Suspect, "suspect"),
    (MemberState::Dead, "dead"),
    (MemberState::Left, "left"),
];

/// The metrics of one member.
#[derive(Debug)]
pub(crate) struct Metrics {
    cluster: Arc<str>,
}

impl Metrics {
    pub(crate) fn new(cluster: Arc<str>) -> Self {
        Self { cluster }
    }

    /// Hands over what there is; `waiting` datagrams wait for the socket.
    pub(crate) fn record(&self, stats: &Stats, waiting: usize, engine: &mut Engine) {
        describe();
        let labels = vec![
            Label::new("cluster", self.cluster.clone()),
            Label::new("member", engine.identity().name.clone()),
        ];
        for (name, _, _, value) in COUNTERS {
            counter!(*name, labels.clone()).absolute(value(stats));
        }
        for (reason, count) in stats.seal.rejected() {
            counter!(REJECTED, with(&labels, "reason", reason)).absolute(count);
        }
        for (state, text) in STATES {
            let members = engine.members_in(state) as f64;
            gauge!(MEMBERS, with(&labels, "state", text)).set(members);
        }
        gauge!(RECORDS, labels.clone()).set(engine.records() as f64);
        gauge!(QUEUED_BROADCASTS, labels.clone()).set(stats.engine.broadcasts as f64);
        gauge!(EVENT_BYTES, labels.clone()).set(stats.engine.events.kept_bytes as f64);
        gauge!(QUEUED_DATAGRAMS, labels.clone()).set(waiting as f64);
        gauge!(QUEUED_LINK_BYTES, labels.clone()).set(stats.links.queued as f64);
        gauge!(OPEN_LINKS, labels.clone()).set(stats.links.open as f64);
        gauge!(OBSERVERS, labels.clone()).set(stats.engine.observers as f64);
        let round_trips = histogram!(ROUND_TRIP, labels);
        while let Some(round_trip) = engine.poll_round_trip() {
            round_trips.record(round_trip);
        }
    }
}

fn with(labels: &[Label], key: &'static str, value: &'static str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::from_static_parts(key, value));
    labels
}

/// Tells the recorder what the names mean, once.
fn describe() {
    static DESCRIBED: Once = Once::new();
    DESCRIBED.call_once(|| {
        for (name, unit, meaning, _) in COUNTERS {
            describe_counter!(*name, *unit, *meaning);
        }
        describe_gauge!(MEMBERS, Unit::Count, "members known, by state");
        describe_gauge!(RECORDS, Unit::Count, "records known, tombstones included");
        describe_gauge!(QUEUED_BROADCASTS, Unit::Count, "changes queued for gossip");
        describe_gauge!(EVENT_BYTES, Unit::Bytes, "user events kept");
        describe_gauge!(
            QUEUED_LINK_BYTES,
            Unit::Bytes,
            "bytes that wait to be written on links"
        );
        describe_gauge!(OPEN_LINKS, Unit::Count, "links open, either way");
        describe_gauge!(OBSERVERS, Unit::Count, "observers of this member");
        describe_gauge!(
            QUEUED_DATAGRAMS,
            Unit::Count,
            "datagrams that wait for the socket"
        );
        describe_counter!(REJECTED, Unit::Count, "sealed frames dropped, by reason");
        describe_histogram!(ROUND_TRIP, Unit::Seconds, "time from a ping to its answer");
    });
}
