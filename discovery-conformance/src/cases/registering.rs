//! REG-1 and REG-2: what registering does.

use tidings_api::Health;

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
    let all = |view: &tidings_api::View| view.len() == nodes.len();
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
