//! The cases, by the groups of the contract.

mod closing;
mod desired;
mod health;
mod input;
mod order;
mod outages;
mod owners;
mod registering;
mod selecting;
mod watching;

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
            reg_3_lost_data_is_registered_again
            reg_3_a_lost_session_is_registered_again
            reg_3_the_newest_content_arrives_after_an_outage
            reg_3_status_tells_what_is_pending
            reg_4_deregistered_in_an_outage_stays_gone
            reg_4_deregistered_without_a_server_stays_gone
            reg_4_an_older_owner_that_closes_takes_nothing_along
            reg_4_an_older_owner_that_crashes_takes_nothing_along
            reg_5_the_newer_owner_wins_everywhere
            reg_5_registering_again_takes_over_again
            reg_5_a_key_is_never_missing_between_two_owners
            reg_5_an_owner_learns_of_a_takeover_in_its_outage
            reg_6_deregister_says_whether_there_was_anything
            reg_6_deregistered_is_gone_at_once_on_the_same_handle
            reg_6_deregistered_leaves_every_handle
            reg_6_deregister_removes_only_its_own
            reg_7_a_superseded_registration_disturbs_no_other
            reg_7_a_refused_registration_disturbs_no_other
            reg_8_calls_take_effect_in_call_order
            reg_8_a_dropped_call_leaves_the_old_or_the_new_state
            wat_1_the_first_view_is_complete
            wat_1_nothing_is_missed_while_subscribing
            wat_1_what_is_not_heard_is_unknown
            wat_2_the_last_state_is_never_lost
            wat_2_slow_readers_slow_nobody
            wat_3_updates_never_go_back
            wat_3_takeovers_never_go_back
            wat_4_an_outage_is_not_empty
            wat_4_after_an_outage_only_the_difference_is_reported
            wat_4_without_a_server_nothing_is_empty
            wat_5_what_was_never_offered_is_empty_and_live
            wat_5_scaled_to_zero_is_empty_and_live
            wat_6_a_restart_without_data_is_invisible
            wat_6_short_outages_are_invisible
            wat_7_only_the_exact_name_matches
            wat_7_all_selects_every_service
            wat_8_watches_of_one_selector_share_a_subscription
            wat_8_dropped_watches_leave_no_subscription
            wat_9_foreign_entries_appear
            wat_9_unreadable_entries_are_skipped
            wat_10_losses_in_an_outage_are_held
            wat_10_losses_without_a_server_are_held
            wat_10_losses_pass_while_the_backend_is_well
            wat_10_deregistration_is_obeyed_in_an_outage
            hea_1_health_is_one_update
            hea_1_health_of_anothers_key_is_refused
            hea_2_health_survives_registering_again
            hea_2_health_survives_an_outage
            hea_2_health_survives_a_lost_session
            hea_2_health_survives_lost_data
            hea_3_a_crashed_owner_leaves_within_the_bound
            clo_1_close_removes_everything_at_once
            clo_1_close_ends_the_watches
            clo_1_close_is_idempotent
            clo_1_close_stops_the_tasks
            clo_1_close_ends_in_time_in_an_outage
            clo_2_a_dropped_handle_is_like_a_crash_at_worst
            clo_2_a_dropped_handle_leaks_no_task
            clo_3_after_close_each_verb_answers_closed
            lim_1_every_name_within_the_rule_is_accepted
            lim_2_content_at_the_limits_comes_out_unchanged
            lim_2_health_comes_out_unchanged
            lim_2_many_instances_come_out_complete
            lim_3_an_unknown_option_is_refused
            lim_3_a_bad_value_is_refused
            lim_3_secrets_are_not_shown
            lim_4_garbage_does_no_harm
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
    pub(super) use super::closing::*;
    pub(super) use super::desired::*;
    pub(super) use super::health::*;
    pub(super) use super::input::*;
    pub(super) use super::order::*;
    pub(super) use super::outages::*;
    pub(super) use super::owners::*;
    pub(super) use super::registering::*;
    pub(super) use super::selecting::*;
    pub(super) use super::watching::*;
}

for_each_case!(list);
