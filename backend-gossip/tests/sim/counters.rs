//! What was injected and what it did, so that no run can pass because nothing happened.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of one run, or the sum of many.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Counters {
            /// Adds the counts of another run.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// All counts by name.
            pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    events,
    virtual_seconds,
    datagrams_sent,
    datagrams_delivered,
    datagrams_lost,
    datagrams_duplicated,
    /// Delivered a second time, seconds later.
    datagrams_replayed,
    datagrams_reordered,
    /// Stopped by a partition.
    datagrams_cut,
    /// Sent to a host where no process listens, or that is gone.
    datagrams_to_nobody,
    /// Dropped because a paused or slow process didn't empty its socket.
    datagrams_overflowed,
    links_opened,
    links_refused,
    links_unreachable,
    links_broken,
    link_frames,
    /// Held up by a partition or by loss.
    link_frames_delayed,
    partitions,
    partitions_one_way,
    /// A member that nobody's frames reached.
    members_cut_off,
    lossy_hosts,
    kills,
    silenced,
    restarts,
    restarts_elsewhere,
    restarts_with_clock_back,
    /// Restarts of members that ran until that moment.
    restarts_unnoticed,
    addresses_swapped,
    pauses,
    inputs_while_paused,
    slow_spells,
    inputs_slowed,
    clock_jumps,
    noise,
    leaves,
    registered,
    updated,
    repeated,
    health_reported,
    deregistered,
    rivals,
    oversize,
    events_sent,
    events_large,
    events_told,
    /// Told of, that nobody had any more.
    events_missed,
    /// Streams asked for because something of them was missing.
    event_pulls,
    events_compared,
    superseded,
    names_taken,
    stale,
    suspicions,
    refutations,
    deaths,
    syncs,
    malformed,
    foreign,
}
