//! What members say of their keyrings: opaque here, as current as the membership.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Engine;
use super::items::ItemKey;

impl Engine {
    /// Says something else of this member's keyring, opaque here, to all the others.
    pub fn tell_seal(&mut self, now: Instant, told: &[u8]) {
        if *self.members.me().seal == *told || self.leave.is_some() {
            return;
        }
        self.members.change(self.me, &mut self.rng, |me| {
            me.seal = told.into();
            me.incarnation = me.incarnation.saturating_add(1);
        });
        self.index_member(self.me);
        self.spread(now, ItemKey::Member(self.me));
    }

    /// What the present members, this one included, have said of their keyrings.
    pub fn seals(&self) -> impl Iterator<Item = (Arc<str>, SocketAddr, &[u8])> {
        let present = self.members.iter().filter(|(_, m)| m.is_present());
        present.map(|(_, member)| (member.name.clone(), member.address, &*member.seal))
    }
}
