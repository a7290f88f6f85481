//! Records of others, records without end, and what is asked over and over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_gossip::MemberState;
use tidings_gossip::wire::message::{RangeDigest, Record, Stamp};
use tidings_gossip::wire::{Message, member_hash};

use crate::cluster::{Cluster, alive, frame, hostile_address, id, instance, key, name};

fn record(owner: u64, generation: u64, version: u64, id: &str) -> Message {
    let forged = instance(id, 666).with_generation(tidings_api::Generation::new(generation));
    Message::Record(Record {
        owner,
        generation,
        version,
        key: key(id),
        content: Some(Arc::new(forged).into()),
    })
}

fn syncs(cluster: &Cluster) -> u64 {
    let stats = cluster.engines.iter().map(|engine| engine.stats());
    stats.map(|stats| stats.syncs).sum()
}

fn sync_bytes(cluster: &Cluster) -> u64 {
    let stats = cluster.engines.iter().map(|engine| engine.stats());
    stats.map(|stats| stats.sync_bytes_out).sum()
}

#[test]
fn forged_records_are_corrected_by_their_owners() {
    let mut cluster = Cluster::new(6);
    for round in 0..50 {
        let said: Vec<_> = (0..6)
            .map(|member| {
                let generation = cluster.engines[member].identity().generation.number();
                record(id(member), generation, 1_000 * (round + 1), &name(member))
            })
            .collect();
        cluster.link_all(&frame(&said));
        cluster.run(Duration::from_millis(20));
    }
    let took = cluster.run_until(Duration::from_secs(5), "all is true", Cluster::all_show_all);
    println!("the truth is back {took:?} after the last of 300 forged records");
}

#[test]
fn thousands_of_invented_keys_of_others_leave_room_for_their_own() {
    const FORGED: u64 = 40_000;
    let mut cluster = Cluster::new(3);
    let generation = cluster.engines[1].identity().generation.number();
    let begin = Instant::now();
    let forged: Vec<_> = (0..FORGED)
        .map(|number| {
            record(
                id(1),
                generation,
                1_000 + number,
                &format!("forged-{number}"),
            )
        })
        .collect();
    for some in forged.chunks(1_000) {
        cluster.link_all(&frame(some));
        cluster.run(Duration::from_millis(50));
    }
    cluster.register(1, "late", 7);
    let truth = |cluster: &Cluster| {
        let shown = |member| cluster.shown(member).len() == 4;
        cluster.all_show_all() && cluster.all_show("late", 7) && (0..3).all(shown)
    };
    let took = cluster.run_until(
        Duration::from_secs(600),
        "only what is true is shown",
        truth,
    );
    println!(
        "{FORGED} forged keys are gone {took:?} later; {:?} of CPU",
        begin.elapsed()
    );
}

#[test]
fn more_records_than_an_owner_may_have_end_in_no_endless_sync() {
    const RECORDS: u64 = 40_000;
    let mut cluster = Cluster::new(3);
    cluster.hostile_answers = true;
    let hostile = member_hash("hostile");
    cluster.link_all(&frame(&[alive("hostile", 1, 0, hostile_address())]));
    let begin = Instant::now();
    let mut records: Vec<_> = (1..=RECORDS)
        .map(|version| record(hostile, 1, version, &format!("mine-{version}")))
        .collect();
    // Each member hears another order.
    for member in 0..3 {
        fastrand::Rng::with_seed(member as u64).shuffle(&mut records);
        for some in records.chunks(1_000) {
            cluster.link(member, &frame(some));
        }
    }
    cluster.run(Duration::from_secs(10));
    for engine in &cluster.engines {
        assert!(engine.records() < 33_000, "{} records", engine.records());
    }
    let hostile_lives = |cluster: &Cluster| {
        let mut members = cluster.engines[0].members();
        members.any(|info| &*info.identity.name == "hostile" && info.state == MemberState::Alive)
    };
    assert!(hostile_lives(&cluster), "its records count");
    let differ = |cluster: &Cluster| {
        let digests = cluster.engines.iter().map(|engine| engine.digest());
        digests.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(differ(&cluster) > 1, "they have refused the same");
    let (before, syncs_before) = (sync_bytes(&cluster), syncs(&cluster));
    cluster.run(Duration::from_secs(60));
    let rate = (sync_bytes(&cluster) - before) / 60 / 3;
    let count = syncs(&cluster) - syncs_before;
    println!(
        "{rate} bytes/s and {count} syncs in a minute afterwards, {} digests; {:?} of CPU",
        differ(&cluster),
        begin.elapsed()
    );
    // Each member at most every 10 s, and they do: what they differ in is still there.
    assert!(differ(&cluster) > 1);
    assert!((1..=3 * 6).contains(&count), "{count} syncs");
    assert!(rate < 100_000, "{rate} bytes/s");
    cluster.register(1, "late", 7);
    cluster.run_until(
        Duration::from_secs(2),
        "a change gets everywhere",
        |cluster| cluster.all_show("late", 7),
    );
}

#[test]
fn what_one_frame_asks_for_is_answered_with_a_bounded_number_of_bytes() {
    let mut cluster = Cluster::new(2);
    for number in 0..10_000 {
        let padded = instance(&format!("large-{number}"), 7)
            .with_metadata("padding", "x".repeat(512))
            .and_then(|padded| padded.with_metadata("more", "x".repeat(512)))
            .unwrap();
        let now = cluster.now;
        cluster.engines[0].register(now, padded).unwrap();
    }
    cluster.run(Duration::from_secs(5));
    let everything = |digest, count| RangeDigest {
        first: 0,
        last: u64::MAX,
        digest,
        count,
    };
    let had: Vec<_> = (0..20_000_u64).map(|at| (at << 49, Stamp(1, 1))).collect();
    let bombs = [
        ("all of it", Message::Sync(vec![everything(0, 0)])),
        ("each range", Message::Sync(vec![everything(1, 1); 10_000])),
        (
            "huge have",
            Message::Have {
                first: 0,
                last: u64::MAX,
                entries: had,
            },
        ),
        (
            "huge want",
            Message::Want((0..60_000_u64).map(|at| at << 48).collect()),
        ),
    ];
    for (what, bomb) in bombs {
        cluster.bytes_to_others = 0;
        let bytes = frame(&[bomb]);
        let begin = Instant::now();
        cluster.link(0, &bytes);
        cluster.run(Duration::from_millis(1));
        let (asked, answered) = (bytes.len(), cluster.bytes_to_others);
        println!(
            "{what}: {asked} bytes ask for {answered}, {:?} of CPU",
            begin.elapsed()
        );
        assert!(answered <= 9 << 20, "{answered} bytes");
    }
}
