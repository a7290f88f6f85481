//! The contract, on two backends at once, with what both can be made to suffer: the pairs that take
//! long. `cargo test -p tidings-migration --all-features --test pairs`
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod halves;
mod pair;

use self::halves::{Consul, Etcd, Gossip, Zk};
use self::pair::{Pair, with_gossip};

with_gossip!(etcd_3_4: etcd_to_gossip, Etcd, Gossip);
with_gossip!(
    zookeeper_3_8: gossip_to_zk,
    Gossip,
    Zk,
    reg_7_a_refused_registration_disturbs_no_other = "see gossip_to_etcd"
);
with_gossip!(
    consul: gossip_to_consul,
    Gossip,
    Consul,
    reg_7_a_refused_registration_disturbs_no_other = "see gossip_to_etcd",
    reg_3_a_lost_session_is_registered_again = "see gossip_to_etcd",
    hea_2_health_survives_a_lost_session = "see gossip_to_etcd",
    wat_9_foreign_entries_appear = "see gossip_to_etcd",
    wat_9_unreadable_entries_are_skipped = "see gossip_to_etcd"
);
tidings_conformance::suite!(
    zk_to_etcd,
    Pair<Zk, Etcd>,
    ignore {
        lim_3_an_unknown_option_is_refused = "two handles are no configuration",
        lim_3_a_bad_value_is_refused = "two handles are no configuration",
        lim_3_secrets_are_not_shown = "two handles are no configuration",
    }
);
