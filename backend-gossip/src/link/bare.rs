//! One link by itself, over any connection: for tests and fuzzers, which have no sockets.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, watch};

use super::carrier::{Carrier, Outbox, framed};
use super::queue::{Total, queue};
use super::{BYTES_READ_MAX, BYTES_WAITING_MAX, FRAMES_READ_MAX, LinkKeys};
use crate::engine::LinkId;
use crate::seal::{Counters, Ring, Side};

/// Carries `outgoing` to the peer, and everything that comes from there to `received`, until the link
/// ends; answers how it did.
pub async fn carry(
    connection: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    side: Side,
    ring: watch::Receiver<Arc<Ring>>,
    outgoing: &[Vec<u8>],
    mut received: impl FnMut(Vec<u8>),
) -> String {
    let (inlet, outlet) = queue(&Total::default());
    let (frames, mut read) = mpsc::channel(FRAMES_READ_MAX);
    for frame in outgoing {
        // More than a queue holds is not what this is for.
        let _ = inlet.try_send(framed(frame), BYTES_WAITING_MAX);
    }
    let reading = Arc::new(Semaphore::new(BYTES_READ_MAX));
    let keys = LinkKeys::new(ring, Arc::<Counters>::default());
    let mut carrier = Carrier::new(LinkId(1), Outbox::new(outlet), (frames, reading), keys);
    let (reader, writer) = connection;
    let end = tokio::select! {
        biased;
        end = carrier.carry(reader, writer, side) => end,
        () = async { while let Some((_, frame)) = read.recv().await { received(frame); } } => {
            unreachable!("the carrier holds the other end")
        }
    };
    while let Ok((_, frame)) = read.try_recv() {
        received(frame);
    }
    format!("{end:?}")
}
