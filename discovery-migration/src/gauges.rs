//! How far a migration is, for whoever collects metrics: gauges of the facade crate `metrics`, so
//! that any recorder can be behind them. Without one, they cost next to nothing.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};
use tidings_api::ServiceName;

use crate::inner::Inner;
use crate::{Coverage, Difference, Phase, Side};

/// How often the gauges are set.
const PAUSE: Duration = Duration::from_secs(1);

/// Instances of a `service` that both sides list with the same content.
const MATCHING: &str = "tidings_migration_matching";
/// Instances of a `service` that the old side lists and the new one doesn't.
const MISSING: &str = "tidings_migration_missing";
/// Instances of a `service` that the new side lists and the old one doesn't.
const EXTRA: &str = "tidings_migration_extra";
/// Instances of a `service` that both list, with different contents.
const DIFFERENT: &str = "tidings_migration_different";
/// For how long a `side` has been complete for a `service`; 0 while it isn't.
const COMPLETE: &str = "tidings_migration_complete_seconds";
/// Processes of the migration in a `phase`.
const PARTICIPANTS: &str = "tidings_migration_participants";

/// Sets the gauges for as long as the handle lives.
pub(crate) async fn tell(inner: Weak<Inner>) {
    describe();
    let mut told = BTreeSet::new();
    while let Some(inner) = inner.upgrade() {
        told = set(&inner, &told);
        drop(inner);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sets all gauges, also of the services that were `told` last and aren't there any more; returns
/// those that are.
fn set(inner: &Inner, told: &BTreeSet<ServiceName>) -> BTreeSet<ServiceName> {
    let coverage = inner.coverage();
    for (service, coverage) in &coverage {
        set_service(service, Some(coverage));
    }
    for gone in told.iter().filter(|name| !coverage.contains_key(*name)) {
        set_service(gone, None);
    }
    let participants = inner.participants();
    for phase in Phase::ALL {
        let there = participants.iter().filter(|who| who.plan.all == phase);
        gauge!(PARTICIPANTS, "phase" => phase.as_str()).set(count(there.count()));
    }
    coverage.into_keys().collect()
}

fn set_service(service: &ServiceName, coverage: Option<&Coverage>) {
    let name = || service.to_string();
    let differing = |difference| {
        let all = coverage.into_iter().flat_map(|c| c.differences.values());
        count(all.filter(|(is, _)| *is == difference).count())
    };
    let matching = coverage.map_or(0, |coverage| coverage.matching);
    gauge!(MATCHING, "service" => name()).set(count(matching));
    gauge!(MISSING, "service" => name()).set(differing(Difference::Missing));
    gauge!(EXTRA, "service" => name()).set(differing(Difference::Extra));
    gauge!(DIFFERENT, "service" => name()).set(differing(Difference::Different));
    for side in Side::BOTH {
        let complete = coverage.and_then(|coverage| coverage.covered_for(side));
        let complete = complete.unwrap_or_default().as_secs_f64();
        gauge!(COMPLETE, "service" => name(), "side" => side.to_string()).set(complete);
    }
}

fn describe() {
    let counts = [
        (MATCHING, "instances that both sides list alike"),
        (MISSING, "instances that the new side doesn't list"),
        (EXTRA, "instances that the old side doesn't list"),
        (DIFFERENT, "instances that both sides list, differently"),
        (PARTICIPANTS, "processes of the migration, by phase"),
    ];
    for (name, what) in counts {
        describe_gauge!(name, Unit::Count, what);
    }
    describe_gauge!(COMPLETE, Unit::Seconds, "for how long a side is complete");
}

/// Exact up to 2⁵³.
#[allow(
    clippy::cast_precision_loss,
    reason = "there are fewer than 2⁵³ of anything"
)]
fn count(number: usize) -> f64 {
    number as f64
}
