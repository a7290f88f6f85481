//! WAT-5, WAT-7 and WAT-9: what a selector selects, and what is not there.

use tidings_api::{Instance, InstanceKey, View};

use crate::bed::{Bed, Recordings, ensure};
use crate::case::Outcome;
use crate::recording::Mark;
use crate::sample::{self, WEB, instance, shown, web};

/// Service names that a prefix, a separator or a folded case would confuse.
const ALIKE: [&str; 8] = ["web", "web-2", "web.2", "web_2", "we", "webb", "Web", "WEB"];

pub(super) async fn wat_5_what_was_never_offered_is_empty_and_live(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    for node in [&a, &b] {
        let view = node.watch(WEB).await?.view();
        let known = view.is_live() && view.is_empty();
        ensure!(
            bed,
            known,
            "a service that nobody offers is {}",
            shown(&view)
        );
    }
    let view = a.watch_all().await?.view();
    ensure!(
        bed,
        view.is_live() && view.is_empty(),
        "an empty namespace is {}",
        shown(&view)
    );
    Ok(())
}

pub(super) async fn wat_5_scaled_to_zero_is_empty_and_live(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let ids = ["one", "two", "three"];
    for id in ids {
        a.register(web(id, 1)).await?;
    }
    let limit = bed.limit(a.bounds().visible);
    seen.wait("all are there", limit, |view| view.len() == ids.len())
        .await?;
    for id in ids {
        a.deregister(&sample::key(WEB, id)).await?;
    }
    let limit = bed.limit(a.bounds().removed);
    let zero = |view: &View| view.is_empty() && view.is_live();
    seen.wait("it is scaled to zero", limit, zero).await?;
    for recording in seen.iter() {
        let stale = recording
            .views(Mark::START)
            .into_iter()
            .find(|view| !view.is_live());
        ensure!(
            bed,
            stale.is_none(),
            "scaling to zero made a view stale: {stale:?}"
        );
    }
    Ok(())
}

pub(super) async fn wat_7_only_the_exact_name_matches(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let mut seen = Vec::new();
    for service in ALIKE {
        for node in [&a, &b] {
            seen.push((service, node.record(service).await?));
        }
    }
    for (number, service) in ALIKE.iter().enumerate() {
        a.register(instance(service, "same-id", number)).await?;
    }
    let limit = bed.limit(a.bounds().visible);
    for (service, recording) in &seen {
        let there = |view: &View| !view.is_empty();
        recording
            .wait(&format!("{service} is offered"), limit, there)
            .await?;
    }
    // All have been registered and have had their time: nothing else may have come along.
    let end = sample::key("end", "end");
    a.register(instance("end", "end", 0)).await?;
    for node in [&a, &b] {
        let all = node.record_all().await?;
        all.wait("the end is registered", limit, |view| {
            view.get(&end).is_some()
        })
        .await?;
    }
    for (service, recording) in &seen {
        let views = recording.views(Mark::START);
        let mut strangers = views.iter().flat_map(View::iter);
        let stranger = strangers.find(|found| found.service().as_str() != *service);
        ensure!(
            bed,
            stranger.is_none(),
            "a watch of {service} saw {stranger:?}"
        );
        let count = recording.view().len();
        ensure!(
            bed,
            count == 1,
            "a watch of {service} sees {count} instances"
        );
    }
    Ok(())
}

pub(super) async fn wat_7_all_selects_every_service(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let all = [a.record_all().await?, b.record_all().await?];
    let mut keys: Vec<InstanceKey> = Vec::new();
    for service in ALIKE {
        keys.push(a.register(instance(service, "same-id", 1)).await?);
    }
    let limit = bed.limit(a.bounds().visible.max(a.bounds().removed));
    for recording in &all {
        recording
            .wait("every service is there", limit, |view| {
                view.len() == keys.len() && keys.iter().all(|key| view.get(key).is_some())
            })
            .await?;
    }
    a.deregister(&keys[0]).await?;
    for recording in &all {
        recording
            .wait("one service is gone", limit, |view| {
                view.len() == keys.len() - 1 && view.get(&keys[0]).is_none()
            })
            .await?;
    }
    Ok(())
}

pub(super) async fn wat_9_foreign_entries_appear(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let mut seen = bed.record(&[&a, &b]).await?;
    let early = web("early", 1);
    bed.fixture().put_foreign(&early).await?;
    foreign(bed, &seen, &early).await?;
    // Neither does a watch that starts later, nor one of all services, miss them.
    let c = bed.node().await?;
    seen.push(c.record(WEB).await?);
    seen.push(c.record_all().await?);
    foreign(bed, &seen, &early).await?;
    let late = web("late", 1);
    bed.fixture().put_foreign(&late).await?;
    foreign(bed, &seen, &late).await
}

pub(super) async fn wat_9_unreadable_entries_are_skipped(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    a.register(web("own", 1)).await?;
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    bed.fixture().inject(b"this is not an instance").await?;
    bed.fixture()
        .inject(b"{\"service\":\"web\",\"id\":\"bad\",\"address\":\"nowhere\"}")
        .await?;
    let good = web("good", 1);
    bed.fixture().put_foreign(&good).await?;
    foreign(bed, &seen, &good).await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &["+good"])
}

/// Waits until an entry of another tool is an instance everywhere.
async fn foreign(bed: &Bed, seen: &Recordings<'_>, instance: &Instance) -> Outcome {
    let what = format!("another tool has written {}", instance.key());
    let there = |view: &View| {
        let found = view.get(instance.key());
        found.is_some_and(|found| found.address() == instance.address())
    };
    seen.wait(&what, bed.recovery(), there).await?;
    let live = seen.iter().all(|recording| recording.view().is_live());
    ensure!(bed, live, "an entry of another tool made a view stale");
    Ok(())
}
