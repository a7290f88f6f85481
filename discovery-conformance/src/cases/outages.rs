//! WAT-4, WAT-6 and WAT-10: while the backend isn't heard, and after.

use std::time::Duration;

use tidings_api::View;

use crate::Data;
use crate::bed::{Bed, Node, Recordings, ensure};
use crate::case::Outcome;
use crate::recording::{Mark, Recording};
use crate::sample::{self, WEB, number_in, shown, web};

pub(super) async fn wat_4_an_outage_is_not_empty(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    register_one_each(bed, &[&a, &b, &c], &seen).await?;
    let before = seen[2].mark();
    c.is_cut_off(&seen[2]).await?;
    let disconnected = || {
        let status = c.discovery().status();
        let connection = status.connection();
        (!connection.is_connected())
            .then_some(())
            .ok_or(format!("{connection:?}"))
    };
    let what = "the status says that the backend can't be heard";
    bed.eventually(what, bed.limit(c.bounds().stale), disconnected)
        .await?;
    outlast(&c, &seen[2], before).await?;
    c.is_restored(&seen[2]).await?;
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    // Its own instance may have been lost for the others meanwhile, and have to come back.
    seen[2].expect_of(before, &[], |id| id != "web-2")
}

pub(super) async fn wat_4_after_an_outage_only_the_difference_is_reported(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    for id in ["changed", "gone", "same"] {
        a.register(web(id, 1)).await?;
    }
    bed.marker(&a, &seen).await?;
    let before = seen[2].mark();
    c.is_cut_off(&seen[2]).await?;
    a.deregister(&sample::key(WEB, "gone")).await?;
    a.register(web("changed", 2)).await?;
    a.register(web("new", 1)).await?;
    seen[2].expect(before, &[])?;
    c.is_restored(&seen[2]).await?;
    seen.wait("what happened in the outage", bed.recovery(), |view| {
        let number = |id| number_in(view, id);
        [number("changed"), number("gone"), number("new")] == [Some(2), None, Some(1)]
    })
    .await?;
    bed.marker(&a, &seen).await?;
    let mut changes: Vec<_> = seen[2]
        .changes(before)
        .iter()
        .map(sample::in_short)
        .collect();
    changes.sort();
    let expected = ["+new", "-gone", "~changed"];
    ensure!(
        bed,
        changes == expected,
        "the outage ended with {changes:?}, not {expected:?}"
    );
    Ok(())
}

pub(super) async fn wat_4_without_a_server_nothing_is_empty(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    register_one_each(bed, &[&a, &b, &c], &seen).await?;
    let before = seen.mark();
    restart(bed, &a, &seen, Data::Kept).await?;
    for node in [&a, &b, &c] {
        bed.marker(node, &seen).await?;
    }
    seen.expect(&before, &[])
}

pub(super) async fn wat_6_a_restart_without_data_is_invisible(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    register_one_each(bed, &[&a, &b, &c], &seen).await?;
    for number in 0..20 {
        a.register(web(&format!("more-{number}"), number)).await?;
    }
    bed.marker(&a, &seen).await?;
    let (before, count) = (seen.mark(), seen[0].view().len());
    restart(bed, &a, &seen, Data::Lost).await?;
    // A new handle has nothing to hold: what it sees is registered again.
    let new = bed.node().await?;
    let new = new.record(WEB).await?;
    new.wait("all is registered again", bed.recovery(), |view| {
        view.is_live() && view.len() == count
    })
    .await?;
    for node in [&a, &b, &c] {
        bed.marker(node, &seen).await?;
    }
    seen.expect(&before, &[])
}

pub(super) async fn wat_6_short_outages_are_invisible(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    register_one_each(bed, &[&a, &b, &c], &seen).await?;
    let before = seen[2].mark();
    for number in 0..5 {
        c.handle().cut_off().await?;
        a.register(web("a", number)).await?;
        c.handle().restore().await?;
    }
    let newest = |view: &View| view.is_live() && number_in(view, "a") == Some(4);
    seen.wait("the newest content of a", bed.recovery(), newest)
        .await?;
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    let others = |id: &str| id == "web-0" || id == "web-1";
    seen[2].expect_of(before, &[], others)?;
    let a_went = seen[2]
        .changes(before)
        .iter()
        .any(|change| sample::in_short(change) == "-a");
    ensure!(
        bed,
        !a_went,
        "an instance that was only updated left for a while"
    );
    Ok(())
}

pub(super) async fn wat_10_losses_in_an_outage_are_held(bed: &Bed) -> Outcome {
    const COUNT: usize = 10;
    // With enough witnesses that they stay the majority.
    let [viewer, witness, second, third, owner] = bed.nodes().await?;
    let seen = bed.record(&[&viewer, &witness, &second, &third]).await?;
    for number in 0..COUNT {
        owner
            .register(web(&format!("web-{number}"), number))
            .await?;
    }
    bed.marker(&owner, &seen).await?;
    bed.marker(&witness, &seen).await?;
    let (before, count) = (seen[0].mark(), seen[0].view().len());
    viewer.is_cut_off(&seen[0]).await?;
    owner.handle().crash().await?;
    let limit = bed.limit(witness.bounds().crashed);
    let gone = |view: &View| number_in(view, "web-0").is_none();
    seen[1]
        .wait("the crashed owner's instances are gone", limit, gone)
        .await?;
    outlast(&viewer, &seen[0], before).await?;
    let view = seen[0].view();
    let held = view.len() == count && !view.is_live();
    ensure!(bed, held, "a viewer that is cut off shows {}", shown(&view));

    viewer.is_restored(&seen[0]).await?;
    let limit = bed.recovery() + viewer.bounds().crashed;
    seen[0]
        .wait("the crashed owner's instances are gone, now", limit, gone)
        .await?;
    Ok(())
}

pub(super) async fn wat_10_losses_without_a_server_are_held(bed: &Bed) -> Outcome {
    let [a, b, owner] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    register_one_each(bed, &[&a, &b, &owner], &seen).await?;
    let before = seen.mark();
    bed.fixture().stop_server().await?;
    let limit = bed.limit(a.bounds().stale);
    seen.wait("the server is down", limit, |view| !view.is_live())
        .await?;
    owner.handle().crash().await?;
    for (recording, mark) in seen.since(&before) {
        outlast(&a, recording, mark).await?;
    }
    bed.fixture().start_server(Data::Kept).await?;
    let limit = bed.recovery() + a.bounds().crashed;
    let gone = |view: &View| view.is_live() && number_in(view, "web-2").is_none();
    seen.wait("the crashed owner's instance is gone, now", limit, gone)
        .await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &["-web-2"])
}

pub(super) async fn wat_10_losses_pass_while_the_backend_is_well(bed: &Bed) -> Outcome {
    let [a, b, owner] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    for number in 0..50 {
        owner
            .register(web(&format!("web-{number}"), number))
            .await?;
    }
    bed.marker(&owner, &seen).await?;
    owner.handle().crash().await?;
    let limit = bed.limit(a.bounds().crashed);
    seen.wait("everything of the crashed owner is gone", limit, |view| {
        view.is_live() && view.is_empty()
    })
    .await
}

pub(super) async fn wat_10_deregistration_is_obeyed_in_an_outage(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    register_one_each(bed, &[&a, &b, &c], &seen).await?;
    let before = seen[2].mark();
    c.is_cut_off(&seen[2]).await?;
    c.deregister(&sample::key(WEB, "web-2")).await?;
    let view = c.watch(WEB).await?.view();
    let others = [number_in(&view, "web-0"), number_in(&view, "web-1")];
    ensure!(
        bed,
        view.len() == seen[2].views(before)[0].len() - 1
            && others == [Some(0), Some(1)]
            && number_in(&view, "web-2").is_none(),
        "a handle that is cut off has deregistered web-2, and shows {}",
        shown(&view)
    );
    Ok(())
}

/// Registers `web-0` on the first node, `web-1` on the second, and so on.
async fn register_one_each(bed: &Bed, nodes: &[&Node<'_>], seen: &Recordings<'_>) -> Outcome {
    for (number, node) in nodes.iter().enumerate() {
        node.register(web(&format!("web-{number}"), number)).await?;
        bed.marker(node, seen).await?;
    }
    Ok(())
}

/// Lets an outage last until whatever the backend keeps alive for the crash bound would have run
/// out, or the view changes, which it must not. Nobody can tell the end of this window: the handle
/// hears nothing.
async fn outlast(node: &Node<'_>, seen: &Recording<'_>, before: Mark) -> Outcome {
    const SHORTEST: Duration = Duration::from_millis(100);
    let time = node.bounds().crashed.mul_f32(1.5).max(SHORTEST);
    let changed = |_: &View| !seen.changes(before).is_empty();
    let _over = seen.wait("it changes in an outage", time, changed).await;
    seen.expect(before, &[])
}

/// Stops the server until its leases would have run out, and starts it again.
async fn restart(bed: &Bed, node: &Node<'_>, seen: &Recordings<'_>, data: Data) -> Outcome {
    bed.fixture().stop_server().await?;
    let limit = bed.limit(node.bounds().stale);
    seen.wait("the server is down", limit, |view| !view.is_live())
        .await?;
    let held = seen[0].mark();
    outlast(node, &seen[0], held).await?;
    bed.fixture().start_server(data).await?;
    seen.wait("the server is back", bed.recovery(), View::is_live)
        .await
}
