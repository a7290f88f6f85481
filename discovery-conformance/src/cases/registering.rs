//! REG-1, REG-2, REG-6 and REG-7: registering and deregistering.

use tidings_api::{ErrorKind, Health, Removal, View};

use crate::bed::{Bed, ensure};
use crate::case::Outcome;
use crate::sample::{self, WEB, number_in, same_content, shown, web};

pub(super) async fn reg_1_registered_is_shown_on_the_same_handle(bed: &Bed) -> Outcome {
    let a = bed.node().await?;
    // The first round is seen by new subscriptions, the others by ones that are there already.
    let mut kept = Vec::new();
    for round in 0..20 {
        let instance = web(&format!("web-{round}"), round);
        let key = a.register(instance.clone()).await?;
        ensure!(
            bed,
            key == *instance.key(),
            "register returned {key}, not {}",
            instance.key()
        );
        ensure!(
            bed,
            a.registration(&key).is_some(),
            "the status has no registration of {key}"
        );
        for watch in [a.watch(WEB).await?, a.watch_all().await?] {
            let view = watch.view();
            ensure!(
                bed,
                view.get(&key)
                    .is_some_and(|found| same_content(found, &instance)),
                "a new watch on the same handle does not show {key}: {}",
                shown(&view)
            );
            kept.push(watch);
        }
    }
    Ok(())
}

pub(super) async fn reg_1_every_handle_sees_every_registration(bed: &Bed) -> Outcome {
    let nodes: [_; 8] = bed.nodes().await?;
    let seen = bed.record(&nodes.each_ref()).await?;
    for (number, node) in nodes.iter().enumerate() {
        node.register(web(&format!("web-{number}"), number)).await?;
    }
    let limit = bed.limit(nodes[0].bounds().visible);
    let all = |view: &View| view.len() == nodes.len();
    seen.wait("every handle has registered", limit, all).await
}

pub(super) async fn reg_1_registering_again_replaces(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    let limit = bed.limit(a.bounds().visible);
    for number in 0..5 {
        a.register(web("a", number)).await?;
        seen.wait(&format!("n is {number}"), limit, |view| {
            view.len() == 1 && number_in(view, "a") == Some(number)
        })
        .await?;
    }
    Ok(())
}

pub(super) async fn reg_2_other_content_is_one_update(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    a.register(web("a", 2)).await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &["~a"])
}

pub(super) async fn reg_2_equal_content_is_no_change(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    a.health(&key, Health::warning("warm")).await?;
    bed.marker(&a, &seen).await?;
    seen.wait("a is warm", bed.limit(a.bounds().visible), |view| {
        view.get(&sample::key(WEB, "a"))
            .is_some_and(|a| a.health().note() == Some("warm"))
    })
    .await?;
    let before = seen.mark();
    for _ in 0..10 {
        a.register(web("a", 1)).await?;
    }
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &[])
}

pub(super) async fn reg_6_deregister_says_whether_there_was_anything(bed: &Bed) -> Outcome {
    let a = bed.node().await?;
    let key = sample::key(WEB, "a");
    for _ in 0..3 {
        a.register(web("a", 1)).await?;
        for expected in [Removal::Removed, Removal::Absent, Removal::Absent] {
            let removal = a.deregister(&key).await?;
            ensure!(
                bed,
                removal == expected,
                "deregister said {removal:?}, not {expected:?}"
            );
        }
        let registration = a.registration(&key);
        ensure!(
            bed,
            registration.is_none(),
            "the status still has {registration:?}"
        );
    }
    Ok(())
}

pub(super) async fn reg_6_deregistered_is_gone_at_once_on_the_same_handle(bed: &Bed) -> Outcome {
    let a = bed.node().await?;
    let (kept, all) = (a.watch(WEB).await?, a.watch_all().await?);
    for round in 0..20 {
        let key = a.register(web("a", round)).await?;
        a.deregister(&key).await?;
        for watch in [&kept, &all, &a.watch(WEB).await?] {
            let view = watch.view();
            let gone = view.get(&key).is_none();
            ensure!(
                bed,
                gone,
                "{key} is still seen on the same handle: {}",
                shown(&view)
            );
        }
    }
    Ok(())
}

pub(super) async fn reg_6_deregistered_leaves_every_handle(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    a.deregister(&key).await?;
    let limit = bed.limit(a.bounds().removed);
    seen.wait("a is gone", limit, |view| view.get(&key).is_none())
        .await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &["-a"])
}

pub(super) async fn reg_6_deregister_removes_only_its_own(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    let removal = b.deregister(&key).await?;
    ensure!(
        bed,
        removal == Removal::Absent,
        "deregistering another's key said {removal:?}"
    );
    bed.marker(&b, &seen).await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &[])?;

    // Nor does an older owner remove what a newer one took over.
    b.register(web("a", 2)).await?;
    seen.wait("n is 2", bed.limit(b.bounds().visible), |view| {
        number_in(view, "a") == Some(2)
    })
    .await?;
    a.is_superseded(&key).await?;
    let before = seen.mark();
    a.deregister(&key).await?;
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    seen.expect(&before, &[])
}

pub(super) async fn reg_7_a_superseded_registration_disturbs_no_other(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    for id in ["one", "two", "three"] {
        a.register(web(id, 1)).await?;
    }
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    let taken = b.register(web("two", 2)).await?;
    a.is_superseded(&taken).await?;
    bed.marker(&b, &seen).await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &["~two"])?;

    let before = seen.mark();
    a.register(web("one", 2)).await?;
    a.health(&sample::key(WEB, "one"), Health::draining())
        .await?;
    a.deregister(&sample::key(WEB, "three")).await?;
    let (visible, removed) = (a.bounds().visible, a.bounds().removed);
    seen.wait(
        "the others can be changed",
        bed.limit(visible.max(removed)),
        |view| {
            let one = view.iter().find(|instance| instance.id().as_str() == "one");
            one.is_some_and(|one| *one.health() == Health::draining())
                && number_in(view, "one") == Some(2)
                && number_in(view, "three").is_none()
        },
    )
    .await?;
    for (recording, mark) in seen.since(&before) {
        let changes = recording.changes(mark);
        let two = changes.iter().any(|change| change.key() == &taken);
        ensure!(
            bed,
            !two,
            "what has become of the other registrations changed {taken}"
        );
    }
    Ok(())
}

pub(super) async fn reg_7_a_refused_registration_disturbs_no_other(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let refused = sample::instance("locked", "a", 1);
    bed.fixture().deny(refused.service()).await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    let answer = a.discovery().register(refused.clone()).await;
    a.refused(
        "registering what the backend refuses",
        ErrorKind::Denied,
        answer,
    )?;
    ensure!(
        bed,
        a.registration(refused.key()).is_none(),
        "what was refused is a registration in the status: {:?}",
        a.registration(refused.key())
    );
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &[])?;
    a.is_registered(&key).await
}
