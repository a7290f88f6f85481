use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(30);

pub(super) fn unsealed() -> Links {
    let (_, ring) = watch::channel(Arc::new(Ring::off("tidings")));
    Links::new(LinkKeys::new(ring, Arc::default()))
}

pub(super) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

async fn next(links: &mut Links) -> LinkEvent {
    timeout(LONG, links.next()).await.expect("nothing happened")
}

/// Runs `links` until `condition` holds of its counters.
pub(super) async fn until(links: &mut Links, condition: impl Fn(LinkStats) -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition(links.stats()) {
        assert!(Instant::now() < deadline, "{:?}", links.stats());
        let _ = timeout(Duration::from_millis(5), links.next()).await;
    }
}

#[tokio::test]
async fn frames_go_both_ways_over_one_link() {
    let (listener, addr) = listen().await;
    let (mut a, mut b) = (unsealed(), unsealed());
    let now = Instant::now();
    a.send(now, addr, b"one");
    let (stream, _) = listener.accept().await.unwrap();
    b.accept(now, stream);
    let LinkEvent::Frame(link, frame) = next(&mut b).await else {
        panic!("no frame");
    };
    assert_eq!(frame, b"one");
    let large = vec![7; LINK_FRAME_BYTES_MAX];
    b.reply(now, link, &large);
    assert!(matches!(next(&mut a).await, LinkEvent::Frame(_, frame) if frame == large));
    assert_eq!((a.stats().opened, b.stats().accepted), (1, 1));
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let (listener, addr) = listen().await;
    drop(listener);
    let mut links = unsealed();
    links.send(Instant::now(), addr, b"lost");
    let event = next(&mut links).await;
    assert!(
        matches!(event, LinkEvent::Failed(to, LinkFailure::Refused) if to == addr),
        "{event:?}"
    );
    assert_eq!(links.stats().open, 0);
}

#[tokio::test]
async fn nobody_is_taken_for_oneself() {
    // Linux opens connections from even ports. In about as many tries as there are of them, one is
    // opened from the very port it goes to.
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (40_000..50_000).step_by(2).find(free).unwrap();
    for _ in 0..30_000 {
        let opened = carrier::connect((Ipv4Addr::LOCALHOST, port).into()).await;
        assert!(matches!(opened, Err(End::Failed(LinkFailure::Refused))));
    }
}

#[tokio::test]
async fn the_end_of_a_peer_is_noticed_without_sending() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    links.send(Instant::now(), addr, b"hello");
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; 9]).await.unwrap();
    drop((listener, stream));
    let event = next(&mut links).await;
    assert!(
        matches!(event, LinkEvent::Failed(to, LinkFailure::Refused) if to == addr),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_peer_that_restarted_takes_what_it_missed() {
    const FRAMES: u8 = 14;
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    // More than the socket's buffers hold, so that some of it waits.
    for number in 0..FRAMES {
        links.send(Instant::now(), addr, &vec![number; LINK_FRAME_BYTES_MAX]);
    }
    let peer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut framed = vec![0; 4 + LINK_FRAME_BYTES_MAX];
        let mut numbers = Vec::new();
        while numbers.last() != Some(&(FRAMES - 1)) {
            stream.read_exact(&mut framed).await.unwrap();
            numbers.push(framed[4]);
        }
        numbers
    };
    let numbers = tokio::select! {
        numbers = timeout(LONG, peer) => numbers.unwrap(),
        event = links.next() => panic!("{event:?}"),
    };
    assert!(numbers.len() > 1, "{numbers:?}");
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{numbers:?}"
    );
}

#[tokio::test]
async fn a_peer_that_always_hangs_up_is_unreachable_in_the_end() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    // More than the socket's buffers hold, so that it can't all be written.
    for _ in 0..14 {
        links.send(Instant::now(), addr, &vec![0; LINK_FRAME_BYTES_MAX]);
    }
    let hang_up = async {
        loop {
            let _ = listener.accept().await.unwrap();
        }
    };
    let event = tokio::select! {
        event = next(&mut links) => event,
        () = hang_up => unreachable!(),
    };
    assert!(
        matches!(event, LinkEvent::Failed(_, LinkFailure::Unreachable)),
        "{event:?}"
    );
}

#[tokio::test]
async fn what_is_no_frame_ends_the_link_and_is_counted() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    let mut peer = TcpStream::connect(addr).await.unwrap();
    links.accept(Instant::now(), listener.accept().await.unwrap().0);
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until(&mut links, |stats| stats.malformed == 1 && stats.open == 0).await;
    // Closed with bytes unread: an end of file or a reset, as the system likes.
    assert_eq!(peer.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_slow_peer_costs_a_bounded_queue() {
    let (_listener, addr) = listen().await;
    let mut links = unsealed();
    let frame = vec![0; LINK_FRAME_BYTES_MAX];
    for _ in 0..100 {
        // Never read: the first megabytes are in the system's buffers, the next in the queue.
        links.send(Instant::now(), addr, &frame);
        tokio::task::yield_now().await;
    }
    let waiting = links.open.values().next().unwrap().queue.bytes();
    assert!(
        (LINK_FRAME_BYTES_MAX..=BYTES_WAITING_MAX).contains(&waiting),
        "{waiting}"
    );
    let stats = links.stats();
    assert!(stats.dropped >= 50, "{stats:?}");
    assert_eq!(stats.queued, waiting);
}

#[tokio::test]
async fn many_slow_peers_cost_a_bounded_queue() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    let frame = vec![0; LINK_FRAME_BYTES_MAX];
    let (now, mut peers) = (Instant::now(), Vec::new());
    for _ in 0..100 {
        peers.push(TcpStream::connect(addr).await.unwrap());
        links.accept(now, listener.accept().await.unwrap().0);
    }
    let ids: Vec<_> = links.open.keys().copied().collect();
    for id in &ids {
        for _ in 0..24 {
            links.reply(now, *id, &frame);
        }
        tokio::task::yield_now().await;
    }
    assert!(links.waiting.bytes() <= BYTES_WAITING_TOTAL_MAX);
    assert!(links.stats().dropped > 500, "{:?}", links.stats());
    // Who comes now gets what is small, whatever waits for the others.
    peers.push(TcpStream::connect(addr).await.unwrap());
    links.accept(now, listener.accept().await.unwrap().0);
    let (late, dropped) = (links.last, links.stats().dropped);
    links.reply(now, late, b"small");
    assert_eq!(links.stats().dropped, dropped);
    // And what was never written waits no longer.
    links.shutdown().await;
    assert_eq!(links.waiting.bytes(), 0);
}

#[tokio::test]
async fn frames_that_never_end_hold_a_bounded_part_of_the_memory() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    let mut peers = Vec::new();
    let begun = BYTES_READ_MAX / LINK_FRAME_BYTES_MAX + 8;
    for _ in 0..begun {
        let mut peer = TcpStream::connect(addr).await.unwrap();
        links.accept(Instant::now(), listener.accept().await.unwrap().0);
        let len = u32::try_from(LINK_FRAME_BYTES_MAX).unwrap();
        peer.write_all(&len.to_be_bytes()).await.unwrap();
        peers.push(peer);
    }
    let reading = links.reading.clone();
    let deadline = Instant::now() + LONG;
    while reading.available_permits() >= LINK_FRAME_BYTES_MAX {
        assert!(Instant::now() < deadline, "no leave was taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A frame of the size that members send needs no leave.
    let mut honest = TcpStream::connect(addr).await.unwrap();
    links.accept(Instant::now(), listener.accept().await.unwrap().0);
    let frame = vec![7; LINK_FRAME_BYTES_TARGET];
    honest.write_all(&framed(&frame)).await.unwrap();
    let LinkEvent::Frame(_, heard) = next(&mut links).await else {
        panic!("no frame");
    };
    assert_eq!(heard, frame);
    // And who gives up, gives it back.
    drop(peers);
    until(&mut links, |stats| stats.open == 1).await;
    assert_eq!(reading.available_permits(), BYTES_READ_MAX);
}

#[tokio::test]
async fn the_link_unused_longest_makes_room() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = |n: usize| {
        let ip = Ipv4Addr::new(127, 0, 1, u8::try_from(n).unwrap());
        SocketAddr::new(ip.into(), port)
    };
    let mut links = unsealed();
    let start = Instant::now();
    let later = |n: usize| start + Duration::from_millis(u64::try_from(n).unwrap());
    for n in 1..=LINKS_OUT_MAX {
        links.send(later(n), target(n), b"hello");
    }
    links.send(later(200), target(1), b"still in use");
    links.send(later(201), target(201), b"one more");
    assert_eq!(links.outgoing.len(), LINKS_OUT_MAX);
    assert_eq!(links.stats().evicted, 1);
    assert!(links.outgoing.contains_key(&target(1)));
    assert!(!links.outgoing.contains_key(&target(2)));
}

#[tokio::test]
async fn silent_links_make_room_for_new_ones_and_used_ones_do_not() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    links.incoming_max = 2;
    let start = Instant::now();
    let mut peers = Vec::new();
    let mut connect = async || {
        peers.push(TcpStream::connect(addr).await.unwrap());
        listener.accept().await.unwrap().0
    };
    for _ in 0..3 {
        links.accept(start, connect().await);
    }
    let stats = links.stats();
    assert_eq!((stats.open, stats.turned_away, stats.evicted), (2, 1, 0));
    links.accept(start + IN_USE, connect().await);
    let stats = links.stats();
    assert_eq!((stats.open, stats.turned_away, stats.evicted), (2, 1, 1));
}

#[tokio::test]
async fn idle_links_are_closed_by_their_opener() {
    let (listener, addr) = listen().await;
    let (mut a, mut b) = (unsealed(), unsealed());
    let now = Instant::now();
    a.send(now, addr, b"hello");
    b.accept(now, listener.accept().await.unwrap().0);
    next(&mut b).await;
    for links in [&mut a, &mut b] {
        links.tend(now + IDLE_OUT - Duration::from_secs(1));
        assert_eq!(links.stats().open, 1);
        links.tend(now + IDLE_OUT);
    }
    assert_eq!((a.stats().open, b.stats().open), (0, 1));
    until(&mut b, |stats| stats.open == 0).await;
}

#[tokio::test]
async fn a_kept_link_is_opened_and_stays_open() {
    let (listener, addr) = listen().await;
    let (mut a, mut b) = (unsealed(), unsealed());
    let start = Instant::now();
    a.keep(start, vec![addr]);
    b.accept(start, listener.accept().await.unwrap().0);
    for idle in 1..=4 {
        a.tend(start + idle * IDLE_KEPT);
        assert!(timeout(Duration::from_millis(50), b.next()).await.is_err());
        assert_eq!((a.stats().open, b.stats().open), (1, 1));
    }
    a.keep(start, Vec::new());
    a.tend(start + 5 * IDLE_KEPT);
    assert_eq!(a.stats().open, 0);
    until(&mut b, |stats| stats.open == 0).await;

    // Lost, and opened again at once.
    a.keep(start, vec![addr]);
    drop(listener.accept().await.unwrap());
    let again = tokio::select! {
        again = timeout(LONG, listener.accept()) => again.unwrap().unwrap(),
        event = a.next() => panic!("{event:?}"),
    };
    // Lost again so soon: not at once, but when links are tended next.
    drop((again, listener));
    let refused = async {
        loop {
            a.tend(start);
            if let Ok(event) = timeout(Duration::from_millis(5), a.next()).await {
                return event;
            }
        }
    };
    let event = timeout(LONG, refused).await.unwrap();
    assert!(
        matches!(event, LinkEvent::Failed(to, LinkFailure::Refused) if to == addr),
        "{event:?}"
    );
}

#[tokio::test]
async fn shutting_down_leaves_nothing_open() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    links.send(Instant::now(), addr, b"hello");
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; 9]).await.unwrap();
    links.shutdown().await;
    assert!(links.tasks.is_empty());
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn observers_and_members_keep_no_room_from_each_other() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    links.incoming_max = 2;
    let now = Instant::now();
    let mut peers = Vec::new();
    for number in 1..=5 {
        peers.push(TcpStream::connect(addr).await.unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        links.accept(now, stream);
        links.set_observer(LinkId(number));
    }
    assert_eq!((links.stats().observers, links.stats().turned_away), (5, 0));
    // As many others as before find room, and idle observers make none for more.
    for _ in 0..2 {
        peers.push(TcpStream::connect(addr).await.unwrap());
        let (stream, _) = listener.accept().await.unwrap();
        links.accept(now, stream);
    }
    assert_eq!((links.stats().open, links.stats().turned_away), (7, 0));
    let later = now + 2 * IN_USE;
    peers.push(TcpStream::connect(addr).await.unwrap());
    let (stream, _) = listener.accept().await.unwrap();
    links.accept(later, stream);
    let stats = links.stats();
    assert_eq!((stats.observers, stats.open, stats.evicted), (5, 7, 1));
    links.close(LinkId(1));
    assert_eq!(links.stats().observers, 4);
}
