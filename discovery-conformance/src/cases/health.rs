//! HEA-1, HEA-2 and HEA-3: what owners say, and that they are there to say it.

use tidings_api::{ErrorKind, Health, InstanceKey, View};

use crate::Data;
use crate::bed::{Bed, Node, Recordings, ensure};
use crate::case::Outcome;
use crate::sample::{self, WEB, number_in, web};

pub(super) async fn hea_1_health_is_one_update(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    bed.marker(&a, &seen).await?;
    let healths = [
        Health::warning("half full"),
        Health::critical("full"),
        Health::draining(),
        Health::passing().with_note("empty again"),
        Health::passing(),
    ];
    for health in healths {
        let before = seen.mark();
        a.health(&key, health.clone()).await?;
        is(bed, &a, &seen, &key, &health).await?;
        bed.marker(&a, &seen).await?;
        seen.expect(&before, &["~a"])?;
    }
    Ok(())
}

pub(super) async fn hea_1_health_of_anothers_key_is_refused(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b]).await?;
    let key = a.register(web("a", 1)).await?;
    let gone = b.register(web("gone", 1)).await?;
    b.deregister(&gone).await?;
    bed.marker(&a, &seen).await?;
    bed.marker(&b, &seen).await?;
    let before = seen.mark();
    for (what, key) in [
        ("health of another handle's key", &key),
        (
            "health of a key never registered",
            &sample::key(WEB, "unknown"),
        ),
        ("health of a key no longer registered", &gone),
    ] {
        let answer = b.discovery().health(key, Health::draining()).await;
        b.refused(what, ErrorKind::NotOwned, answer)?;
    }
    bed.marker(&b, &seen).await?;
    bed.marker(&a, &seen).await?;
    seen.expect(&before, &[])
}

pub(super) async fn hea_2_health_survives_registering_again(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    a.health(&key, sick()).await?;
    is(bed, &a, &seen, &key, &sick()).await?;
    let before = seen.mark();
    a.register(web("a", 2)).await?;
    let limit = bed.limit(a.bounds().visible);
    seen.wait("n is 2", limit, |view| number_in(view, "a") == Some(2))
        .await?;
    bed.marker(&a, &seen).await?;
    is(bed, &a, &seen, &key, &sick()).await?;
    seen.expect(&before, &["~a"])?;

    // Only an instance that was given a health changes it.
    a.register(web("a", 2).with_health(Health::passing()))
        .await?;
    is(bed, &a, &seen, &key, &Health::passing()).await
}

pub(super) async fn hea_2_health_survives_an_outage(bed: &Bed) -> Outcome {
    let [a, b, c] = bed.nodes().await?;
    let seen = bed.record(&[&a, &b, &c]).await?;
    let key = a.register(web("a", 1)).await?;
    a.health(&key, sick()).await?;
    is(bed, &a, &seen, &key, &sick()).await?;
    a.is_cut_off(&seen[0]).await?;
    a.is_restored(&seen[0]).await?;
    bed.marker(&a, &seen).await?;
    stays(bed, &a, &seen, &key).await
}

pub(super) async fn hea_2_health_survives_a_lost_session(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let mut seen = bed.record(&[&a, &b]).await?;
    let key = a.register(web("a", 1)).await?;
    a.health(&key, sick()).await?;
    is(bed, &a, &seen, &key, &sick()).await?;
    a.handle().expire().await?;
    let c = bed.node().await?;
    seen.push(c.record(WEB).await?);
    stays(bed, &a, &seen, &key).await
}

pub(super) async fn hea_2_health_survives_lost_data(bed: &Bed) -> Outcome {
    let [a, b] = bed.nodes().await?;
    let mut seen = bed.record(&[&a, &b]).await?;
    let key = a.register(web("a", 1)).await?;
    a.health(&key, sick()).await?;
    is(bed, &a, &seen, &key, &sick()).await?;
    bed.fixture().stop_server().await?;
    let limit = bed.limit(a.bounds().stale);
    seen.wait("the server is down", limit, |view| !view.is_live())
        .await?;
    bed.fixture().start_server(Data::Lost).await?;
    let c = bed.node().await?;
    seen.push(c.record(WEB).await?);
    stays(bed, &a, &seen, &key).await
}

pub(super) async fn hea_3_a_crashed_owner_leaves_within_the_bound(bed: &Bed) -> Outcome {
    let [owner, b, c] = bed.nodes().await?;
    let mut seen = bed.record(&[&b, &c]).await?;
    seen.push(c.record_all().await?);
    for id in ["one", "two", "three"] {
        owner.register(web(id, 1)).await?;
    }
    b.register(web("other", 1)).await?;
    bed.marker(&owner, &seen).await?;
    bed.marker(&b, &seen).await?;
    let before = seen.mark();
    owner.handle().crash().await?;
    let limit = bed.limit(b.bounds().crashed);
    seen.wait("the crashed owner's instances are gone", limit, |view| {
        ["one", "two", "three"]
            .iter()
            .all(|id| number_in(view, id).is_none())
    })
    .await?;
    bed.marker(&b, &seen).await?;
    for (recording, mark) in seen.since(&before) {
        recording.expect_of(mark, &[], |id| id == "other")?;
    }
    Ok(())
}

fn sick() -> Health {
    Health::warning("a health that nobody has by default")
}

async fn is(
    bed: &Bed,
    from: &Node<'_>,
    seen: &Recordings<'_>,
    key: &InstanceKey,
    health: &Health,
) -> Outcome {
    let limit = bed.limit(from.bounds().visible);
    let what = format!("{key} is {}", sample::brief(health));
    let is = |view: &View| view.get(key).is_some_and(|found| found.health() == health);
    seen.wait(&what, limit, is).await
}

/// Waits until the instance is registered again, and checks that it was sick from then on.
async fn stays(bed: &Bed, from: &Node<'_>, seen: &Recordings<'_>, key: &InstanceKey) -> Outcome {
    let back = |view: &View| view.is_live() && view.get(key).is_some();
    seen.wait(&format!("{key} is there again"), bed.recovery(), back)
        .await?;
    from.is_registered(key).await?;
    is(bed, from, seen, key, &sick()).await?;
    bed.marker(from, seen).await?;
    for recording in seen.iter() {
        let views = recording.views(crate::recording::Mark::START);
        let healths = views
            .iter()
            .filter_map(|view| view.get(key))
            .map(|a| a.health().clone());
        let healths: Vec<_> = healths.skip_while(|health| *health != sick()).collect();
        let lost = healths.iter().find(|health| **health != sick());
        ensure!(
            bed,
            lost.is_none(),
            "the health of {key} was lost: {lost:?}"
        );
    }
    Ok(())
}
