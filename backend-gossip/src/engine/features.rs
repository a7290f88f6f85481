//! Who understands what: by each member's own word, which travels with its [`Alive`].
//!
//! [`Alive`]: crate::wire::message::Alive

use super::Engine;
use crate::wire::Features;

impl Engine {
    /// What every present member understands, this one included: what may be used towards all.
    /// Smaller while members of an earlier build are there, and when one of them joins.
    #[must_use]
    pub fn understood(&self) -> Features {
        let present = self
            .members
            .iter()
            .filter(|(_, member)| member.is_present());
        present.fold(self.config.features, |all, (_, member)| {
            all.intersection(member.features)
        })
    }

    /// What a member understands, by its id; nothing where it isn't known or not present.
    #[must_use]
    pub fn understood_by(&self, id: u64) -> Features {
        let member = self.members.find(id).filter(|member| member.is_present());
        member.map_or(Features::NONE, |member| member.features)
    }

    /// How many of the present members lack some of `features`, this one included.
    #[must_use]
    pub fn lacking(&self, features: Features) -> usize {
        let present = self
            .members
            .iter()
            .filter(|(_, member)| member.is_present());
        let lacking = present.filter(|(_, member)| !member.features.contains(features));
        lacking.count()
    }
}
