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

/// Most registrations of one handle: an application has a handful, a bridge some thousand.
pub const REGISTRATIONS_MAX: usize = 16_384;

/// Most records of one owner, tombstones included: as many again as may be registered.
pub const RECORDS_PER_OWNER_MAX: usize = 2 * REGISTRATIONS_MAX;

/// Most records that wait for their owner to become known; they overtake it by milliseconds.
pub const ORPHANS_MAX: usize = 1_024;

/// Most broadcasts queued. What is pushed out by a storm is repaired by sync.
pub const BROADCASTS_MAX: usize = 4_096;

/// Most checks that run at one time, those on behalf of others included.
pub const CHECKS_MAX: usize = 256;

/// Most accusers kept and sent of one suspicion: more than any suspicion waits for.
pub const ACCUSERS_MAX: usize = 8;

/// Most ranges, entries or positions read from one sync message: what a frame can hold anyway.
pub const SYNC_ENTRIES_MAX: usize = LINK_FRAME_BYTES_MAX / 8;

/// Longest member name in bytes.
pub const MEMBER_NAME_BYTES_MAX: usize = 160;

/// Longest run of fields of newer versions kept of one item, so that they survive being passed on.
pub const UNKNOWN_BYTES_MAX: usize = 4_096;
