//! Members on real sockets of the loopback interface.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidings_api::{
    Change, Changes, Connection, Discovery, DiscoveryExt, ErrorKind, Health, HealthState, Instance,
    InstanceKey, Registration, Removal, Selector,
};
use tidings_gossip::wire::{Header, Message, cluster_hash};
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(30);
/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// A member that finds out about the others ten times as fast as the default.
fn config(join: &[SocketAddr]) -> GossipConfig {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG;
    config.probe_interval = Duration::from_millis(100);
    config.probe_timeout = Duration::from_millis(50);
    config
}

async fn member(join: &[SocketAddr]) -> GossipDiscovery {
    GossipDiscovery::start(config(join)).await.unwrap()
}

/// A cluster in which everybody knows everybody.
async fn cluster(size: usize) -> Vec<GossipDiscovery> {
    let mut members = vec![member(&[]).await];
    let seed = members[0].local_addr();
    while members.len() < size {
        members.push(member(&[seed]).await);
    }
    for member in &members {
        until("everybody is known", async || {
            count(member, MemberState::Alive).await == size
        })
        .await;
    }
    members
}

async fn count(member: &GossipDiscovery, state: MemberState) -> usize {
    let members = member.members().await.unwrap();
    members.iter().filter(|info| info.state == state).count()
}

fn instance(id: &str) -> Instance {
    let instance = Instance::new("web", "10.0.0.7:80");
    instance.and_then(|web| web.with_id(id)).unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(POLL).await;
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it takes too long")
}

async fn next(changes: &mut Changes) -> Change {
    in_time(changes.next()).await.expect("the watch has ended")
}

#[tokio::test]
async fn two_members_find_each_other() {
    let members = cluster(2).await;
    let key = members[0].register(instance("a")).await.unwrap();
    let mut watch = members[1].watch_service("web").await.unwrap();
    let view = in_time(watch.wait_until(|view| view.len() == 1)).await;
    let seen = view.unwrap().get(&key).unwrap().clone();
    assert_eq!(seen.address().to_string(), "10.0.0.7:80");
    assert!(watch.view().is_live());
    assert!(members[1].status().connection().is_connected());
    assert!(
        members[0]
            .status()
            .registration(&key)
            .unwrap()
            .is_registered()
    );
}

#[tokio::test]
async fn a_late_member_sees_what_is_there_when_it_has_started() {
    let members = cluster(3).await;
    for (member, id) in members.iter().zip(["a", "b", "c"]) {
        member.register(instance(id)).await.unwrap();
    }
    until("all agree", async || {
        for member in &members {
            if member.resolve("web").await.unwrap().len() < 3 {
                return false;
            }
        }
        true
    })
    .await;
    let late = member(&[members[2].local_addr()]).await;
    let view = late.resolve("web").await.unwrap();
    assert_eq!((view.len(), view.is_live()), (3, true));
}

#[tokio::test]
async fn a_seed_that_starts_late_is_joined() {
    let later = member(&[]).await;
    let address = later.local_addr();
    later.close().await.unwrap();

    let mut early = config(&[address]);
    early.join_wait = Duration::from_millis(50);
    let early = GossipDiscovery::start(early).await.unwrap();
    early.register(instance("a")).await.unwrap();
    let view = early.resolve("web").await.unwrap();
    assert_eq!((view.len(), view.is_live()), (1, false));
    assert!(!early.status().connection().is_connected());

    let mut later = config(&[]);
    later.bind = address;
    let later = GossipDiscovery::start(later).await.unwrap();
    in_time(later.wait_for("web", 1)).await.unwrap();
    until("it is connected", async || {
        early.status().connection().is_connected()
    })
    .await;
    assert!(early.resolve("web").await.unwrap().is_live());
}

#[tokio::test]
async fn updates_and_health_are_seen_as_updates() {
    let members = cluster(2).await;
    let mut changes = members[1].watch_all().await.unwrap().into_changes();
    let key = members[0].register(instance("a")).await.unwrap();
    assert!(matches!(next(&mut changes).await, Change::Added(_)));

    let moved = instance("a").with_address("10.0.0.8:80").unwrap();
    members[0].register(moved).await.unwrap();
    let Change::Updated { new, .. } = next(&mut changes).await else {
        panic!("no update");
    };
    assert_eq!(new.address().to_string(), "10.0.0.8:80");

    members[0]
        .health(&key, Health::warning("hot"))
        .await
        .unwrap();
    let Change::Updated { new, .. } = next(&mut changes).await else {
        panic!("no update");
    };
    assert_eq!(new.health(), &Health::warning("hot"));

    assert_eq!(members[0].deregister(&key).await.unwrap(), Removal::Removed);
    assert!(matches!(next(&mut changes).await, Change::Removed(_)));
}

#[tokio::test]
async fn closing_is_seen_at_once() {
    let mut members = cluster(3).await;
    let leaver = members.remove(0);
    leaver.register(instance("a")).await.unwrap();
    for member in &members {
        in_time(member.wait_for("web", 1)).await.unwrap();
    }
    leaver.close().await.unwrap();
    for member in &members {
        let mut watch = member.watch_service("web").await.unwrap();
        in_time(watch.wait_until(|view| view.is_empty() && view.is_live()))
            .await
            .unwrap();
        until("it has left", async || {
            count(member, MemberState::Left).await == 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_crash_is_found_within_its_bound() {
    let mut members = cluster(3).await;
    let victim = members.remove(0);
    victim.register(instance("a")).await.unwrap();
    for member in &members {
        in_time(member.wait_for("web", 1)).await.unwrap();
    }
    let bound = members[0].status().bounds().crashed;
    victim.faults().crash().await;
    let crashed = Instant::now();
    for member in &members {
        let mut watch = member.watch_service("web").await.unwrap();
        let gone = watch.wait_until(|view| view.is_empty() && view.is_live());
        timeout(bound, gone)
            .await
            .expect("slower than the bound")
            .unwrap();
    }
    println!("gone after {:?}, bound {bound:?}", crashed.elapsed());
    assert_eq!(count(&members[0], MemberState::Dead).await, 1);
    let error = victim.register(instance("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let first = member(&[]).await;
    let mut second = config(&[]);
    second.bind = first.local_addr();
    let error = GossipDiscovery::start(second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let expected = format!(
        "gossip: bind {} (UDP and TCP): the port is in use",
        first.local_addr()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_seed_that_cant_be_resolved_is_no_error_but_said() {
    let mut config = config(&[]);
    // A leading hyphen: resolvers refuse it without asking anybody.
    config.join = vec!["-nowhere.invalid".to_owned()];
    config.join_wait = Duration::from_millis(200);
    let member = in_time(GossipDiscovery::start(config)).await.unwrap();
    until("the reason is said", async || {
        let status = member.status();
        let Connection::Disconnected { reason, .. } = status.connection() else {
            panic!("{status:?}");
        };
        reason.starts_with("seed -nowhere.invalid:7946 can't be resolved")
    })
    .await;
    let key = member.register(instance("a")).await.unwrap();
    let view = member.resolve("web").await.unwrap();
    assert!(view.get(&key).is_some() && !view.is_live());
    assert!(view.freshness().to_string().contains("-nowhere.invalid"));
}

#[tokio::test]
async fn its_own_address_is_no_seed() {
    let first = member(&[]).await;
    let address = first.local_addr();
    first.close().await.unwrap();
    for advertise in [None, Some("127.0.0.2:0".parse().unwrap())] {
        let mut config = config(&[address]);
        config.bind = address;
        config.advertise = advertise;
        let member = in_time(GossipDiscovery::start(config)).await.unwrap();
        assert!(member.status().connection().is_connected());
        let advertised = advertise.map_or(address.ip(), |advertise| advertise.ip());
        let expected = SocketAddr::new(advertised, address.port());
        assert_eq!(member.identity().address, expected);
        member.close().await.unwrap();
    }
}

#[tokio::test]
async fn no_datagram_is_larger_than_1400_bytes() {
    let members = cluster(4).await;
    let most: String = "x".repeat(512);
    for id in 0..200 {
        // Small ones share datagrams up to the brim; of the larger some fit none.
        let entries = if id % 10 == 0 { 8 } else { id % 3 };
        let mut instance = instance(&id.to_string());
        for entry in 0..entries {
            let entry = format!("padding-{entry}");
            instance = instance.with_metadata(entry, most.clone()).unwrap();
        }
        members[id % 4].register(instance).await.unwrap();
    }
    for member in &members {
        in_time(member.wait_for("web", 200)).await.unwrap();
    }
    for member in &members {
        let net = member.stats().await.unwrap().net;
        let sent = net.largest_sent;
        assert!((1_000..=1_400).contains(&sent), "{sent} bytes");
        assert_eq!(net.errors, 0);
    }
}

#[tokio::test]
async fn garbage_is_counted_and_harmless() {
    let members = cluster(2).await;
    let target = members[0].local_addr();
    let mut rng = fastrand::Rng::with_seed(7);

    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for len in [0, 1, 3, 30, 1_400, 60_000] {
        let bytes: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        udp.send_to(&bytes, target).await.unwrap();
    }
    until("the datagrams are counted", async || {
        members[0].stats().await.unwrap().engine.malformed >= 6
    })
    .await;

    let mut http = TcpStream::connect(target).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut framed = TcpStream::connect(target).await.unwrap();
    framed.write_all(b"\0\0\0\x04oops").await.unwrap();
    let _half_open = TcpStream::connect(target).await.unwrap();
    until("the links are counted", async || {
        let stats = members[0].stats().await.unwrap();
        stats.links.malformed == 1 && stats.engine.malformed >= 7
    })
    .await;

    members[1].register(instance("a")).await.unwrap();
    in_time(members[0].wait_for("web", 1)).await.unwrap();
    assert_eq!(count(&members[0], MemberState::Alive).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_datagrams_starves_nobody_multi_thread() {
    survive_flood().await;
}

#[tokio::test]
async fn a_flood_of_datagrams_starves_nobody_current_thread() {
    survive_flood().await;
}

/// Datagrams that take the member longer to answer than they take to send.
async fn survive_flood() {
    let members = cluster(2).await;
    let target = members[0].local_addr();
    let header = Header {
        cluster: cluster_hash("tidings"),
        sender: 1,
    };
    let mut frame = header.to_frame();
    while frame.len() < 1_300 {
        let ping = Message::Ping {
            sequence: 1,
            target: 1,
            digest: 1,
        };
        ping.encode(&mut frame);
    }
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sent = 0_u64;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            sent += u64::from(socket.send_to(&frame, target).is_ok());
        }
        sent
    });
    until("the flood has arrived", async || {
        members[0].stats().await.unwrap().engine.datagrams_in > 1_000
    })
    .await;
    for number in 0..100 {
        let registered = members[0].register(instance(&number.to_string()));
        let registered = timeout(Duration::from_secs(5), registered).await;
        registered.expect("a command waits for seconds").unwrap();
    }
    drop(stop);
    let sent = flood.join().unwrap();
    let taken = members[0].stats().await.unwrap().engine.datagrams_in;
    println!("{sent} datagrams sent, {taken} taken");
    assert!(taken < sent, "not a flood");
    in_time(members[1].wait_for("web", 100)).await.unwrap();
}

#[tokio::test]
async fn who_is_cut_off_keeps_its_view_and_comes_back_without_a_flap() {
    let members = cluster(3).await;
    for (member, id) in members.iter().zip(["a", "b", "c"]) {
        member.register(instance(id)).await.unwrap();
    }
    let alone = &members[0];
    let view = in_time(alone.wait_for("web", 3)).await.unwrap();
    assert!(view.is_live());
    let mut watch = alone.watch_service("web").await.unwrap();
    let mut changes = watch.clone().into_changes();
    for _ in 0..3 {
        assert!(matches!(next(&mut changes).await, Change::Added(_)));
    }

    alone.faults().cut_off().await;
    let stale = timeout(
        alone.status().bounds().stale + LONG,
        watch.wait_until(|view| !view.is_live()),
    );
    let view = stale.await.expect("not stale in time").unwrap();
    assert_eq!(view.len(), 3);
    assert!(!alone.status().connection().is_connected());
    for other in &members[1..] {
        let mut watch = other.watch_service("web").await.unwrap();
        in_time(watch.wait_until(|view| view.len() == 2))
            .await
            .unwrap();
    }
    assert_eq!(alone.resolve("web").await.unwrap().len(), 3);

    alone.faults().restore().await;
    in_time(watch.wait_until(|view| view.is_live()))
        .await
        .unwrap();
    for other in &members[1..] {
        in_time(other.wait_for("web", 3)).await.unwrap();
    }
    // The only thing that happened to the instances it saw is this.
    members[1]
        .register(instance("b").with_health(Health::draining()))
        .await
        .unwrap();
    let Change::Updated { new, .. } = next(&mut changes).await else {
        panic!("a flap");
    };
    assert_eq!(new.health().state(), HealthState::Draining);
}

#[tokio::test]
async fn the_port_is_free_when_close_returns() {
    let seed = member(&[]).await;
    let mut config = config(&[seed.local_addr()]);
    config.name = Some("phoenix".to_owned());
    let mut last = None;
    for _ in 0..5 {
        let member = in_time(GossipDiscovery::start(config.clone()))
            .await
            .unwrap();
        config.bind = member.local_addr();
        assert!(last.is_none_or(|address| address == config.bind));
        last = Some(config.bind);
        member.register(instance("a")).await.unwrap();
        in_time(seed.wait_for("web", 1)).await.unwrap();
        member.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_closed_when_close_returns() {
    let member = member(&[]).await;
    let mut peers = Vec::new();
    for _ in 0..200 {
        peers.push(TcpStream::connect(member.local_addr()).await.unwrap());
    }
    until("all are accepted", async || {
        member.stats().await.unwrap().links.accepted == 200
    })
    .await;
    member.close().await.unwrap();
    for peer in peers.into_iter().rev() {
        // Without a wait: what is open would block.
        let mut peer = peer.into_std().unwrap();
        assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0);
    }
}

#[tokio::test]
async fn close_is_idempotent_and_ends_everything() {
    let members = cluster(2).await;
    let member = &members[0];
    let key = member.register(instance("a")).await.unwrap();
    let watch = member.watch_all().await.unwrap();
    let mut views = watch.into_views();
    let (first, second) = tokio::join!(member.close(), member.close());
    first.and(second).and(member.close().await).unwrap();

    let all_closed = [
        member.register(instance("b")).await.unwrap_err(),
        member.deregister(&key).await.unwrap_err(),
        member.watch(Selector::All).await.unwrap_err(),
        member.health(&key, Health::draining()).await.unwrap_err(),
        member.members().await.unwrap_err(),
    ];
    for error in all_closed {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(error.backend(), Some("gossip"), "{error}");
    }
    let status = member.status();
    assert!(matches!(status.connection(), Connection::Closed));
    assert!(status.registrations().is_empty());
    in_time(async { while views.next().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_dropped_handle_leaves_and_leaks_no_task() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let seed = member(&[]).await;
    let before = tasks();
    for id in ["a", "b"] {
        let dropped = member(&[seed.local_addr()]).await;
        dropped.register(instance(id)).await.unwrap();
        in_time(seed.wait_for("web", 1)).await.unwrap();
        let mut views = dropped.watch_all().await.unwrap().into_views();
        drop(dropped);
        in_time(async { while views.next().await.is_some() {} }).await;
        let mut watch = seed.watch_service("web").await.unwrap();
        in_time(watch.wait_until(|view| view.is_empty()))
            .await
            .unwrap();
    }
    assert_eq!(count(&seed, MemberState::Left).await, 2);
    seed.close().await.unwrap();
    // The first member's own task is among those before.
    until("all tasks have ended", async || tasks() < before).await;
}

#[tokio::test]
async fn watches_that_are_gone_leave_no_subscription() {
    let member = member(&[]).await;
    let kept = member.watch_service("kept").await.unwrap();
    let again = member.watch_service("kept").await.unwrap();
    assert_eq!(member.subscriptions(), 1);
    for number in 0..10_000 {
        member
            .watch_service(&format!("service-{number}"))
            .await
            .unwrap();
        assert!(member.subscriptions() < 1_000);
    }
    until("only one is left", async || member.subscriptions() == 1).await;
    member
        .register(Instance::new("kept", "10.0.0.7:80").unwrap())
        .await
        .unwrap();
    assert_eq!((kept.view().len(), again.view().len()), (1, 1));
}

#[tokio::test]
async fn an_instance_at_all_limits_arrives() {
    let members = cluster(3).await;
    let full = (0..64).fold(instance("full"), |instance, number| {
        let key = format!("{number:0>128}");
        instance.with_metadata(key, "é".repeat(256)).unwrap()
    });
    let full = (1..=32).fold(full, |instance, number| {
        instance
            .with_port(format!("{number:0>128}"), number)
            .unwrap()
    });
    let full = full.with_health(Health::warning("x".repeat(512)));
    members[0].register(full.clone()).await.unwrap();
    for member in &members {
        let view = in_time(member.wait_for("web", 1)).await.unwrap();
        let seen = view.iter().next().unwrap();
        let expected = full.clone().with_generation(seen.generation());
        assert_eq!(**seen, expected);
    }
}

#[tokio::test]
async fn of_two_owners_the_newer_wins_and_the_older_learns_it() {
    let members = cluster(3).await;
    let key = members[0].register(instance("a")).await.unwrap();
    in_time(members[1].wait_for("web", 1)).await.unwrap();
    let newer = instance("a").with_address("10.0.0.9:80").unwrap();
    members[1].register(newer).await.unwrap();
    until("the older one learns it", async || {
        let status = members[0].status();
        status
            .registration(&key)
            .is_some_and(Registration::is_superseded)
    })
    .await;
    for member in &members {
        let view = member.resolve("web").await.unwrap();
        let seen = view.get(&key).unwrap();
        assert_eq!(seen.address().to_string(), "10.0.0.9:80");
    }
    let error = members[0].health(&key, Health::draining()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotOwned);
}

#[tokio::test]
async fn calls_take_effect_in_call_order_also_when_dropped() {
    let member = member(&[]).await;
    let key: InstanceKey = "web/a".parse().unwrap();
    for round in 0..200 {
        let port = |number: u16| {
            let address = format!("10.0.0.7:{number}");
            instance("a").with_address(address).unwrap()
        };
        let (first, second, third, fourth) = tokio::join!(
            member.register(port(1)),
            member.deregister(&key),
            member.register(port(2)),
            member.register(port(3)),
        );
        first.and(third).and(fourth).unwrap();
        assert_eq!(second.unwrap(), Removal::Removed, "round {round}");
        let view = member.resolve("web").await.unwrap();
        assert_eq!(view.get(&key).unwrap().address().port(), 3);

        let dropped = timeout(Duration::ZERO, member.register(port(4))).await;
        let view = member.resolve("web").await.unwrap();
        let seen = view.get(&key).unwrap().address().port();
        assert!(
            seen == 4 || (seen == 3 && dropped.is_err()),
            "round {round}"
        );
    }
}

#[tokio::test]
async fn more_calls_at_once_than_a_turn_takes_are_all_answered() {
    let member = member(&[]).await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let member = &member;
            async move { member.register(instance(&number.to_string())).await }
        })
        .collect();
    // All are sent before any is answered.
    let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
    let answers = std::future::poll_fn(|context| {
        calls.retain_mut(|call| match call.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                answer.expect("a call got lost");
                false
            }
            std::task::Poll::Pending => true,
        });
        match calls.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    });
    in_time(answers).await;
    assert_eq!(member.resolve("web").await.unwrap().len(), 200);
}

#[tokio::test]
async fn ipv6_works_as_well() {
    let mut config = config(&[]);
    config.bind = "[::1]:0".parse().unwrap();
    let first = GossipDiscovery::start(config.clone()).await.unwrap();
    config.join = vec![first.local_addr().to_string()];
    let second = GossipDiscovery::start(config.clone()).await.unwrap();
    second.register(instance("a")).await.unwrap();
    in_time(first.wait_for("web", 1)).await.unwrap();
}

#[tokio::test]
async fn a_wrong_configuration_names_the_field() {
    let mut config = config(&[]);
    config.name = Some("not a name".to_owned());
    let error = GossipDiscovery::start(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("name \"not a name\""), "{error}");
}
