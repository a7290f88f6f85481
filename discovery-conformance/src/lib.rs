//! The contract of Tidings as a test suite.

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

/// Runs the contract against a backend.
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

            macro_rules! test {
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
                ($d($d case:ident)*) => { $d(test!($d case);)* };
            }

            $crate::for_each_case!(tests);
        }
    };
}
