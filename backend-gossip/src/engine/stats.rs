//! What a member counts.

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Frames sent over links.
    pub link_frames_out: u64,
    /// Bytes of both.
    pub bytes_out: u64,
    /// Frames dropped, in whole or from the first bad message on, because they don't decode.
    pub malformed: u64,
    /// Frames dropped because another cluster, or this member itself, sent them, and messages of a
    /// sync that came by datagram.
    pub foreign: u64,
    /// Answers not given: the datagram that asked was answered enough for who sent it.
    pub unanswered: u64,
    /// Members this member has probed, each probe counted once.
    pub probes: u64,
    /// Probes that were not answered, by no way.
    pub failed_probes: u64,
    /// Suspicions this member raised.
    pub suspicions: u64,
    /// Members this member declared dead.
    pub deaths: u64,
    /// Accusations of itself that this member refuted.
    pub refutations: u64,
    /// Answers of probes whose digest was another one than this member's.
    pub digest_mismatches: u64,
    /// Syncs this member started.
    pub syncs: u64,
    /// Bytes of frames of syncs, those this member sent.
    pub sync_bytes_out: u64,
    /// Members refused because a bound was reached.
    pub refused_members: u64,
    /// Records refused because a bound was reached.
    pub refused_records: u64,
    /// Frames sent to observers.
    pub observer_frames_out: u64,
    /// Bytes of them; not part of `bytes_out`.
    pub observer_bytes_out: u64,
    /// Observers turned away because there were too many, or one wanted too much.
    pub observers_refused: u64,
    /// How often an observer that had been too slow was shown all anew.
    pub observers_behind: u64,
    /// Observers now.
    pub observers: usize,
    /// User events.
    pub events: EventStats,
    /// Queries.
    pub queries: QueryStats,
    /// Broadcasts queued now.
    pub broadcasts: usize,
    /// Most broadcasts queued at one time.
    pub broadcasts_max: usize,
}

/// Counters of user events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventStats {
    /// Events that the own application has sent.
    pub sent: u64,
    /// Events told, those of this member included.
    pub told: u64,
    /// Events that nobody had any more when this member could be reached again.
    pub missed: u64,
    /// Events refused because a bound was reached.
    pub refused: u64,
    /// Answers of probes whose digest of all streams was another one than this member's.
    pub digest_mismatches: u64,
    /// Comparisons of streams that this member started.
    pub compared: u64,
    /// Streams in which this member has asked for events it missed.
    pub pulls: u64,
    /// Bytes of frames that compared streams, or gave others what they missed.
    pub replay_bytes_out: u64,
    /// Bytes of events kept now.
    pub kept_bytes: usize,
    /// Events queued now.
    pub queued: usize,
}

/// Counters of queries since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Queries that the own application has asked.
    pub asked: u64,
    /// Answers to them that were in time.
    pub answers: u64,
    /// Words on queries that came when they were over, or again.
    pub late: u64,
    /// Queries handed to the own application.
    pub heard: u64,
    /// Queries refused because a bound was reached.
    pub refused: u64,
}
