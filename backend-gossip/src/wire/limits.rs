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

/// Most bytes one frame is answered with, about: half of what may wait on one link. The rest comes when the
/// other side has these, and asks about what is missing still.
pub const ANSWER_BYTES_MAX: usize = 8 * LINK_FRAME_BYTES_MAX;

/// Most members a sync answers about that its frame spoke of: twice as many as a batch has.
pub const TOLD_MAX: usize = 4_096;

/// Most ranges, entries or positions read from one sync message: what a frame can hold anyway.
pub const SYNC_ENTRIES_MAX: usize = LINK_FRAME_BYTES_MAX / 8;

/// Longest member name in bytes.
pub const MEMBER_NAME_BYTES_MAX: usize = 160;

/// Longest run of fields of newer versions kept of one item, so that they survive being passed on.
pub const UNKNOWN_BYTES_MAX: usize = 4_096;

/// Most observers of one member: twice a thousand, since one member may have to serve all observers of
/// a cluster that has lost the others. Whoever comes on top is told to try another member.
pub const OBSERVERS_MAX: usize = 2_048;

/// Most selectors one observer subscribes to; whoever watches more subscribes to everything instead. With
/// names of 128 bytes, all observers together hold a member to some 100 MB.
pub const OBSERVED_SELECTORS_MAX: usize = 256;

/// Bytes sent to an observer that it has not reported as read; then the member waits, and sends a fresh
/// view later. Two batches keep a link busy over a round trip, and a thousand observers that don't read
/// hold 128 MiB.
pub const OBSERVER_UNREAD_BYTES_MAX: usize = 2 * LINK_FRAME_BYTES_TARGET;

/// Bytes that wait to be written on the link of an observer: what may be unread, and a batch with a
/// record at the limits on top. For whom more waits it has reported what it can't have read.
pub const OBSERVER_WAITING_BYTES_MAX: usize =
    OBSERVER_UNREAD_BYTES_MAX + 3 * LINK_FRAME_BYTES_TARGET;

/// The same in frames: half of what may wait on a link, so that none is ever dropped there.
pub const OBSERVER_UNREAD_FRAMES_MAX: usize = 128;

/// Most owners asked for in one message; the answer is a fifth of what may be unread.
pub const OBSERVED_OWNERS_ASKED_MAX: usize = 1_024;

/// Most records an observer keeps, tombstones included: ten times the largest registry aimed at.
pub const OBSERVED_RECORDS_MAX: usize = 1_000_000;

/// Most addresses of members told to an observer: whoever finds none of so many has no network.
pub const OBSERVED_ADDRESSES_MAX: usize = 64;

/// Longest reason for being stale that is passed on, in bytes.
pub const OBSERVED_REASON_BYTES_MAX: usize = 512;
/// Longest payload of an event, a query or an answer in bytes: a frame holds it with room to spare,
/// and a link carries it in milliseconds.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Most events kept of one sender, to be given to members that missed them: more than a second's
/// worth of the highest rate that makes sense here.
pub const EVENTS_PER_SENDER_MAX: usize = 1_024;

/// Bytes of events kept of one sender: sixteen of the largest.
pub const EVENT_BYTES_PER_SENDER_MAX: usize = 16 * PAYLOAD_BYTES_MAX;

/// Bytes of events kept of all senders together; the oldest go first.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most senders whose events are kept though they are no members (any more), as known here.
pub const EVENT_STRANGERS_MAX: usize = 1_024;

/// Most streams that others are known to be ahead in. What isn't noted is heard of again with the
/// next digest.
pub const EVENT_CLAIMS_MAX: usize = 4_096;

/// Most events that wait to be pushed, or to be gossiped on. What doesn't fit is repaired by digest.
pub const EVENTS_QUEUED_MAX: usize = 1_024;

/// Most queries of one member that are open at one time: each is asked of every member.
pub const QUERIES_OPEN_MAX: usize = 64;

/// Most queries of others that are remembered, so that each is handed over once.
pub const QUERIES_HEARD_MAX: usize = 1_024;

/// Longest time a query may take; what is remembered of it goes after that.
pub const QUERY_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(300);

/// Bytes of answers to queries that are kept to be given again, in case they got lost.
pub const ANSWERS_KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most answers to one datagram. Members ask one thing at a time, and a leaving one two.
pub const ANSWERS_PER_DATAGRAM_MAX: usize = 2;
