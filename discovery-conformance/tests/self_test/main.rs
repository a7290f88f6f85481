//! The suite, tested: every case notices a backend that breaks its promise, and passes one that
//! keeps it.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod bare;
mod discovery;
mod fixture;
mod flaw;
mod view;

use std::collections::BTreeSet;

use tidings_conformance::{Case, Failure, Fixture};

use crate::bare::{Bare, Broken, Panicking};
use crate::fixture::FlawedFixture;
use crate::flaw::Flaw;

/// Makes one test a case: what is wrong with the backend, and a part of what the case must see.
macro_rules! flaws {
    ($($case:ident: $flaw:ident, $seen:literal;)*) => {
        $(
            #[test]
            fn $case() {
                notices(stringify!($case), Flaw::$flaw, $seen);
            }
        )*

        const PROVEN: &[&str] = &[$(stringify!($case)),*];
    };
}

flaws! {
    reg_1_registered_is_shown_on_the_same_handle:
        RegistersLater, "the status has no registration";
    reg_1_every_handle_sees_every_registration:
        LeavesHandlesOut, "every handle has registered";
    reg_1_registering_again_replaces:
        KeepsTheFirst, "n is 1";
    reg_2_other_content_is_one_update:
        TakesAwayAndAddsAgain, "[\"-a\", \"+a\"] instead of [\"~a\"]";
    reg_2_equal_content_is_no_change:
        CountsRegistrations, "instead of []";
    reg_3_lost_data_is_registered_again:
        ForgetsLostData, "all is registered again";
    reg_3_a_lost_session_is_registered_again:
        ForgetsLostSessions, "a is registered again";
    reg_3_the_newest_content_arrives_after_an_outage:
        KeepsTheFirstOfAnOutage, "both are at n=9";
    reg_3_status_tells_what_is_pending:
        AllIsRegistered, "is pending; seen: Some(Registered)";
    reg_4_an_older_owner_that_closes_takes_nothing_along:
        TakesKeysAlong, "\"-key\"";
    reg_4_an_older_owner_that_crashes_takes_nothing_along:
        TakesKeysAlong, "\"-key\"";
    reg_4_deregistered_in_an_outage_stays_gone:
        RegistersEverythingAgain, "deregistered in the outage is gone";
    reg_4_deregistered_without_a_server_stays_gone:
        RegistersEverythingAgain, "deregistered in the outage is gone";
    reg_5_the_newer_owner_wins_everywhere:
        FightsBack, "that handle B is the owner";
    reg_5_registering_again_takes_over_again:
        GivesUpForEver, "that handle A is the owner";
    reg_5_a_key_is_never_missing_between_two_owners:
        GapsBetweenOwners, "have no owner of a key that always has one";
    reg_5_an_owner_learns_of_a_takeover_in_its_outage:
        RegistersEverythingAgain, "is superseded; seen: Some(Registered)";
    reg_6_deregister_says_whether_there_was_anything:
        AlwaysRemoved, "said Removed, not Absent";
    reg_6_deregistered_is_gone_at_once_on_the_same_handle:
        DeregistersLater, "is still seen on the same handle";
    reg_6_deregistered_leaves_every_handle:
        NeverDeregisters, "that a is gone";
    reg_6_deregister_removes_only_its_own:
        DeregistersForOthers, "[\"-a\"] instead of []";
    reg_7_a_superseded_registration_disturbs_no_other:
        SupersededWithAll, "instead of [\"~two\"]";
    reg_7_a_refused_registration_disturbs_no_other:
        RefusedWithAll, "[\"-a\"] instead of []";
    reg_8_calls_take_effect_in_call_order:
        LetsCallsOvertake, "the calls [";
    reg_8_a_dropped_call_leaves_the_old_or_the_new_state:
        TakesAwayAndAddsAgain, "is in one of the states";
    wat_1_the_first_view_is_complete:
        StartsEmpty, "the first view of a new selector is live []";
    wat_1_nothing_is_missed_while_subscribing:
        MissesTheStart, "registered while it subscribed";
    wat_1_what_is_not_heard_is_unknown:
        UnknownIsEmpty, "the first view of a handle that is cut off is live []";
    wat_2_the_last_state_is_never_lost:
        DropsRoundNumbers, "the last update";
    wat_2_slow_readers_slow_nobody:
        WaitsForReaders, "readers asleep, took longer";
    wat_3_updates_never_go_back:
        GoesBack, "went back";
    wat_3_takeovers_never_go_back:
        GoesBack, "went back";
    wat_4_an_outage_is_not_empty:
        EmptyInAnOutage, "instead of []";
    wat_4_after_an_outage_only_the_difference_is_reported:
        FlapsOnReturn, "the outage ended with";
    wat_4_without_a_server_nothing_is_empty:
        EmptyInAnOutage, "instead of []";
    wat_5_what_was_never_offered_is_empty_and_live:
        EmptyIsUnknown, "nobody offers is stale";
    wat_5_scaled_to_zero_is_empty_and_live:
        NeverGetsEmpty, "it is scaled to zero";
    wat_6_a_restart_without_data_is_invisible:
        FlapsOnReturn, "instead of []";
    wat_6_short_outages_are_invisible:
        FlapsOnReturn, "instead of []";
    wat_7_only_the_exact_name_matches:
        MatchesPrefixes, "a watch of we";
    wat_7_all_selects_every_service:
        AllIsLowerCase, "every service is there";
    wat_8_watches_of_one_selector_share_a_subscription:
        SharesNothing, "watches of one selector have";
    wat_8_dropped_watches_leave_no_subscription:
        KeepsSubscriptions, "200 subscriptions";
    wat_9_foreign_entries_appear:
        HidesForeignEntries, "another tool has written web/early";
    wat_9_unreadable_entries_are_skipped:
        GarbageEndsWatches, "its watch ended";
    wat_10_losses_in_an_outage_are_held:
        PassesLossesInAnOutage, "instead of []";
    wat_10_losses_without_a_server_are_held:
        CrashesAreNotNoticed, "the crashed owner's instance is gone, now";
    wat_10_losses_pass_while_the_backend_is_well:
        CrashesAreNotNoticed, "everything of the crashed owner is gone";
    wat_10_deregistration_is_obeyed_in_an_outage:
        DeregistersAfterTheOutage, "has deregistered web-2, and shows";
    hea_1_health_is_one_update:
        HealthFlaps, "[\"-a\", \"+a\"] instead of [\"~a\"]";
    hea_1_health_of_anothers_key_is_refused:
        IgnoresOthersHealth, "answered Ok, and not NotOwned";
    hea_2_health_survives_registering_again:
        HealthIsSetBack, "health that nobody has by default";
    hea_2_health_survives_an_outage:
        HealthIsLostOnReturn, "health that nobody has by default";
    hea_2_health_survives_a_lost_session:
        HealthIsLostOnReturn, "health that nobody has by default";
    hea_2_health_survives_lost_data:
        HealthIsLostOnReturn, "health that nobody has by default";
    hea_3_a_crashed_owner_leaves_within_the_bound:
        CrashesAreNotNoticed, "instances are gone";
    clo_1_close_removes_everything_at_once:
        ClosesSilently, "everything of the closed handle is gone";
    clo_1_close_ends_the_watches:
        WatchesOutliveClose, "the end of a closed handle's watches took longer";
    clo_1_close_is_idempotent:
        ClosesOnce, "close of handle A failed";
    clo_1_close_stops_the_tasks:
        LeaksTasks, "tasks again";
    clo_1_close_ends_in_time_in_an_outage:
        ClosesOnlyWhenHeard, "close without a backend took longer";
    clo_2_a_dropped_handle_is_like_a_crash_at_worst:
        OutlivesBeingDropped, "everything of the dropped handle is gone";
    clo_2_a_dropped_handle_leaks_no_task:
        LeaksTasks, "tasks again";
    clo_3_after_close_each_verb_answers_closed:
        RegistersAfterClose, "register after close on handle A answered Ok";
    lim_1_every_name_within_the_rule_is_accepted:
        FoldsIds, "was registered as";
    lim_2_content_at_the_limits_comes_out_unchanged:
        CutsMetadata, "came out different: Some([\"metadata 0.x";
    lim_2_health_comes_out_unchanged:
        TrimsNotes, "that a is critical";
    lim_2_many_instances_come_out_complete:
        CountsInAByte, "256 in all";
    lim_3_an_unknown_option_is_refused:
        IgnoresUnknownOptions, "is accepted";
    lim_3_a_bad_value_is_refused:
        AcceptsAnyValue, "is accepted";
    lim_3_secrets_are_not_shown:
        ShowsSecrets, "the secret option \"token\" is shown in Debug";
    lim_4_garbage_does_no_harm:
        PanicsOnGarbage, "a task panicked";
}

/// A second flaw, where one case keeps two promises.
mod also {
    use super::*;

    #[test]
    fn wat_7_case_is_not_folded() {
        let seen = "a watch of web";
        notices("wat_7_only_the_exact_name_matches", Flaw::FoldsCase, seen);
    }

    #[test]
    fn lim_4_garbage_does_not_hang() {
        let case = "lim_4_garbage_does_no_harm";
        notices(case, Flaw::HangsOnGarbage, "hangs: not ended within 2s");
    }

    #[test]
    fn lim_4_garbage_ends_no_watch() {
        let case = "lim_4_garbage_does_no_harm";
        notices(case, Flaw::GarbageEndsWatches, "its watch ended");
    }
}

#[test]
fn the_wrapper_without_a_flaw_passes_every_case() {
    for case in tidings_conformance::cases() {
        let outcome = check(case, Flaw::None);
        assert_eq!(outcome, Ok(()), "{}", case.name());
    }
}

/// What a fixture can't do is neither a pass nor a violation.
#[test]
fn a_case_without_its_fault_is_unsupported() {
    let mut unsupported = 0;
    for case in tidings_conformance::cases() {
        match case.check::<Bare>() {
            Ok(()) => {}
            Err(Failure::Unsupported(_)) => unsupported += 1,
            Err(other) => panic!("{}: {other}", case.name()),
        }
    }
    assert!(unsupported > 20, "{unsupported}");
}

#[test]
#[should_panic(expected = "the fixture can't crash a handle: list the case as \
                `ignore { hea_3_a_crashed_owner_leaves_within_the_bound = \"why\" }`")]
fn an_unsupported_case_that_is_not_listed_fails() {
    tidings_conformance::run::<Bare>("hea_3_a_crashed_owner_leaves_within_the_bound");
}

#[test]
fn a_fixture_that_fails_says_nothing_about_the_backend() {
    let case = &tidings_conformance::cases()[0];
    for outcome in [case.check::<Broken>(), case.check::<Panicking>()] {
        let setup = matches!(&outcome, Err(Failure::Setup(why)) if why.contains("no server"));
        assert!(setup, "{outcome:?}");
    }
}

#[test]
fn every_case_has_a_flaw() {
    let proven: BTreeSet<_> = PROVEN.iter().copied().collect();
    let cases = tidings_conformance::cases().iter().map(Case::name);
    assert_eq!(proven, cases.collect());
}

#[test]
fn every_clause_has_a_case() {
    /// Checks come with the facade, and their case with them.
    const WITHOUT_A_CASE: &str = "HEA-4";
    let contract = include_str!("../../../discovery-api/src/discovery.rs");
    let clauses = contract.lines().filter_map(|line| {
        let (clause, _) = line.trim().strip_prefix("/// * **")?.split_once("**")?;
        (clause != WITHOUT_A_CASE).then(|| clause.to_owned())
    });
    let cases = tidings_conformance::cases().iter().map(Case::clause);
    let clauses: BTreeSet<_> = clauses.collect();
    assert_eq!(clauses, cases.collect());
}

/// Checks that a case sees what is wrong with a flawed backend.
#[track_caller]
fn notices(case: &str, flaw: Flaw, part: &str) {
    let cases = tidings_conformance::cases().iter();
    let case = cases.clone().find(|known| known.name() == case).unwrap();
    match check(case, flaw) {
        Err(Failure::Violation { clause, seen }) => {
            assert_eq!(clause, case.clause());
            assert!(
                seen.contains(part),
                "saw {seen:?}, which does not contain {part:?}"
            );
            println!("{flaw:?}: {seen}");
        }
        other => panic!("{flaw:?} was not noticed by {}: {other:?}", case.name()),
    }
}

fn check(case: &'static Case, flaw: Flaw) -> Result<(), Failure> {
    case.check_with(move |_| async move {
        let fixture = FlawedFixture::new(flaw);
        Ok(Box::new(fixture) as Box<dyn Fixture>)
    })
}
