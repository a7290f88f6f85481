//! Every bound on what is read from the network, queued or kept, with the reason for its value.

/// Wire version of the frames this build writes. It reads this one.
pub const VERSION: u8 = 1;

/// Longest link frame in bytes. A record at the contract's limits is below 64 KiB; a sync batch is
/// [`LINK_FRAME_BYTES_TARGET`] plus at most one record. Four times that leaves room to grow.
pub const LINK_FRAME_BYTES_MAX: usize = 512 * 1024;

/// Size at which a sync batch is cut into another frame: large enough to be cheap per record, small
/// enough that one batch can't stall a link or the engine.
pub const LINK_FRAME_BYTES_TARGET: usize = 64 * 1024;

/// Highest generation and incarnation that are heard. Real ones are clocks in microseconds and small
/// counts; the room above is for whoever has to go beyond what a forger or a defect has said.
pub const COUNTER_MAX: u64 = 1 << 60;

/// Most members remembered, dead ones included: ten times the largest cluster aimed at.
pub const MEMBERS_MAX: usize = 100_000;

/// Most bytes remembered of what members say beside who they are, their keyrings and the fields of newer
/// versions, of all together: 160 of each of [`MEMBERS_MAX`], where a keyring of two keys takes 12.
pub const MEMBERS_SAID_BYTES_MAX: usize = 160 * MEMBERS_MAX;

/// Most registrations of one handle: an application has a handful, a bridge some thousand.
pub const REGISTRATIONS_MAX: usize = 16_384;

/// Most records of one owner, tombstones included: as many again as may be registered.
pub const RECORDS_PER_OWNER_MAX: usize = 2 * REGISTRATIONS_MAX;

/// Most records that wait for their owner to become known; they overtake it by milliseconds.
pub const ORPHANS_MAX: usize = 1_024;

/// What a record takes in memory beside its texts, about: maps, indexes, views.
pub const RECORD_OVERHEAD_BYTES: usize = 512;

/// Most bytes of the records of one owner: two kilobytes for each registration of a bridge that has as many
/// as it may, or a thousand instances at all limits.
pub const RECORD_BYTES_PER_OWNER_MAX: usize = 64 << 20;

/// Most bytes of all records. From half of it on owners that were never heard, which may have been
/// invented, get no more.
pub const RECORD_BYTES_MAX: usize = 512 << 20;

/// Longest record that waits for its owner, in bytes: what fits a datagram, since only datagrams
/// overtake each other.
pub const ORPHAN_BYTES_MAX: usize = 2_048;

/// Most broadcasts queued. What is pushed out by a storm is repaired by sync.
pub const BROADCASTS_MAX: usize = 4_096;

/// Most checks that run at one time, those on behalf of others included.
pub const CHECKS_MAX: usize = 256;

/// Most accusers kept and sent of one suspicion: more than any suspicion waits for.
pub const ACCUSERS_MAX: usize = 8;

/// Most bytes one frame is answered with: what may wait on one link. The rest comes with the next sync,
/// which is about what is missing still.
pub const ANSWER_BYTES_MAX: usize = 16 * LINK_FRAME_BYTES_MAX;

/// Most members a sync answers about that its frame spoke of: twice as many as a batch has.
pub const TOLD_MAX: usize = 4_096;

/// Most ranges, entries or positions read from one sync message: what a frame can hold anyway.
pub const SYNC_ENTRIES_MAX: usize = LINK_FRAME_BYTES_MAX / 8;

/// Longest member name in bytes.
pub const MEMBER_NAME_BYTES_MAX: usize = 160;

/// Longest run of fields of newer versions kept of one item, so that they survive being passed on.
pub const UNKNOWN_BYTES_MAX: usize = 4_096;

/// Most answers to one datagram. Members ask one thing at a time, and a leaving one two.
pub const ANSWERS_PER_DATAGRAM_MAX: usize = 2;
