//! The cases, by the groups of the contract.

mod registering;

use crate::Case;

/// Hands the names of all cases to a macro. The one list of them.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_case {
    ($macro:ident) => {
        $macro! {
            reg_1_registered_is_shown_on_the_same_handle
            reg_1_every_handle_sees_every_registration
            reg_1_registering_again_replaces
            reg_2_other_content_is_one_update
            reg_2_equal_content_is_no_change
        }
    };
}

macro_rules! list {
    ($($case:ident)*) => {
        pub(crate) const CASES: &[Case] = &[$({
            fn body(bed: &$crate::bed::Bed) -> std::pin::Pin<
                Box<dyn Future<Output = $crate::case::Outcome> + Send + '_>,
            > {
                Box::pin(bodies::$case(bed))
            }
            Case::new(stringify!($case), body)
        }),*];

        /// One constant a case, so that naming a case that isn't one does not compile.
        pub mod names {
            $(
                #[allow(missing_docs, non_upper_case_globals)]
                pub const $case: &str = stringify!($case);
            )*
        }
    };
}

mod bodies {
    pub(super) use super::registering::*;
}

for_each_case!(list);
