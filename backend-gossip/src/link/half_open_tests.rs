//! Peers that open a link and say nothing, or half of something, or don't read: what they hold, and for
//! how long.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::carrier::FRAME_TIMEOUT;
use super::tests::{listen, unsealed, until};
use super::*;
use crate::seal::{MAGIC_SEALED, SealKey, SealMode, Side};

/// Leaves room for what is under way when a deadline passes.
const MOMENT: Duration = Duration::from_secs(1);

fn sealed() -> Links {
    let key = SealKey::from_bytes(std::array::from_fn(|at| at as u8)).unwrap();
    let ring = Ring::new("tidings", vec![key], SealMode::Required).unwrap();
    let (_, ring) = watch::channel(Arc::new(ring));
    Links::new(LinkKeys::new(ring, Arc::default()))
}

async fn accept(links: &mut Links, listener: &TcpListener, addr: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(addr).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    links.accept(Instant::now(), accepted);
    peer
}

/// Lets the tasks of the links run for a while.
async fn pass(links: &mut Links, time: Duration) {
    let _ = tokio::time::timeout(time, links.next()).await;
}

async fn ended(peer: &mut TcpStream) -> bool {
    // An end of file or a reset, as the system likes.
    peer.read(&mut [0; 1]).await.unwrap_or(0) == 0
}

#[tokio::test]
async fn who_opens_a_link_and_says_nothing_is_hung_up_on() {
    for mut links in [unsealed(), sealed()] {
        let (listener, addr) = listen().await;
        let mut peer = accept(&mut links, &listener, addr).await;
        let now = Instant::now();
        links.tend(now + IDLE_IN - MOMENT);
        let stats = links.stats();
        assert_eq!((stats.open, stats.timed_out), (1, 0));
        links.tend(now + IDLE_IN);
        let stats = links.stats();
        assert_eq!((stats.open, stats.timed_out), (0, 1));
        pass(&mut links, Duration::from_millis(50)).await;
        assert!(ended(&mut peer).await);
    }
}

#[tokio::test]
async fn who_does_not_finish_what_it_began_is_hung_up_on_and_counted() {
    let length = u32::try_from(LINK_FRAME_BYTES_MAX).unwrap().to_be_bytes();
    let half = [&length[..], &[0; 1_000]].concat();
    let cases = [
        (unsealed(), "part of a length", length[..2].to_vec()),
        (unsealed(), "a length", length.to_vec()),
        (unsealed(), "half a frame", half),
        (sealed(), "half a hello", vec![MAGIC_SEALED, 1, 2]),
    ];
    let mut peers = JoinSet::new();
    for (mut links, what, said) in cases {
        peers.spawn(async move {
            let (listener, addr) = listen().await;
            let mut peer = accept(&mut links, &listener, addr).await;
            let begin = Instant::now();
            peer.write_all(&said).await.unwrap();
            until(&mut links, |stats| stats.open == 0).await;
            assert!(begin.elapsed() >= FRAME_TIMEOUT, "{what}: it has its time");
            assert_eq!(links.stats().timed_out, 1, "{what}");
            assert!(ended(&mut peer).await, "{what}");
            // Whatever it had leave to hold is free again.
            assert_eq!(links.reading.available_permits(), BYTES_READ_MAX, "{what}");
        });
    }
    while let Some(peer) = peers.join_next().await {
        peer.unwrap();
    }
}

#[tokio::test]
async fn a_byte_now_and_then_keeps_a_frame_open_no_longer() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    let mut peer = accept(&mut links, &listener, addr).await;
    let begin = Instant::now();
    peer.write_all(&1_000_u32.to_be_bytes()).await.unwrap();
    let trickle = async {
        while peer.write_all(&[0]).await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = trickle => {}
        () = until(&mut links, |stats| stats.open == 0) => {}
    }
    assert_eq!(links.stats().timed_out, 1);
    // With a byte each 200 ms the frame would take two minutes more.
    assert!(begin.elapsed() < 3 * FRAME_TIMEOUT);
}

#[tokio::test]
async fn who_does_not_read_is_hung_up_on_and_what_waits_for_it_is_let_go() {
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    let mut peer = accept(&mut links, &listener, addr).await;
    // Nothing is written to who hasn't said anything.
    peer.write_all(&framed(b"")).await.unwrap();
    let id = links.last;
    let frame = vec![0; LINK_FRAME_BYTES_MAX];
    // More than the system's buffers hold.
    for _ in 0..BYTES_WAITING_MAX / LINK_FRAME_BYTES_MAX {
        links.reply(Instant::now(), id, &frame);
    }
    let waiting = links.waiting.bytes();
    assert!(waiting > 0 && waiting <= BYTES_WAITING_MAX, "{waiting}");
    until(&mut links, |stats| stats.open == 0).await;
    assert_eq!(links.stats().timed_out, 1);
    assert_eq!(links.waiting.bytes(), 0);
}

/// Without a socket, whose system gives up as well, and sooner.
#[tokio::test]
async fn what_nobody_takes_is_given_up_in_time() {
    let (ours, _theirs) = tokio::io::duplex(1_000);
    let (_, ring) = watch::channel(Arc::new(Ring::off("tidings")));
    let begin = Instant::now();
    let frames = [vec![0; 10_000]];
    let carried = bare::carry(tokio::io::split(ours), Side::Opener, ring, &frames, |_| {});
    assert_eq!(timeout(carried).await, "TimedOut");
    assert!(begin.elapsed() >= FRAME_TIMEOUT, "it has its time");
}

#[tokio::test]
async fn however_many_open_links_and_say_nothing_a_bounded_number_is_held() {
    const BEYOND: usize = 64;
    let (listener, addr) = listen().await;
    let mut links = unsealed();
    let mut peers = Vec::new();
    for _ in 0..LINKS_IN_MAX {
        peers.push(accept(&mut links, &listener, addr).await);
    }
    let later = Instant::now() + IN_USE;
    for _ in 0..BEYOND {
        peers.push(TcpStream::connect(addr).await.unwrap());
        links.accept(later, listener.accept().await.unwrap().0);
    }
    let stats = links.stats();
    assert_eq!((stats.open, stats.evicted), (LINKS_IN_MAX, BEYOND as u64));
    // The silent ones hold no leave to read, and honest ones get in.
    assert_eq!(links.reading.available_permits(), BYTES_READ_MAX);
    let mut honest = peers.pop().unwrap();
    honest.write_all(&framed(b"hello")).await.unwrap();
    let heard = timeout(links.next()).await;
    assert!(matches!(heard, LinkEvent::Frame(_, frame) if frame == b"hello"));
}

async fn timeout<T>(event: impl Future<Output = T>) -> T {
    let event = tokio::time::timeout(Duration::from_secs(30), event);
    event.await.expect("nothing happened")
}
