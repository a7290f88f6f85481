//! WAT-1, WAT-2, WAT-3 and WAT-8: what a watch shows, from the first view on.

use std::time::Duration;

use tidings_api::{Change, View};

use crate::bed::{Bed, Recordings, ensure};
use crate::case::Outcome;
use crate::recording::{Mark, Recording};
use crate::sample::{self, WEB, instance, number_in, shown, web};

pub(super) async fn wat_1_the_first_view_is_complete(bed: &Bed) -> Outcome {
    const COUNT: usize = 30;
    let [a, b] = bed.nodes().await?;
    for number in 0..COUNT {
        a.register(web(&format!("web-{number}"), number)).await?;
        a.register(instance("mail", &format!("mail-{number}"), number))
            .await?;
    }
    let all = b.record_all().await?;
    let limit = bed.limit(a.bounds().visible);
    all.wait("all is registered", limit, |view| {
        view.is_live() && view.len() == 2 * COUNT
    })
    .await?;

    let view = b.watch(WEB).await?.view();
    let complete = view.is_live() && view.len() == COUNT;
    ensure!(
        bed,
        complete,
        "the first view of a new selector is {}",
        shown(&view)
    );
    let view = b.watch_all().await?.view();
    let complete = view.is_live() && view.len() == 2 * COUNT;
    ensure!(
        bed,
        complete,
        "the first view of a known selector is {}",
        shown(&view)
    );

    // What follows is contiguous with it: the stream starts with what is there, and no more.
    let mut changes = b.watch(WEB).await?.into_changes();
    for _ in 0..COUNT {
        let change = bed
            .within("a change that is there already", limit, changes.next())
            .await?;
        let added = matches!(change, Some(Change::Added(_)));
        ensure!(
            bed,
            added,
            "the changes of a new watch start with {change:?}"
        );
    }

    // A new handle may have to hear the backend first, but then it has heard it all.
    let c = bed.node().await?;
    let c = c.record(WEB).await?;
    c.wait("it is live", bed.recovery(), View::is_live).await?;
    let first_live = c.views(Mark::START).into_iter().find(View::is_live);
    let count = first_live.map_or(0, |view| view.len());
    ensure!(
        bed,
        count == COUNT,
        "the first live view of a new handle has {count} of {COUNT}"
    );
    Ok(())
}

pub(super) async fn wat_1_nothing_is_missed_while_subscribing(bed: &Bed) -> Outcome {
    const ROUNDS: usize = 30;
    let [a, b] = bed.nodes().await?;
    let limit = bed.limit(a.bounds().visible);
    for number in 0..ROUNDS {
        // A subscription of its own each round: the one before is dropped. Either call may come
        // first, as futures are polled in the order they are joined in.
        let (register, watch) = (a.register(web("a", number)), b.watch(WEB));
        let (registered, watch) = if number % 2 == 0 {
            tokio::join!(register, watch)
        } else {
            let (watch, registered) = tokio::join!(watch, register);
            (registered, watch)
        };
        registered?;
        let recording = Recording::new(bed, b.name().to_owned(), watch?);
        let newest = |view: &View| number_in(view, "a") == Some(number);
        let what = format!("n is {number}, which was registered while it subscribed");
        recording.wait(&what, limit, newest).await?;
    }
    Ok(())
}

pub(super) async fn wat_1_what_is_not_heard_is_unknown(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    c.is_cut_off(&seen[2]).await?;
    let unknown = c.record("mail").await?;
    let view = unknown.view();
    ensure!(
        bed,
        view.is_empty() && !view.is_live(),
        "the first view of a handle that is cut off is {}",
        shown(&view)
    );
    a.register(instance("mail", "a", 1)).await?;
    c.is_restored(&unknown).await?;
    let known = |view: &View| number_in(view, "a").is_some();
    unknown
        .wait("a was registered meanwhile", bed.recovery(), known)
        .await?;
    Ok(())
}

pub(super) async fn wat_2_the_last_state_is_never_lost(bed: &Bed) -> Outcome {
    const UPDATES: usize = 400;
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    a.register(web("a", 0)).await?;
    let there = |view: &View| number_in(view, "a").is_some();
    let limit = bed.limit(a.bounds().visible);
    seen.wait("a is registered", limit, there).await?;

    let mut unread = b.watch(WEB).await?;
    let mut changes = b.watch(WEB).await?.into_changes();
    let first = bed
        .within("the first change", limit, changes.next())
        .await?;
    ensure!(
        bed,
        matches!(first, Some(Change::Added(_))),
        "the first change is {first:?}"
    );
    for number in 1..=UPDATES {
        a.register(web("a", number)).await?;
    }
    let last = |view: &View| number_in(view, "a") == Some(UPDATES);
    seen.wait("the last update", limit, last).await?;

    // Who has not read meanwhile has missed what is between, and nothing else.
    let view = bed
        .within("the newest view", limit, unread.changed())
        .await?;
    let newest = view.as_ref().is_ok_and(last);
    ensure!(bed, newest, "a reader that slept is shown {view:?}");
    let change = bed
        .within("the change that is left", limit, changes.next())
        .await?;
    let merged = change.as_ref().is_some_and(|change| {
        matches!(change, Change::Updated { .. })
            && sample::number(change.instance()) == Some(UPDATES)
    });
    ensure!(
        bed,
        merged,
        "a stream that was not read goes on with {change:?}"
    );
    Ok(())
}

pub(super) async fn wat_2_slow_readers_slow_nobody(bed: &Bed) -> Outcome {
    const READERS: usize = 100;
    const UPDATES: usize = 200;
    let [a, b, c] = bed.nodes().await?;
    let (mut asleep, mut half_read) = (Vec::new(), Vec::new());
    for _ in 0..READERS {
        asleep.push(b.watch(WEB).await?);
        asleep.push(b.watch_all().await?);
        half_read.push(b.watch(WEB).await?.into_changes());
    }
    let seen = bed.record(&[&b, &c]).await?;
    let updates = async {
        for number in 0..UPDATES {
            a.register(web("a", number)).await?;
        }
        Ok(())
    };
    let limit = bed.limit(a.bounds().visible);
    let what = format!("{UPDATES} updates, with {READERS} readers asleep,");
    bed.within(&what, limit, updates).await??;
    seen.wait("the last update", limit, |view| {
        number_in(view, "a") == Some(UPDATES - 1)
    })
    .await
}

pub(super) async fn wat_3_updates_never_go_back(bed: &Bed) -> Outcome {
    const UPDATES: usize = 300;
    let [a, b, c] = bed.nodes().await?;
    let mut seen = bed.record(&[&a, &b, &c]).await?;
    seen.push(c.record_all().await?);
    for number in 0..=UPDATES {
        a.register(web("a", number)).await?;
        // So that not all of it merges.
        tokio::task::yield_now().await;
    }
    let limit = bed.limit(a.bounds().visible);
    seen.wait("the last update", limit, |view| {
        number_in(view, "a") == Some(UPDATES)
    })
    .await?;
    bed.marker(&a, &seen).await?;
    never_back(bed, &seen)
}

pub(super) async fn wat_3_takeovers_never_go_back(bed: &Bed) -> Outcome {
    const TAKEOVERS: usize = 8;
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let limit = bed.limit(a.bounds().visible);
    for number in 0..TAKEOVERS {
        let (newer, older) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let key = newer.register(web("a", number)).await?;
        let what = format!("n is {number}");
        seen.wait(&what, limit, |view| number_in(view, "a") == Some(number))
            .await?;
        if number > 0 {
            older.is_superseded(&key).await?;
        }
    }
    for node in [&a, &b] {
        bed.marker(node, &seen).await?;
    }
    never_back(bed, &seen)
}

/// Checks number and generation of instance `a` in every view.
fn never_back(bed: &Bed, seen: &Recordings<'_>) -> Outcome {
    let key = sample::key(WEB, "a");
    for recording in seen.iter() {
        let views = recording.views(Mark::START);
        let found = views.iter().filter_map(|view| view.get(&key));
        let ages: Vec<_> = found.map(|a| (a.generation(), sample::number(a))).collect();
        let back = ages.windows(2).find(|step| step[1] < step[0]);
        ensure!(
            bed,
            back.is_none(),
            "a view went back in generation or number: {back:?}"
        );
    }
    Ok(())
}

pub(super) async fn wat_8_watches_of_one_selector_share_a_subscription(bed: &Bed) -> Outcome {
    let a = bed.node().await?;
    let unwatched = a.handle().subscriptions()?;
    let mut watches = vec![a.watch(WEB).await?];
    let one = a.handle().subscriptions()?;
    ensure!(
        bed,
        one > unwatched,
        "a watch has no subscription to be counted: {one}"
    );
    for _ in 0..100 {
        watches.push(a.watch(WEB).await?);
        watches.extend(watches.last().cloned());
    }
    let count = a.handle().subscriptions()?;
    let watched = watches.len();
    ensure!(
        bed,
        count == one,
        "{watched} watches of one selector have {count} subscriptions"
    );
    Ok(())
}

pub(super) async fn wat_8_dropped_watches_leave_no_subscription(bed: &Bed) -> Outcome {
    const WATCHES: usize = 10_000;
    const SERVICES: usize = 200;
    let a = bed.node().await?;
    let unwatched = a.handle().subscriptions()?;
    for number in 0..WATCHES {
        // Some of the subscriptions are joined again before the backend has ended them.
        let _dropped = a.watch(&format!("web-{}", number % SERVICES)).await?;
    }
    let swept = || {
        let count = a.handle().subscriptions().unwrap_or(usize::MAX);
        (count == unwatched)
            .then_some(())
            .ok_or(format!("{count} subscriptions"))
    };
    let what = format!("there are {unwatched} subscriptions again after {WATCHES} watches");
    bed.eventually(&what, bed.limit(Duration::ZERO), swept)
        .await?;
    // And none that is being ended takes a new watch with it.
    a.register(web("a", 1)).await?;
    let view = a.watch(WEB).await?.view();
    ensure!(
        bed,
        number_in(&view, "a") == Some(1),
        "a new watch shows {}",
        shown(&view)
    );
    Ok(())
}
