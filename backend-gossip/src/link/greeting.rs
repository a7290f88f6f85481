//! How a link begins: with a hello either way, or unsealed with the first frame.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::LinkKeys;
use super::carrier::{End, FRAME_TIMEOUT};
use crate::seal::{
    HELLO_BYTES, Hello, LinkOpener, LinkSealer, MAGIC_SEALED, Rejection, Ring, Side,
};

/// What seals and opens the frames of a link.
pub(super) struct Sealed {
    pub(super) seal: LinkSealer,
    pub(super) open: LinkOpener,
}

/// Begins a link; answers `None` where it is unsealed, which the opener decides and the acceptor may
/// refuse.
pub(super) async fn greet(
    keys: &LinkKeys,
    side: Side,
    reader: &mut BufReader<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<Option<Sealed>, End> {
    let ring = keys.ring();
    match side {
        Side::Opener if !ring.mode().sends_sealed() => Ok(None),
        Side::Opener => {
            let mine = hello(&ring)?;
            write(writer, &mine).await?;
            let theirs = read(keys, reader).await?;
            agree(keys, &mine, side, &theirs).map(Some)
        }
        Side::Acceptor => {
            // No deadline until the first byte: the driver closes what is idle.
            let Some(first) = reader.fill_buf().await.ok().and_then(|bytes| bytes.first()) else {
                return Err(End::Lost);
            };
            let sealed = *first == MAGIC_SEALED;
            // The newest, since it may have taken a while.
            let ring = keys.ring();
            if !ring.mode().hears_sealed() || (!sealed && ring.mode().hears_unsealed()) {
                return Ok(None);
            }
            if !sealed {
                return Err(keys.rejected(Rejection::Unsealed));
            }
            let theirs = read(keys, reader).await?;
            let mine = hello(&ring)?;
            write(writer, &mine).await?;
            agree(keys, &mine, side, &theirs).map(Some)
        }
    }
}

fn hello(ring: &Ring) -> Result<Hello, End> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| End::Local(io::Error::other(error)))?;
    Hello::new(ring, salt).ok_or(End::Done)
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), hello: &Hello) -> Result<(), End> {
    match timeout(FRAME_TIMEOUT, writer.write_all(&hello.encode())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Lost),
        Err(_) => Err(End::TimedOut),
    }
}

async fn read(keys: &LinkKeys, reader: &mut (impl AsyncRead + Unpin)) -> Result<Hello, End> {
    let mut bytes = [0; HELLO_BYTES];
    match timeout(FRAME_TIMEOUT, reader.read_exact(&mut bytes)).await {
        Ok(Ok(_)) => Hello::decode(&keys.ring(), &bytes).map_err(|why| keys.rejected(why)),
        Ok(Err(_)) => Err(End::Lost),
        Err(_) => Err(End::TimedOut),
    }
}

fn agree(keys: &LinkKeys, mine: &Hello, side: Side, theirs: &Hello) -> Result<Sealed, End> {
    let agreed = mine.agree(side, theirs).map_err(|why| keys.rejected(why));
    agreed.map(|(seal, open)| Sealed { seal, open })
}
