//! CLO-1, CLO-2 and CLO-3: how a handle ends.

use std::time::Duration;

use tidings_api::{Connection, ErrorKind, Health, Selector};
use tokio::runtime;

use crate::bed::{Bed, Node, ensure};
use crate::case::Outcome;
use crate::sample::{self, WEB, shown, web};

pub(super) async fn clo_1_close_removes_everything_at_once(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&b, &c]).await?;
    for number in 0..20 {
        a.register(web(&format!("web-{number}"), number)).await?;
    }
    bed.marker(&a, &seen).await?;
    b.register(web("other", 1)).await?;
    bed.marker(&b, &seen).await?;
    let removed = b.bounds().removed;
    close(bed, &a).await?;
    seen.wait(
        "everything of the closed handle is gone",
        bed.limit(removed),
        |view| {
            let others = view.iter().filter(|found| !sample::is_marker(found));
            view.is_live() && others.map(|found| found.id().as_str()).eq(["other"])
        },
    )
    .await
}

pub(super) async fn clo_1_close_ends_the_watches(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    b.register(web("b", 1)).await?;
    let seen = bed.record(&[&a]).await?;
    let limit = bed.limit(a.bounds().visible);
    seen.wait("b is there", limit, |view| !view.is_empty())
        .await?;
    let mut watch = a.watch(WEB).await?;
    let mut all = a.watch_all().await?;
    let mut changes = a.watch(WEB).await?.into_changes();
    close(bed, &a).await?;
    let ended = async {
        while watch.changed().await.is_ok() {}
        while all.changed().await.is_ok() {}
        while changes.next().await.is_some() {}
        watch.changed().await.err().map(|error| error.kind())
    };
    let end = bed
        .within("the end of a closed handle's watches", limit, ended)
        .await?;
    ensure!(
        bed,
        end == Some(ErrorKind::Closed),
        "the watches of a closed handle ended with {end:?}"
    );
    Ok(())
}

pub(super) async fn clo_1_close_is_idempotent(bed: &Bed) -> Outcome {
    let a = bed.node().await?;
    a.register(web("a", 1)).await?;
    let (first, second) = tokio::join!(close(bed, &a), close(bed, &a));
    first.and(second)?;
    close(bed, &a).await
}

pub(super) async fn clo_1_close_stops_the_tasks(bed: &Bed) -> Outcome {
    let before = tasks();
    {
        let [a, b] = bed.nodes().await?;
        let _watches = use_all(bed, &a, &b).await?;
        close(bed, &a).await?;
        close(bed, &b).await?;
        // The handles are still there: it is closing that ends the tasks.
        tasks_are(bed, before).await?;
    }
    tasks_are(bed, before).await
}

pub(super) async fn clo_1_close_ends_in_time_in_an_outage(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    a.is_cut_off(&seen[0]).await?;
    // It may fail, as nobody can be told; it must not hang.
    let _told_or_not = bed
        .within(
            "close without a backend",
            bed.limit(a.bounds().removed),
            a.discovery().close(),
        )
        .await?;
    let answer = a.discovery().register(web("b", 1)).await;
    a.refused("register after close", ErrorKind::Closed, answer)
}

pub(super) async fn clo_2_a_dropped_handle_is_like_a_crash_at_worst(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&b, &c]).await?;
    for number in 0..20 {
        a.register(web(&format!("web-{number}"), number)).await?;
    }
    bed.marker(&a, &seen).await?;
    drop(a);
    let limit = bed.limit(b.bounds().crashed);
    seen.wait("everything of the dropped handle is gone", limit, |view| {
        view.is_empty()
    })
    .await
}

pub(super) async fn clo_2_a_dropped_handle_leaks_no_task(bed: &Bed) -> Outcome {
    let before = tasks();
    for _ in 0..3 {
        let [a, b] = bed.nodes().await?;
        // A watch may well outlive its handle.
        let watches = use_all(bed, &a, &b).await?;
        drop((a, b));
        drop(watches);
    }
    tasks_are(bed, before).await
}

pub(super) async fn clo_3_after_close_each_verb_answers_closed(bed: &Bed) -> Outcome {
    let a = bed.node().await?;
    let key = a.register(web("a", 1)).await?;
    let _watch = a.watch(WEB).await?;
    close(bed, &a).await?;
    let discovery = a.discovery();
    let closed = ErrorKind::Closed;
    a.refused(
        "register after close",
        closed,
        discovery.register(web("a", 2)).await,
    )?;
    a.refused(
        "deregister after close",
        closed,
        discovery.deregister(&key).await,
    )?;
    a.refused(
        "health after close",
        closed,
        discovery.health(&key, Health::passing()).await,
    )?;
    for selector in [Selector::All, Selector::from(key.service().clone())] {
        a.refused("watch after close", closed, discovery.watch(selector).await)?;
    }
    let status = discovery.status();
    let connection = status.connection();
    ensure!(
        bed,
        matches!(connection, Connection::Closed),
        "the connection of a closed handle is {connection:?}"
    );
    Ok(())
}

async fn close(bed: &Bed, node: &Node<'_>) -> Outcome {
    let limit = bed.limit(node.bounds().removed);
    let closed = bed.within("close", limit, node.discovery().close()).await?;
    ensure!(
        bed,
        closed.is_ok(),
        "close of {} failed: {closed:?}",
        node.name()
    );
    Ok(())
}

/// Registers and watches on both handles, until they see each other.
async fn use_all(
    bed: &Bed,
    a: &Node<'_>,
    b: &Node<'_>,
) -> Result<Vec<tidings_api::Watch>, crate::Failure> {
    let mut watches = Vec::new();
    for (node, id) in [(a, "a"), (b, "b")] {
        node.register(web(id, 1)).await?;
        watches.push(node.watch(WEB).await?);
        watches.push(node.watch_all().await?);
    }
    for watch in &mut watches {
        let both = watch.wait_until(|view| view.len() == 2);
        let limit = bed.limit(a.bounds().visible);
        let view = bed.within("to see both handles", limit, both).await?;
        ensure!(
            bed,
            view.is_ok(),
            "a watch ended: {view:?}, {}",
            shown(&watch.view())
        );
    }
    Ok(watches)
}

/// Number of tasks in the runtime of this case.
fn tasks() -> usize {
    runtime::Handle::current().metrics().num_alive_tasks()
}

async fn tasks_are(bed: &Bed, before: usize) -> Outcome {
    let ended = || {
        let now = tasks();
        (now <= before).then_some(()).ok_or(format!("{now} tasks"))
    };
    let what = format!("there are {before} tasks again, as before the handles");
    bed.eventually(&what, bed.limit(Duration::ZERO), ended)
        .await
}
