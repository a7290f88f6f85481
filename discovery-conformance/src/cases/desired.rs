//! REG-3 and REG-4: a registration is desired state, and so is its absence.

use tidings_api::{Health, Registration, Removal, View};

use crate::Data;
use crate::bed::{Bed, Node, Recordings, ensure};
use crate::case::Outcome;
use crate::sample::{self, WEB, number_in, web};

pub(super) async fn reg_3_lost_data_is_registered_again(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let mut seen = bed.record(&[&a, &b]).await?;
    let key = a.register(web("a", 1)).await?;
    b.register(web("b", 1)).await?;
    bed.marker(&a, &seen).await?;
    bed.fixture().stop_server().await?;
    let limit = bed.limit(a.bounds().stale);
    seen.wait("the server is down", limit, |view| !view.is_live())
        .await?;
    bed.fixture().start_server(Data::Lost).await?;
    // The old handles may still hold what they saw: a new one tells what the server has.
    let c = bed.node().await?;
    seen.push(c.record(WEB).await?);
    seen.wait("all is registered again", bed.recovery(), |view| {
        view.is_live() && number_in(view, "a") == Some(1) && number_in(view, "b") == Some(1)
    })
    .await?;
    a.is_registered(&key).await
}

pub(super) async fn reg_3_a_lost_session_is_registered_again(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let mut seen = bed.record(&[&a, &b]).await?;
    let key = a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    a.handle().expire().await?;
    let c = bed.node().await?;
    seen.push(c.record(WEB).await?);
    let back = |view: &View| view.is_live() && number_in(view, "a") == Some(1);
    seen.wait("a is registered again", bed.recovery(), back)
        .await?;
    a.is_registered(&key).await
}

pub(super) async fn reg_3_the_newest_content_arrives_after_an_outage(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let old = a.register(web("old", 1)).await?;
    bed.marker(&a, &seen).await?;
    a.is_cut_off(&seen[0]).await?;
    let new = a.register(web("new", 1)).await?;
    for number in 2..=9 {
        a.health(&old, Health::warning(format!("at {number}")))
            .await?;
        a.register(web("old", number)).await?;
        a.register(web("new", number)).await?;
        a.health(&new, Health::critical(format!("at {number}")))
            .await?;
    }
    a.handle().restore().await?;
    let (warning, critical) = (Health::warning("at 9"), Health::critical("at 9"));
    seen.wait("both are at n=9", bed.recovery(), |view| {
        let is = |key, health| view.get(key).is_some_and(|found| found.health() == health);
        view.is_live()
            && [number_in(view, "old"), number_in(view, "new")] == [Some(9), Some(9)]
            && is(&old, &warning)
            && is(&new, &critical)
    })
    .await?;
    a.is_registered(&old).await?;
    a.is_registered(&new).await
}

pub(super) async fn reg_3_status_tells_what_is_pending(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let old = a.register(web("old", 1)).await?;
    a.is_registered(&old).await?;
    a.is_cut_off(&seen[0]).await?;
    let new = a.register(web("new", 1)).await?;
    a.register(web("old", 2)).await?;
    for key in [&old, &new] {
        let pending = |registration: &_| matches!(registration, Registration::Pending { .. });
        a.status_says("pending", key, pending).await?;
    }
    a.is_restored(&seen[0]).await?;
    a.is_registered(&old).await?;
    a.is_registered(&new).await?;
    let unknown = a.registration(&sample::key(WEB, "unknown"));
    ensure!(
        bed,
        unknown.is_none(),
        "the status of a key never registered is {unknown:?}"
    );
    Ok(())
}

pub(super) async fn reg_4_deregistered_in_an_outage_stays_gone(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    a.register(web("gone", 1)).await?;
    bed.marker(&a, &seen).await?;
    a.is_cut_off(&seen[0]).await?;
    deregister_unheard(bed, &a).await?;
    a.is_restored(&seen[0]).await?;
    stays_gone(bed, &a, &seen).await
}

pub(super) async fn reg_4_deregistered_without_a_server_stays_gone(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    a.register(web("gone", 1)).await?;
    bed.marker(&a, &seen).await?;
    bed.fixture().stop_server().await?;
    let limit = bed.limit(a.bounds().stale);
    seen.wait("the server is down", limit, |view| !view.is_live())
        .await?;
    deregister_unheard(bed, &a).await?;
    bed.fixture().start_server(Data::Kept).await?;
    seen.wait("the server is back", bed.recovery(), View::is_live)
        .await?;
    stays_gone(bed, &a, &seen).await
}

async fn deregister_unheard(bed: &Bed, node: &Node<'_>) -> Outcome {
    let removal = node.deregister(&sample::key(WEB, "gone")).await?;
    ensure!(
        bed,
        removal == Removal::Removed,
        "deregistering in an outage said {removal:?}"
    );
    let view = node.watch(WEB).await?.view();
    let gone = number_in(&view, "gone").is_none();
    ensure!(
        bed,
        gone,
        "what was deregistered in an outage is still seen on the same handle"
    );
    Ok(())
}

/// Waits until `gone` is, and checks that it doesn't come back.
async fn stays_gone(bed: &Bed, from: &Node<'_>, seen: &Recordings<'_>) -> Outcome {
    bed.marker(from, seen).await?;
    let limit = bed.recovery() + from.bounds().removed;
    let gone = |view: &View| number_in(view, "gone").is_none();
    seen.wait("what was deregistered in the outage is gone", limit, gone)
        .await?;
    let after = seen.mark();
    for _ in 0..3 {
        bed.marker(from, seen).await?;
    }
    seen.expect(&after, &[])
}
