//! For processes that can't be redeployed: one backend mirrored into another.
//!
//! A [`Bridge`] keeps a *mirror* in the target of each instance that the source lists: the same key
//! and content, with one metadata entry more,
//! [`tidings.bridge`](tidings_api::METADATA_MIRROR_KEY), that says who keeps it, which generation
//! the owner has in the source, and where that is.
//!
//! # Identity
//! A mirror has its instance's key. A [`Migration`](crate::Migration) that reads both sides takes
//! the generation from the mark, and shows one instance.
//!
//! A backend decides by generations who owns a key, and every `register` draws a new one. A mirror
//! must never push out an owner that comes to the target by itself, at whatever moment; looking
//! before writing would leave a gap between both. So mirrors draw from a range of generations below
//! those of all owners: whoever registers a real instance wins, first or last, and the bridge is
//! told `Superseded`. It yields as long as that owner is there.
//!
//! # Liveness
//! Each mirror is a registration of its own, made after the source, live, has listed the instance,
//! and withdrawn when the source, live, doesn't list it any more. While the source can't be heard
//! mirrors stay as they are, since an outage says nothing about anybody; after
//! [`hold`](BridgeOptions::with_hold) the bridge can't vouch for them any more and withdraws them. A
//! bridge that is killed takes its mirrors along when the target notices: its lease, session or TTL.
//!
//! So what crashed leaves the target within the source's `crashed` bound and the target's
//! `removed` bound, or, where the bridge crashes too, its `crashed` bound; in an outage of the
//! source after `hold` at the latest.
//!
//! # Restart
//! A bridge acts on complete views only: nothing is written before both backends have been live.
//! Then it takes over what the source lists and is mirrored already, as the newer of two mirrors,
//! without a gap. What its former self mirrored and the source doesn't list expires by itself: a bridge
//! withdraws nothing but its own registrations, so there is nothing that it could wipe.
//!
//! # Several bridges
//! Bridges from one [origin](BridgeOptions::with_origin) share the work. Each is registered in the
//! target under the service [`BRIDGES`](crate::BRIDGES), with a number that it raises all the
//! time; each mirror falls to one of them by rendezvous hashing. One whose number stands still for
//! a quarter of the target's `crashed` bound, at least 0.5 and at most 5 s, counts as silent, and the
//! others take its mirrors over while its lease still holds them. A mirror is handed over by the new
//! holder registering it; the former one learns that it was superseded, and lets go.
//!
//! A target that notices a crash faster than that (gossip does, of a killed process) drops the mirrors
//! before anybody takes them over; they come back within its `visible` bound.
//!
//! # No loops
//! What carries a bridge's mark is never mirrored, so two bridges in opposite directions are fine.
//! The price: there is no way over two bridges in a row.

mod ledger;
mod mark;
mod peers;
mod picture;
mod report;
mod runner;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidings_api::{
    Discovery, Error, ErrorKind, Freshness, InstanceId, METADATA_RESERVED_PREFIX, Result, Selector,
    ServiceName, Watch,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) use self::mark::BridgeMark;
pub use self::report::{BridgeReport, BridgeState, Skip};
use self::runner::{Closing, Runner};

/// The name of a bridge as a backend, in errors.
const BRIDGE: &str = "bridge";
/// How long mirrors are kept that can't be verified: as long as a gossip member shows whom it can't
/// reach.
const HOLD_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Mirrors the instances of one backend into another; see the [module](self).
///
/// Dropping it without [`close`](Self::close) acts like a crash as soon as the target's handle is
/// dropped or closed, which is the caller's.
pub struct Bridge {
    commands: mpsc::Sender<Closing>,
    task: JoinHandle<()>,
    report: Arc<Mutex<BridgeReport>>,
}

/// What a [`Bridge`] is started with.
#[derive(Clone, Debug)]
pub struct BridgeOptions {
    services: BTreeSet<ServiceName>,
    name: InstanceId,
    origin: Option<InstanceId>,
    hold: Duration,
}

impl Bridge {
    /// Mirrors what `from` lists into `to`, until it is closed or dropped. It doesn't wait for
    /// either of them to be heard.
    ///
    /// Both handles are best the bridge's own, and stay the caller's: closing the bridge leaves
    /// them open. It closes itself when `to` is closed; a closed `from` is like one that can't be
    /// heard.
    ///
    /// # Errors
    /// Where a handle is closed, or its backend refuses to show what is to be mirrored.
    pub async fn start(
        from: Arc<dyn Discovery>,
        to: Arc<dyn Discovery>,
        options: BridgeOptions,
    ) -> Result<Self> {
        let error = |error: Error| error.with_operation("start a bridge");
        let mut source = Vec::new();
        let mut target = Vec::new();
        for selector in options.selectors() {
            source.push(from.watch(selector.clone()).await.map_err(error)?);
            target.push(to.watch(selector).await.map_err(error)?);
        }
        if !options.services.is_empty() {
            let bridges = Selector::Service(peers::bridges());
            target.push(to.watch(bridges).await.map_err(error)?);
        }
        let origin = match &options.origin {
            Some(origin) => origin.to_string(),
            None => from.status().backend().to_owned(),
        };
        let report = Arc::new(Mutex::new(options.first_report(origin, &source, &target)));
        let (commands, receiver) = mpsc::channel(1);
        let runner = Runner::new(source, target, to, &options, report.clone());
        // It sees the source's end by its watches.
        drop(from);
        Ok(Self {
            commands,
            task: tokio::spawn(runner.run(receiver)),
            report,
        })
    }

    /// How it is doing.
    #[must_use]
    pub fn report(&self) -> BridgeReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends it. Where other bridges share its work, or one of its name was started later, it first
    /// waits until they have taken over its mirrors, for four times as long as makes one silent; else
    /// for the target's `visible` bound, to be sure that there are none. What nobody takes over is
    /// withdrawn. Idempotent.
    ///
    /// # Errors
    /// Where the target can't be heard and so isn't told: the mirrors end with its handle. Or
    /// [`Internal`](ErrorKind::Internal), where the target's backend has panicked, and the bridge with it.
    pub async fn close(&self) -> Result<()> {
        let (reply, closed) = oneshot::channel();
        // Where it has ended, the reply is dropped.
        let _ = self.commands.send(reply).await;
        match closed.await {
            Ok(result) => result,
            Err(_) if self.report().state == BridgeState::Closed => Ok(()),
            Err(_) => Err(Error::new(
                ErrorKind::Internal,
                "the target's backend panicked: what it was told is not known",
            )
            .with_backend(BRIDGE)
            .with_operation("close")),
        }
    }

    /// Waits until it has ended: closed, [superseded](BridgeState::Superseded), or with its target.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }
}

impl BridgeOptions {
    /// All services, with a generated name.
    #[must_use]
    pub fn new() -> Self {
        Self {
            services: BTreeSet::new(),
            name: InstanceId::generate(),
            origin: None,
            hold: HOLD_DEFAULT,
        }
    }

    /// Adds a service to those that are mirrored. Default: all of them.
    ///
    /// # Errors
    /// Where the name is outside LIM-1, or Tidings' own.
    pub fn with_service(mut self, service: impl AsRef<str>) -> Result<Self> {
        let service = ServiceName::new(service)?;
        if service.as_str().starts_with(METADATA_RESERVED_PREFIX) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "service {service}: accepted are those that don't start with \
                     {METADATA_RESERVED_PREFIX}"
                ),
            ));
        }
        self.services.insert(service);
        Ok(self)
    }

    /// The name of this bridge: one that stays the same over restarts lets it take over from its
    /// former self at once, and no two bridges into one target may have the same. Default: a
    /// generated one.
    ///
    /// # Errors
    /// Where it isn't 1–128 of `A-Za-z0-9._:-`.
    pub fn with_name(mut self, name: impl AsRef<str>) -> Result<Self> {
        self.name = InstanceId::new(name)?;
        Ok(self)
    }

    /// Where it mirrors from, for people and for other bridges: those with the same origin and the
    /// same services share the work. Where one target is fed from several places, name each.
    /// Default: the name of the source's backend.
    ///
    /// # Errors
    /// Where it isn't 1–128 of `A-Za-z0-9._:-`.
    pub fn with_origin(mut self, origin: impl AsRef<str>) -> Result<Self> {
        self.origin = Some(InstanceId::new(origin)?);
        Ok(self)
    }

    /// How long mirrors are kept while the source can't be heard. Default: 5 min.
    ///
    /// Too short, and an outage of the source takes away in the target who is well; longer, and who
    /// ended in the outage is shown for longer.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    fn selectors(&self) -> Vec<Selector> {
        match self.services.is_empty() {
            true => vec![Selector::All],
            false => self
                .services
                .iter()
                .cloned()
                .map(Selector::Service)
                .collect(),
        }
    }

    /// The services as a metadata value, which has no room for many of them.
    fn selection(&self) -> String {
        const LISTED_BYTES_MAX: usize = 256;
        if self.services.is_empty() {
            return "all".to_owned();
        }
        let names: Vec<_> = self.services.iter().map(ServiceName::as_str).collect();
        let listed = names.join(" ");
        if listed.len() <= LISTED_BYTES_MAX {
            return listed;
        }
        format!("{} services {:016x}", names.len(), peers::hash(&listed))
    }

    fn first_report(&self, origin: String, source: &[Watch], target: &[Watch]) -> BridgeReport {
        let freshness = |watches: &[Watch]| {
            let unknown = || Freshness::stale("it is not watched");
            let first = watches.first().map(Watch::view);
            first.map_or_else(unknown, |view| view.freshness().clone())
        };
        BridgeReport {
            name: self.name.to_string(),
            origin,
            state: BridgeState::Standby,
            source: freshness(source),
            target: freshness(target),
            unverified_for: None,
            mirrored: Default::default(),
            skipped: Default::default(),
            others: Default::default(),
        }
    }
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}
