//! The contract of Tidings as a test suite, for every backend, also yours.
//!
//! [`Discovery`](tidings_api::Discovery) promises the same on every backend, in numbered clauses.
//! Here each clause has cases, named after the clause and the sentence they check, so that a
//! failure prints which promise broke:
//!
//! ```text
//! test gossip::wat_4_an_outage_is_not_empty ... FAILED
//! WAT-4 is broken: handle C saw the changes ["-web-0", "-web-1"] instead of []; its view is …
//! ```
//!
//! # Running it
//! Add this crate as a dev-dependency, implement [`Fixture`] and [`Handle`] in a test file, and name
//! the suite:
//!
//! ```
//! # use tidings_conformance::MemoryFixture as MyFixture;
//! tidings_conformance::suite!(mine, MyFixture);
//! # fn main() {}
//! ```
//!
//! That makes one `#[test]` a case. What the backend has no way to do (its server can't be stopped,
//! as there is none) is listed, and then shows as *ignored*, with the reason, never as passed:
//!
//! ```
//! # use tidings_conformance::MemoryFixture as MyFixture;
//! tidings_conformance::suite!(
//!     mine,
//!     MyFixture,
//!     ignore {
//!         wat_6_a_restart_without_data_is_invisible = "there is no server",
//!         wat_9_foreign_entries_appear = "no other tool speaks the protocol",
//!     }
//! );
//! # fn main() {}
//! ```
//!
//! A case that needs what the fixture can't do, and isn't listed, fails and says so. Listing what is
//! no case doesn't compile:
//!
//! ```compile_fail,E0425
//! # use tidings_conformance::MemoryFixture as MyFixture;
//! tidings_conformance::suite!(mine, MyFixture, ignore { wat_99_nonsense = "a typing error" });
//! # fn main() {}
//! ```
//!
//! Each run prints the seed of its random choices; `TIDINGS_CONFORMANCE_SEED=…` repeats them.
//!
//! # Implementing a fixture
//! Two methods have to be there; this is a whole fixture of a backend whose "server" is a value in
//! memory:
//!
//! ```
//! use std::sync::Arc;
//!
//! use tidings_api::{Discovery, MemoryDiscovery, MemoryRegistry};
//! use tidings_conformance::{Failure, Fixture, Handle, async_trait};
//!
//! struct MyFixture {
//!     registry: MemoryRegistry,
//! }
//!
//! struct MyHandle {
//!     mine: Arc<MemoryDiscovery>,
//! }
//!
//! #[async_trait]
//! impl Fixture for MyFixture {
//!     async fn start(_namespace: &str) -> Result<Self, Failure> {
//!         let registry = MemoryRegistry::new();
//!         Ok(Self { registry })
//!     }
//!
//!     async fn connect(&self) -> Result<Box<dyn Handle>, Failure> {
//!         let mine = Arc::new(self.registry.connect());
//!         Ok(Box::new(MyHandle { mine }))
//!     }
//! }
//!
//! #[async_trait]
//! impl Handle for MyHandle {
//!     fn discovery(&self) -> Arc<dyn Discovery> {
//!         self.mine.clone()
//!     }
//!
//!     async fn crash(&self) -> Result<(), Failure> {
//!         self.mine.crash();
//!         Ok(())
//!     }
//! }
//!
//! tidings_conformance::suite!(mine, MyFixture);
//! # fn main() {}
//! ```
//!
//! Then add what can be broken, as `crash` above, one method after the other, until nothing is
//! ignored that the backend could do. [`MemoryFixture`] has all of them. Where a fault comes from:
//!
//! | method | with a server | without |
//! |---|---|---|
//! | [`Handle::crash`] | abort the handle's tasks and its connection | the same |
//! | [`Handle::cut_off`] | a proxy before the server that forwards nothing | drop all packets |
//! | [`Handle::expire`] | delete the lease, session or TTL check with the server's own tool | – |
//! | [`Handle::subscriptions`] | [`Publisher::feeds`](tidings_api::Publisher::feeds) | the same |
//! | [`Fixture::stop_server`] | stop the child process, or pause it | – |
//! | [`Fixture::put_foreign`] | write with the server's own client | – |
//! | [`Fixture::inject`] | a stored value | datagrams and connections to the ports |
//! | [`Fixture::deny`] | an access rule of the server | – |
//! | [`Fixture::configuration`] | the parser | the parser |
//!
//! Use short times where the backend lets you choose (a lease of 2 s instead of 30): some cases
//! wait for one and a half of the `crashed` bound.
//!
//! # How cases judge
//! * Deadlines are the backend's own [`Bounds`](tidings_api::Bounds), read from its `status`, with
//!   [`Fixture::slack`] for the machine. A backend that promises less is
//!   given more time, and says so to its users.
//! * What happens is waited for, on every handle, for as long as the bound allows. What must *not*
//!   happen is looked for in a recording of all views, over a window that ends when a marker, an
//!   instance registered afterwards, has arrived everywhere. Only where nothing can arrive, on a
//!   handle that is cut off, the window is a time.
//! * A recording has every view that was published, also those that a slower reader would see
//!   merged (WAT-2): a flap counts however short it is.
//! * Each case has a runtime of its own. A panic in any of the backend's tasks is a violation, and
//!   so is a case that doesn't end, even one that blocks all threads of the runtime.
//! * While a handle is cut off, no case asks what the *others* see of its instances: a server's
//!   session may live on, a gossip member is found dead.
//!
//! HEA-4 has no case yet: it is about the checks that run beside a backend, and its case comes with
//! them. All other clauses have at least one, and for each case there is a flawed backend that the
//! case notices.

pub use async_trait::async_trait;

mod fixture;
pub use fixture::{Configuration, Data, Fixture, Handle};

mod failure;
pub use failure::Failure;

mod case;
pub use case::{Case, run};

mod memory;
pub use memory::{MemoryFixture, MemoryHandle};

mod bed;
mod cases;
mod panics;
mod recording;
mod sample;

#[doc(hidden)]
pub use cases::names;

/// All cases, by clause.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::CASES
}

/// Makes one `#[test]` of each case, in a module: `suite!(gossip, GossipFixture);`, or
/// `suite!(gossip, GossipFixture, ignore { case = "why", … });`.
///
/// The fixture is a type that implements [`Fixture`], as the place of the suite names it. See the
/// [crate's documentation](crate) for how it is used.
#[macro_export]
macro_rules! suite {
    ($name:ident, $fixture:ty $(,)?) => {
        $crate::suite!($name, $fixture, ignore {});
    };
    ($name:ident, $fixture:ty, ignore { $($case:ident = $reason:literal),* $(,)? } $(,)?) => {
        $crate::__suite!(($) $name, $fixture, { $($case = $reason,)* });
    };
}

/// The second step of [`suite!`], which is given a dollar sign to write macros with: the list of
/// ignored cases becomes a macro that knows the attribute of each.
#[doc(hidden)]
#[macro_export]
macro_rules! __suite {
    (($d:tt) $name:ident, $fixture:ty, { $($ignored:ident = $reason:literal,)* }) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            // Naming a case that isn't one does not compile.
            $(const _: &str = $crate::names::$ignored;)*

            macro_rules! test_of {
                $(
                    ($ignored) => {
                        #[test]
                        #[ignore = $reason]
                        fn $ignored() {
                            $crate::run::<$fixture>(stringify!($ignored));
                        }
                    };
                )*
                ($d case:ident) => {
                    #[test]
                    fn $d case() {
                        $crate::run::<$fixture>(stringify!($d case));
                    }
                };
            }

            macro_rules! tests {
                ($d($d case:ident)*) => { $d(test_of!($d case);)* };
            }

            $crate::for_each_case!(tests);
        }
    };
}
