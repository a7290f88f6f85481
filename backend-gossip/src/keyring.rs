//! Changing keys while the cluster runs.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tidings_api::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::driver::{Command, KeyChange};
use crate::key_file::KeyFile;
use crate::seal::{KeyId, SealKey, SealMode, Told};
use crate::{BACKEND, GossipDiscovery};

/// Most members that an error names; the report has all.
const NAMED_MAX: usize = 5;

/// The keys of a member, and who else has them: see [`GossipDiscovery::keyring`].
///
/// # Changing the key of a cluster
/// One step after the other, each on every member before the next, in any order of the members:
///
/// 1. [`add`](Self::add) the new key: everybody understands both.
/// 2. [`use_key`](Self::use_key): what is sent is sealed with it.
/// 3. [`retire`](Self::retire) the old one.
///
/// Each step is refused where it would part members, with their names; [`report`](Self::report) shows
/// how far all of them are. It is told in gossip, so every member knows it of all within about a
/// second. A key itself is never sent: it comes to each machine the way its other secrets do.
///
/// # Sealing a cluster that runs unsealed
/// `add` a key everywhere, then [`set_mode`](Self::set_mode) to [`SealMode::Send`] everywhere, then to
/// [`SealMode::Required`]. The same steps backwards open it.
///
/// # With a key file
/// Where the keys come from [`keys_file`](crate::GossipConfig::keys_file), the file is what to change:
/// a second line with the new key, then that line first, then without the other. Members look at it
/// every two seconds. Then `add`, `use_key` and `retire` are refused.
#[derive(Clone, Copy, Debug)]
pub struct Keyring<'a> {
    member: &'a GossipDiscovery,
}

/// Whether a step is refused where it would part members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Refused, with the names of those who aren't ready.
    Check,
    /// Done all the same: you know that they are gone for good, or that they will follow.
    Override,
}

/// Who has which key, as each member told it: see [`Keyring::report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReport {
    members: Vec<MemberKeys>,
}

/// What one member told of its keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberKeys {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// What it sends and understands.
    pub mode: SealMode,
    /// The key it seals with, if it has one.
    pub uses: Option<KeyId>,
    /// The keys it understands, that one among them.
    pub holds: Vec<KeyId>,
}

impl<'a> Keyring<'a> {
    pub(crate) fn new(member: &'a GossipDiscovery) -> Self {
        Self { member }
    }

    /// Understands one more key, or does so already. The first key of an unsealed member puts it in
    /// [`SealMode::Accept`], and is the one it will seal with.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where there are eight already;
    /// [`Denied`](ErrorKind::Denied) where the keys come from a file;
    /// [`Closed`](ErrorKind::Closed).
    pub async fn add(&self, key: SealKey) -> Result<KeyId> {
        let id = key.id();
        self.by_hand("add")?;
        self.change(KeyChange::Add(key), Gate::Check).await?;
        Ok(id)
    }

    /// Seals with this key from now on.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) where this member doesn't have it, where others don't, whom it
    /// names, or where the keys come from a file; [`Closed`](ErrorKind::Closed).
    pub async fn use_key(&self, id: KeyId, gate: Gate) -> Result<()> {
        self.by_hand("use")?;
        self.change(KeyChange::Use(id), gate).await
    }

    /// Understands this key no longer.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) where this member seals with it, where others do, whom it names,
    /// or where the keys come from a file; [`Closed`](ErrorKind::Closed).
    pub async fn retire(&self, id: KeyId, gate: Gate) -> Result<()> {
        self.by_hand("retire")?;
        self.change(KeyChange::Retire(id), gate).await
    }

    /// Goes on in another mode. [`SealMode::Off`] forgets the keys.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) without a key, and where others would not be understood or would
    /// not understand, whom it names; [`Closed`](ErrorKind::Closed).
    pub async fn set_mode(&self, mode: SealMode, gate: Gate) -> Result<()> {
        self.change(KeyChange::Mode(mode), gate).await
    }

    /// Reads the key file now instead of within two seconds.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where it can't be read, or there is none;
    /// [`Closed`](ErrorKind::Closed).
    pub async fn reload(&self) -> Result<()> {
        let path = self.file().ok_or_else(|| {
            let message = "keys_file is not set: there is nothing to reload";
            Error::invalid_config(message).with_backend(BACKEND)
        })?;
        let keys = KeyFile::read(path).await;
        let keys = keys.map_err(|error| error.with_backend(BACKEND))?;
        self.change(KeyChange::Replace(keys), Gate::Override).await
    }

    /// Which keys each member has and uses, this one among them; without those who are dead or have
    /// left. Members that run a version without sealing show as [`SealMode::Off`].
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed).
    pub async fn report(&self) -> Result<KeyReport> {
        self.member.ask(Command::KeyReport).await
    }

    async fn change(&self, change: KeyChange, gate: Gate) -> Result<()> {
        let operation = change.to_string();
        self.member
            .ask(|reply| Command::ChangeKeys(change, gate, reply))
            .await
            .and_then(|changed| changed)
            .map_err(|error| error.with_backend(BACKEND).with_operation(operation))
    }

    fn by_hand(&self, step: &str) -> Result<()> {
        self.file().map_or(Ok(()), |path| {
            let path = path.display();
            let message =
                format!("{step} key: the keys are those of keys_file \"{path}\": change it");
            Err(Error::new(ErrorKind::Denied, message).with_backend(BACKEND))
        })
    }

    fn file(&self) -> Option<&'a Path> {
        self.member.keys_file.as_deref()
    }
}

impl SealKey {
    /// Draws a new key.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) where the system has no random bytes.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        random(&mut *bytes)?;
        Self::from_bytes(*bytes)
    }
}

/// Fills `bytes` with random ones of the system.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        let message = "the system has no random bytes";
        Error::new(ErrorKind::Unavailable, message).with_source(error)
    })
}

impl KeyReport {
    pub(crate) fn new(told: impl Iterator<Item = (Arc<str>, SocketAddr, Told)>) -> Self {
        let members = told.map(|(name, address, told)| MemberKeys {
            name,
            address,
            mode: told.mode,
            uses: told.uses,
            holds: told.holds,
        });
        Self {
            members: members.collect(),
        }
    }

    /// All members.
    #[must_use]
    pub fn members(&self) -> &[MemberKeys] {
        &self.members
    }

    /// Those who don't understand what is sealed with a key.
    pub fn lacking(&self, id: KeyId) -> impl Iterator<Item = &MemberKeys> {
        self.members
            .iter()
            .filter(move |keys| !keys.holds.contains(&id))
    }

    /// Those who seal with a key, or will as soon as they seal.
    pub fn using(&self, id: KeyId) -> impl Iterator<Item = &MemberKeys> {
        self.members
            .iter()
            .filter(move |keys| keys.uses == Some(id))
    }

    /// Why a step would part members, if it would.
    pub(crate) fn refuse(&self, change: &KeyChange, primary: Option<KeyId>) -> Option<Error> {
        let (problem, who): (_, Vec<_>) = match change {
            KeyChange::Add(_) | KeyChange::Replace(_) => return None,
            KeyChange::Use(id) => ("don't have the key", self.lacking(*id).collect()),
            KeyChange::Retire(id) => ("still seal with it", self.using(*id).collect()),
            KeyChange::Mode(mode) => self.apart(*mode, primary),
        };
        if who.is_empty() {
            return None;
        }
        let named: Vec<_> = who.iter().take(NAMED_MAX).map(|keys| &*keys.name).collect();
        let more = if who.len() > NAMED_MAX { ", …" } else { "" };
        let (count, all, named) = (who.len(), self.members.len(), named.join(", "));
        let message = format!("{count} of {all} members {problem}: {named}{more}");
        Some(Error::new(ErrorKind::Denied, message))
    }

    /// Who is too far from a mode.
    fn apart(&self, mode: SealMode, primary: Option<KeyId>) -> (&'static str, Vec<&MemberKeys>) {
        let those = |condition: &dyn Fn(&MemberKeys) -> bool| -> Vec<_> {
            self.members.iter().filter(|keys| condition(keys)).collect()
        };
        let understands = |keys: &MemberKeys| {
            keys.mode.hears_sealed() && primary.is_none_or(|id| keys.holds.contains(&id))
        };
        match mode {
            SealMode::Off => ("seal", those(&|keys| keys.mode.sends_sealed())),
            SealMode::Accept => (
                "hear nothing unsealed",
                those(&|keys| !keys.mode.hears_unsealed()),
            ),
            SealMode::Send => ("don't have the key", those(&|keys| !understands(keys))),
            SealMode::Required => ("don't seal yet", those(&|keys| !keys.mode.sends_sealed())),
        }
    }
}

/// One line a member.
impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for keys in &self.members {
            let uses = keys.uses.map_or("none".to_owned(), |id| id.to_string());
            let holds: Vec<_> = keys.holds.iter().map(ToString::to_string).collect();
            let (name, mode, holds) = (&keys.name, keys.mode, holds.join(" "));
            writeln!(f, "{name}: {mode}, uses {uses}, holds {holds}")?;
        }
        Ok(())
    }
}
