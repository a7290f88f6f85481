//! User events and queries between real members, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_api::{Discovery, ErrorKind};
use tidings_gossip::{
    Events, GossipConfig, GossipDiscovery, Heard, Outcome, Queries, QueryOptions, QueryUpdate,
    SealKey, UserEvent,
};
use tokio::time::{sleep, timeout};

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Payloads of all sizes: nothing, small ones that go by datagram, and those that go by link.
const SIZES: [usize; 6] = [0, 1, 1_024, 1_300, 10_000, 64 * 1_024];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_every_size_reach_everybody_once_and_in_order() {
    let members = cluster(5, &[]).await;
    let mut readers = Vec::new();
    for member in &members {
        readers.push(member.events().await.unwrap());
    }
    for round in 0..5_u8 {
        for size in SIZES {
            let sent = members[0].send_event("deploy", vec![round; size]).await;
            sent.unwrap();
        }
    }
    for reader in &mut readers {
        for at in 0..5 * SIZES.len() {
            let event = event(reader).await;
            assert_eq!((&*event.sender, event.sequence), ("m0", at as u64 + 1));
            assert_eq!(event.name.as_str(), "deploy");
            let round = u8::try_from(at / SIZES.len()).unwrap();
            assert_eq!(*event.payload, vec![round; SIZES[at % SIZES.len()]]);
        }
    }
    let too_long = members[0]
        .send_event("deploy", vec![0; 64 * 1_024 + 1])
        .await;
    assert_eq!(too_long.unwrap_err().kind(), ErrorKind::InvalidInput);
    let bad_name = members[0].send_event("no spaces", *b"").await;
    assert_eq!(bad_name.unwrap_err().kind(), ErrorKind::InvalidInput);
    let stats = members[0].stats().await.unwrap().engine.events;
    assert_eq!((stats.sent, stats.told, stats.missed), (30, 30, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_late_or_begins_to_read_late_is_told_of_recent_events() {
    let members = cluster(3, &[]).await;
    for size in SIZES {
        members[1]
            .send_event("deploy", vec![7; size])
            .await
            .unwrap();
    }
    let mut reader = members[0].events().await.unwrap();
    for sequence in 1..=SIZES.len() as u64 {
        assert_eq!(event(&mut reader).await.sequence, sequence);
    }
    // The sender is gone; what it said is not.
    members[1].close().await.unwrap();
    let late = member("late", &[members[0].local_addr()], &[]).await;
    let mut readers = [
        late.events().await.unwrap(),
        members[0].events().await.unwrap(),
    ];
    for reader in &mut readers {
        for (at, size) in SIZES.iter().enumerate() {
            let event = event(reader).await;
            assert_eq!(
                (event.sequence, event.payload.len()),
                (at as u64 + 1, *size)
            );
            assert!(event.age < LONG);
        }
    }
    assert_eq!(late.stats().await.unwrap().engine.events.missed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_cut_off_is_told_what_it_missed() {
    let members = cluster(4, &[]).await;
    let mut reader = members[3].events().await.unwrap();
    members[0].send_event("deploy", *b"before").await.unwrap();
    assert_eq!(event(&mut reader).await.sequence, 1);
    members[3].faults().cut_off().await;
    for at in 0..20_u8 {
        members[0]
            .send_event("deploy", vec![at; 5_000])
            .await
            .unwrap();
    }
    let mut other = members[1].events().await.unwrap();
    while event(&mut other).await.sequence < 21 {}
    assert_eq!(members[3].stats().await.unwrap().engine.events.told, 1);
    members[3].faults().restore().await;
    for sequence in 2..=21 {
        assert_eq!(event(&mut reader).await.sequence, sequence);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_told_how_much_it_has_lost_and_slows_nobody() {
    let members = cluster(2, &[]).await;
    let mut slow = members[1].events().await.unwrap();
    let mut quick = members[1].events().await.unwrap();
    const COUNT: u64 = 3_000;
    for at in 1..=COUNT {
        members[0].send_event("tick", *b"x").await.unwrap();
        if at % 100 == 0 {
            while event(&mut quick).await.sequence < at {}
        }
    }
    let (mut told, mut skipped) = (0, 0);
    while told + skipped < COUNT {
        match timeout(LONG, slow.next()).await.unwrap().unwrap() {
            Heard::Event(event) => {
                told += 1;
                assert_eq!(event.sequence, told + skipped);
            }
            Heard::Skipped { count } => skipped += count,
            Heard::Missed { .. } => panic!("the member itself has missed nothing"),
        }
    }
    assert!(skipped > 0 && told > 0, "{told} told, {skipped} skipped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_answered_by_twenty_members_with_payloads_of_every_size() {
    let members = cluster(20, &[]).await;
    let mut servers = Vec::new();
    for member in &members {
        let queries = member.queries().await.unwrap();
        let name = member.identity().name;
        servers.push(tokio::spawn(echo(queries, name)));
    }
    let everybody: Vec<_> = members.iter().map(|m| m.identity().name).collect();
    for size in [0, 1, 1_024, 64 * 1_024] {
        let question = vec![9; size];
        let options = QueryOptions::default().timeout(LONG);
        let asked = members[0].query("echo", question.clone(), options);
        let mut answers = asked.await.unwrap();
        let mut answered = BTreeMap::new();
        while let Some(update) = answers.next().await {
            if let QueryUpdate::Answered { member, payload } = update {
                assert_eq!(answered.insert(member, payload), None, "answered once");
            }
        }
        assert_eq!(answered.len(), 20);
        assert!(answered.values().all(|answer| **answer == question[..]));
        let report = answers.report().await.unwrap();
        assert_eq!(
            (report.answered().count(), report.missing().count()),
            (20, 0)
        );
    }
    // Some only, and no more answers than wanted.
    let options = QueryOptions::default().members(everybody[3..6].to_vec());
    let report = members[0].query("echo", *b"", options).await.unwrap();
    let report = report.report().await.unwrap();
    let asked: Vec<_> = report.outcomes.keys().cloned().collect();
    let mut named = everybody[3..6].to_vec();
    named.sort();
    assert_eq!(asked, named);
    let options = QueryOptions::default().answers_max(5);
    let first = members[0].query("echo", *b"", options).await.unwrap();
    assert_eq!(first.report().await.unwrap().answered().count(), 5);
    for server in servers {
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_says_who_has_not_answered_and_why() {
    let members = cluster(4, &[]).await;
    let mut silent = members[1].queries().await.unwrap();
    let mut dropping = members[2].queries().await.unwrap();
    let options = QueryOptions::default()
        .timeout(LONG)
        .members(["m0", "m1", "m2", "m3", "nobody"]);
    let mut answers = members[0].query("load", *b"?", options).await.unwrap();
    let query = timeout(LONG, silent.next()).await.unwrap().unwrap();
    assert_eq!(
        (query.asker(), query.name(), query.payload()),
        ("m0", "load", &b"?"[..])
    );
    drop(timeout(LONG, dropping.next()).await.unwrap().unwrap());
    // It has the query, and dies with it.
    let mut received = 0;
    while received < 4 {
        let update = timeout(LONG, answers.next()).await.unwrap().unwrap();
        received += u32::from(matches!(update, QueryUpdate::Received { .. }));
    }
    members[1].faults().crash().await;
    let report = timeout(LONG, answers.report()).await.unwrap().unwrap();
    let outcome = |name: &str| report.outcomes[name];
    assert_eq!(outcome("m0"), Outcome::Declined, "nobody reads there");
    assert_eq!(outcome("m1"), Outcome::Gone);
    assert_eq!(outcome("m2"), Outcome::Declined);
    assert_eq!(outcome("m3"), Outcome::Declined);
    assert_eq!(outcome("nobody"), Outcome::Gone);
    assert_eq!(report.missing().count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_queries_work_in_a_sealed_cluster() {
    let keys = [SealKey::from_bytes(std::array::from_fn(|at| at as u8)).unwrap()];
    let members = cluster(3, &keys).await;
    let mut reader = members[2].events().await.unwrap();
    let server = tokio::spawn(echo(members[1].queries().await.unwrap(), "m1".into()));
    for size in SIZES {
        members[0]
            .send_event("deploy", vec![1; size])
            .await
            .unwrap();
        assert_eq!(event(&mut reader).await.payload.len(), size);
        let options = QueryOptions::default().timeout(LONG).members(["m1"]);
        let report = members[2]
            .query("echo", vec![2; size], options)
            .await
            .unwrap();
        assert_eq!(report.report().await.unwrap().answered().count(), 1);
    }
    server.abort();
}

#[tokio::test]
async fn readers_learn_that_the_handle_is_closed() {
    let member = member("a", &[], &[]).await;
    let (mut events, mut queries) = (
        member.events().await.unwrap(),
        member.queries().await.unwrap(),
    );
    member.send_event("last", *b"words").await.unwrap();
    member.close().await.unwrap();
    assert_eq!(event(&mut events).await.name.as_str(), "last");
    let closed = timeout(LONG, events.next()).await.unwrap().unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
    let closed = timeout(LONG, queries.next()).await.unwrap().unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
    let closed = member.send_event("late", *b"").await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
}

/// Answers every query with its own payload.
async fn echo(mut queries: Queries, _name: Arc<str>) {
    while let Ok(query) = queries.next().await {
        let payload = query.payload().to_vec();
        query.answer(payload).await.unwrap();
    }
}

async fn event(reader: &mut Events) -> UserEvent {
    match timeout(LONG, reader.next()).await.unwrap().unwrap() {
        Heard::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

/// Members `m0` …, all of whom know each other.
async fn cluster(count: usize, keys: &[SealKey]) -> Vec<GossipDiscovery> {
    let mut members = vec![member("m0", &[], keys).await];
    for at in 1..count {
        let seed = members[0].local_addr();
        members.push(member(&format!("m{at}"), &[seed], keys).await);
    }
    let deadline = Instant::now() + LONG;
    for member in &members {
        while member.members().await.unwrap().len() < count {
            assert!(Instant::now() < deadline, "they don't find each other");
            sleep(POLL).await;
        }
    }
    members
}

async fn member(name: &str, join: &[SocketAddr], keys: &[SealKey]) -> GossipDiscovery {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.name = Some(name.to_owned());
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG;
    config.keys = keys.to_vec();
    config.probe_interval = Duration::from_millis(200);
    config.probe_timeout = Duration::from_millis(100);
    GossipDiscovery::start(config).await.unwrap()
}
