//! REG-4 and REG-5: one key, an older and a newer owner.

use tidings_api::{ErrorKind, Health, InstanceKey, View};

use crate::Failure;
use crate::bed::{Bed, Node, Recordings, ensure};
use crate::case::Outcome;
use crate::sample::{WEB, number_in, web};

pub(super) async fn reg_4_an_older_owner_that_closes_takes_nothing_along(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&b, &c]).await?;
    take_over(bed, &a, &b, &seen).await?;
    let before = seen.mark();
    let closed = a.discovery().close().await;
    ensure!(bed, closed.is_ok(), "close failed: {closed:?}");
    only_the_other_leaves(bed, &b, &seen, &before).await
}

pub(super) async fn reg_4_an_older_owner_that_crashes_takes_nothing_along(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&b, &c]).await?;
    take_over(bed, &a, &b, &seen).await?;
    let before = seen.mark();
    a.handle().crash().await?;
    only_the_other_leaves(bed, &b, &seen, &before).await
}

pub(super) async fn reg_5_the_newer_owner_wins_everywhere(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    a.register(web("key", 1)).await?;
    bed.marker(&a, &seen).await?;
    let before = seen.mark();
    let key = b.register(web("key", 2)).await?;
    sees(bed, &b, &seen, 2).await?;
    a.is_superseded(&key).await?;
    b.is_registered(&key).await?;
    let refused = a.discovery().health(&key, Health::draining()).await;
    a.refused(
        "health of a key that a newer owner has",
        ErrorKind::NotOwned,
        refused,
    )?;
    // Whatever the older owner does about it has arrived before its marker.
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    seen.expect(&before, &["~key"])
}

pub(super) async fn reg_5_registering_again_takes_over_again(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("key", 1)).await?;
    sees(bed, &a, &seen, 1).await?;
    b.register(web("key", 2)).await?;
    sees(bed, &b, &seen, 2).await?;
    a.is_superseded(&key).await?;
    a.register(web("key", 3)).await?;
    sees(bed, &a, &seen, 3).await?;
    b.is_superseded(&key).await?;
    a.is_registered(&key).await
}

pub(super) async fn reg_5_a_key_is_never_missing_between_two_owners(bed: &Bed) -> Outcome {
    const HANDOVERS: usize = 20;
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("key", 0)).await?;
    sees(bed, &a, &seen, 0).await?;
    let before = seen.mark();
    let limit = bed.limit(a.bounds().visible);
    for number in 1..=HANDOVERS {
        let (newer, its_own) = match number % 2 {
            0 => (&a, &seen[0]),
            _ => (&b, &seen[1]),
        };
        // As soon as it knows whom it follows, and that it has to: the others may be handovers behind.
        let is_next = |view: &View| number_in(view, "key") == Some(number - 1);
        its_own.wait("whom it follows", limit, is_next).await?;
        if number > 1 {
            newer.is_superseded(&key).await?;
        }
        newer.register(web("key", number)).await?;
    }
    sees(bed, &a, &seen, HANDOVERS).await?;
    for node in [&a, &b] {
        bed.marker(node, &seen).await?;
    }
    for (recording, mark) in seen.since(&before) {
        let views = recording.views(mark);
        let missing = views.iter().filter(|view| number_in(view, "key").is_none());
        let missing = missing.count();
        ensure!(
            bed,
            missing == 0,
            "{missing} of {} views have no owner of a key that always has one",
            views.len()
        );
    }
    Ok(())
}

pub(super) async fn reg_5_an_owner_learns_of_a_takeover_in_its_outage(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let others = bed.record(&[&b, &c]).await?;
    let key = a.register(web("key", 1)).await?;
    sees(bed, &a, &seen, 1).await?;
    a.is_cut_off(&seen[0]).await?;
    b.register(web("key", 2)).await?;
    sees(bed, &b, &others, 2).await?;
    let taken = others.mark();
    a.is_restored(&seen[0]).await?;
    a.is_superseded(&key).await?;
    seen.wait("the newer owner has it", bed.recovery(), |view| {
        view.is_live() && number_in(view, "key") == Some(2)
    })
    .await?;
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    others.expect(&taken, &[])
}

async fn sees(bed: &Bed, from: &Node<'_>, seen: &Recordings<'_>, number: usize) -> Outcome {
    let limit = bed.limit(from.bounds().visible);
    let what = format!("{} is the owner", from.name());
    seen.wait(&what, limit, |view: &View| {
        number_in(view, "key") == Some(number)
    })
    .await
}

/// Lets `older` register two instances and `newer` take one of them over.
async fn take_over(
    bed: &Bed,
    older: &Node<'_>,
    newer: &Node<'_>,
    seen: &Recordings<'_>,
) -> Result<InstanceKey, Failure> {
    older.register(web("key", 1)).await?;
    older.register(web("other", 1)).await?;
    bed.marker(newer, seen).await?;
    let limit = bed.limit(older.bounds().visible);
    seen.wait("both are there", limit, |view| {
        number_in(view, "key").is_some() && number_in(view, "other").is_some()
    })
    .await?;
    let key = newer.register(web("key", 2)).await?;
    sees(bed, newer, seen, 2).await?;
    older.is_superseded(&key).await?;
    Ok(key)
}

/// Waits until what the older owner had to itself is gone, and checks that nothing else is.
async fn only_the_other_leaves(
    bed: &Bed,
    newer: &Node<'_>,
    seen: &Recordings<'_>,
    before: &crate::bed::Marks,
) -> Outcome {
    let limit = bed.limit(newer.bounds().crashed);
    seen.wait("what only the older owner had is gone", limit, |view| {
        number_in(view, "other").is_none()
    })
    .await?;
    bed.marker(newer, seen).await?;
    seen.expect(before, &["-other"])?;
    let view = newer.watch(WEB).await?.view();
    ensure!(
        bed,
        number_in(&view, "key") == Some(2),
        "the newer owner lost its registration"
    );
    Ok(())
}
