//! How a bridge is doing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tidings_api::{Error, Freshness, InstanceKey};

/// How a [`Bridge`](crate::Bridge) is doing, at one moment. `Display` is for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BridgeReport {
    /// Its name.
    pub name: String,
    /// Where it mirrors from, as the mirrors say it.
    pub origin: String,
    /// What it is doing.
    pub state: BridgeState,
    /// Whether the backend that is mirrored can be heard.
    pub source: Freshness,
    /// Whether the backend that is mirrored into can be heard.
    pub target: Freshness,
    /// How long nothing could be verified, where the source isn't heard. After
    /// [`hold`](crate::BridgeOptions::with_hold) the mirrors are withdrawn.
    pub unverified_for: Option<Duration>,
    /// What this bridge mirrors.
    pub mirrored: BTreeSet<InstanceKey>,
    /// What the source lists and this bridge doesn't mirror, and why.
    pub skipped: BTreeMap<InstanceKey, Skip>,
    /// The other bridges into the target: what they do, and whether they give signs of life.
    pub others: BTreeMap<String, (BridgeState, bool)>,
}

/// What a bridge is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BridgeState {
    /// It hears the source, which the other bridges can know, and mirrors its share.
    Ready,
    /// It doesn't hear the source, or not yet, or the target doesn't have its own registration: it
    /// keeps what it mirrors, and others may take it.
    Standby,
    /// It is closing: it waits for others to take over.
    Leaving,
    /// Another bridge of the same name was started later: this one hands over to it. What that one
    /// doesn't take over is kept for [`hold`](crate::BridgeOptions::with_hold), or until it is closed.
    Superseded,
    /// It has ended.
    Closed,
}

/// Why an instance isn't mirrored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Skip {
    /// It is a mirror itself: mirroring it again would never end.
    Mirror,
    /// Its owner is in the target by itself.
    Owned,
    /// The other bridge of this name mirrors it, or is about to.
    Elsewhere(String),
    /// Somebody took it over a moment ago.
    TakenOver,
    /// The target can't be heard, and might have its owner.
    Unheard,
    /// The target refuses it, or it has no room for a bridge's mark.
    Refused(Error),
}

impl BridgeState {
    /// The name: `ready`, `standby`, `leaving`, `superseded` or `closed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Standby => "standby",
            Self::Leaving => "leaving",
            Self::Superseded => "superseded",
            Self::Closed => "closed",
        }
    }

    /// What another bridge says it is doing. What a newer version says is for those who know it.
    pub(super) fn read(text: &str) -> Self {
        match text {
            "ready" => Self::Ready,
            "leaving" => Self::Leaving,
            _ => Self::Standby,
        }
    }
}

impl fmt::Display for BridgeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mirror => f.write_str("it is a mirror itself"),
            Self::Owned => f.write_str("its owner is in the target"),
            Self::Elsewhere(name) => write!(f, "it is left to the bridge {name:?}"),
            Self::TakenOver => f.write_str("somebody took it over a moment ago"),
            Self::Unheard => f.write_str("the target can't be heard"),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

impl fmt::Display for BridgeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            origin,
            state,
            source,
            target,
            unverified_for,
            mirrored,
            skipped,
            others,
        } = self;
        write!(
            f,
            "bridge {name} from {origin}: {state}, {} mirrored, {} not, source {source}, target {target}",
            mirrored.len(),
            skipped.len(),
        )?;
        if let Some(time) = unverified_for {
            write!(f, ", unverified for {:.0} s", time.as_secs_f64())?;
        }
        for (name, (state, alive)) in others {
            let silent = if *alive { "" } else { ", silent" };
            write!(f, "\n  beside bridge {name}: {state}{silent}")?;
        }
        for (key, skip) in skipped {
            write!(f, "\n  {key} is not mirrored: {skip}")?;
        }
        Ok(())
    }
}
