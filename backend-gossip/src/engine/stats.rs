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
    /// Broadcasts queued now.
    pub broadcasts: usize,
    /// Most broadcasts queued at one time.
    pub broadcasts_max: usize,
}
