//! A member falls silent: nothing is refused and nothing ends, its observers just hear no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings_api::{Discovery, DiscoveryExt, Freshness};
use tidings_gossip::GossipObserver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{
    LONG, Recorded, cluster, instance, is_served_without_the_first, number, observer, until,
};

/// Stands before a member, and passes on what goes there and comes from there until it is cut. What is open
/// stays open then, and what is opened is taken and never answered: as where a host is gone.
struct Relay {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    /// Connections that were taken and never answered.
    swallowed: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Relay {
    async fn before(member: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let swallowed = Arc::<AtomicUsize>::default();
        let mut task = JoinSet::new();
        let count = swallowed.clone();
        task.spawn(async move {
            let mut ways = JoinSet::new();
            loop {
                let (opener, _) = listener.accept().await.unwrap();
                if *is_cut.borrow() {
                    count.fetch_add(1, Ordering::Relaxed);
                    ways.spawn(async move {
                        let _held = opener;
                        std::future::pending::<()>().await;
                    });
                    continue;
                }
                let Ok(acceptor) = TcpStream::connect(member).await else {
                    continue;
                };
                let (from_opener, to_opener) = opener.into_split();
                let (from_acceptor, to_acceptor) = acceptor.into_split();
                ways.spawn(pass_on(from_opener, to_acceptor, is_cut.clone()));
                ways.spawn(pass_on(from_acceptor, to_opener, is_cut.clone()));
            }
        });
        Self {
            address,
            cut,
            swallowed,
            _task: task,
        }
    }

    fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// For what is opened from now on.
    fn restore(&self) {
        self.cut.send_replace(false);
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = tokio::select! {
            biased;
            () = is_cut(&mut cut) => std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        let Ok(len @ 1..) = read else { return };
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

async fn is_cut(cut: &mut watch::Receiver<bool>) {
    let _ = cut.wait_for(|cut| *cut).await;
}

/// How fresh an observer has said its view is, each time that it was something else.
fn freshness_of(observer: &Arc<GossipObserver>) -> watch::Receiver<Vec<Freshness>> {
    let (seen, all) = watch::channel(Vec::new());
    let observer = observer.clone();
    tokio::spawn(async move {
        let mut watch = observer.watch_service("web").await.unwrap();
        while let Ok(view) = watch.changed().await {
            let freshness = view.freshness().clone();
            seen.send_if_modified(|all: &mut Vec<Freshness>| {
                let new = all.last() != Some(&freshness);
                all.extend(new.then_some(freshness));
                new
            });
        }
    });
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_silenced_its_observers_go_on_with_others_without_a_flap() {
    let members = cluster(3).await;
    let relay = Relay::before(members[0].local_addr()).await;
    let mut observers = Vec::new();
    for _ in 0..6 {
        let observer = observer(&[relay.address]).await;
        let recorded = Recorded::new(&observer).await;
        until("all were added", async || recorded.take().len() == 3).await;
        assert_eq!(observer.member(), Some(relay.address));
        observers.push((observer, recorded));
    }
    relay.cut();
    members[0].faults().cut_off().await;
    members[1].register(instance("new", 7)).await.unwrap();
    for (observer, recorded) in &observers {
        is_served_without_the_first(observer).await;
        let at = observer.member();
        assert!(
            at == Some(members[1].local_addr()) || at == Some(members[2].local_addr()),
            "{at:?}"
        );
        assert!(observer.stats().failovers >= 1);
        recorded.only_what_has_changed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_that_hears_nobody_says_so_and_keeps_what_it_shows() {
    let members = cluster(1).await;
    let relay = Relay::before(members[0].local_addr()).await;
    let observer = Arc::new(observer(&[relay.address]).await);
    let recorded = Recorded::new(&observer).await;
    until("all were added", async || recorded.take().len() == 1).await;
    let mut fresh = freshness_of(&observer);
    let live = fresh.wait_for(|all| all.last().is_some_and(Freshness::is_live));
    timeout(LONG, live).await.unwrap().unwrap();

    relay.cut();
    members[0].faults().cut_off().await;
    let stale = fresh.wait_for(|all| all.last().is_some_and(|fresh| !fresh.is_live()));
    timeout(LONG, stale).await.unwrap().unwrap();
    until("everybody was tried in vain, and again", async || {
        relay.swallowed.load(Ordering::Relaxed) >= 3
    })
    .await;
    let view = observer.watch_service("web").await.unwrap().view();
    assert!(
        !view.is_live() && number(&view, "m-0") == Some(0),
        "{view:?}"
    );
    let status = observer.status();
    assert!(!status.connection().is_connected(), "{status:?}");

    relay.restore();
    members[0].faults().restore().await;
    let live = fresh.wait_for(|all| all.last().is_some_and(Freshness::is_live));
    timeout(LONG, live).await.unwrap().unwrap();
    let all = fresh.borrow().clone();
    assert_eq!(all.len(), 3, "live, stale since one moment, live: {all:?}");
    assert!(recorded.take().is_empty(), "nothing has changed");
}
