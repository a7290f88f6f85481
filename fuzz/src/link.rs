//! A link with anybody at its other end: what is received is what was framed, or where frames are
//! sealed what was sealed, in order; and it ends with the connection at the latest.

use std::sync::Arc;

use tidings_gossip::SealKey;
use tidings_gossip::link::bare::carry;
use tidings_gossip::seal::{HELLO_BYTES, Hello, LinkOpener, LinkSealer, Ring, SealMode, Side};
use tidings_gossip::wire::limits::LINK_FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::script::{Script, put_chunk};

/// Steps of one input; what follows is left out.
const STEPS_MAX: usize = 100;
/// Bytes of the connection's buffer: small, so that frames come in parts.
const BUFFER_BYTES: usize = 256;
/// What the member sends, once it may.
const SENT: &[u8] = b"what the member has to say";

const MODES: [SealMode; 4] = [
    SealMode::Off,
    SealMode::Accept,
    SealMode::Send,
    SealMode::Required,
];

mod op {
    pub(super) const RAW: u8 = 0;
    pub(super) const FRAMED: u8 = 1;
    pub(super) const LENGTH: u8 = 2;
    pub(super) const HELLO: u8 = 3;
    pub(super) const HELLO_DAMAGED: u8 = 4;
    pub(super) const SEALED: u8 = 5;
    pub(super) const SEALED_DAMAGED: u8 = 6;
    pub(super) const MODE: u8 = 7;
    pub(super) const COUNT: u8 = 8;
}

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O");
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let side = [Side::Acceptor, Side::Opener][script.index(2)];
    let mode = MODES[script.index(4)];
    let (modes, ring) = watch::channel(Arc::new(ring(mode)));
    let (ours, theirs) = duplex(BUFFER_BYTES);
    let mut received = Vec::new();
    let outgoing = [SENT.to_vec()];
    let peer = Peer::new(theirs, side, modes);
    let said = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let carried = carry(split(ours), side, ring, &outgoing, |frame| {
                received.push(frame);
            });
            tokio::join!(carried, peer.speak(script)).1
        })
    });
    said.check(mode, side, &received);
}

/// Who is at the other end.
struct Peer {
    stream: DuplexStream,
    /// The member's side of the link.
    side: Side,
    modes: watch::Sender<Arc<Ring>>,
    link: Option<(LinkSealer, LinkOpener)>,
    said: Said,
}

/// What a peer has said.
#[derive(Debug, Default)]
struct Said {
    /// All bytes.
    bytes: Vec<u8>,
    /// The frames it has sealed as it should.
    sealed: Vec<Vec<u8>>,
    /// Whether the keys have changed meanwhile.
    disturbed: bool,
    /// What the member has written.
    heard: Vec<u8>,
}

impl Peer {
    fn new(stream: DuplexStream, side: Side, modes: watch::Sender<Arc<Ring>>) -> Self {
        let (link, said) = (None, Said::default());
        Self {
            stream,
            side,
            modes,
            link,
            said,
        }
    }

    async fn speak(mut self, mut script: Script<'_>) -> Said {
        for _ in 0..STEPS_MAX {
            let Some(op) = script.next() else { break };
            self.step(op % op::COUNT, &mut script).await;
        }
        let _ = self.stream.shutdown().await;
        let _ = self.stream.read_to_end(&mut self.said.heard).await;
        self.said
    }

    async fn step(&mut self, op: u8, script: &mut Script<'_>) {
        match op {
            op::RAW => self.write(script.chunk()).await,
            op::FRAMED => {
                let chunk = script.chunk();
                self.write(&(chunk.len() as u32).to_be_bytes()).await;
                self.write(chunk).await;
            }
            op::LENGTH => {
                let bytes = [script.byte(), script.byte(), script.byte(), script.byte()];
                self.write(&bytes).await;
            }
            op::HELLO => self.greet([script.byte(); 16], None).await,
            op::HELLO_DAMAGED => {
                let damage = (script.index(HELLO_BYTES), script.byte().max(1));
                self.greet([7; 16], Some(damage)).await;
            }
            op::SEALED => self.seal(script.chunk(), None).await,
            op::SEALED_DAMAGED => {
                let damage = (script.short().into(), script.byte().max(1));
                self.seal(script.chunk(), Some(damage)).await;
            }
            _ => {
                self.said.disturbed = true;
                self.modes
                    .send_replace(Arc::new(ring(MODES[script.index(4)])));
            }
        }
    }

    /// Says hello, and reads the member's where it says one.
    async fn greet(&mut self, salt: [u8; 16], damage: Option<(usize, u8)>) {
        let ring = ring(SealMode::Required);
        let mine = Hello::new(&ring, salt).expect("a key");
        let mut bytes = mine.encode();
        if let Some((at, bits)) = damage {
            bytes[at] ^= bits;
        }
        let begins = self.said.bytes.is_empty();
        self.write(&bytes).await;
        if !begins || damage.is_some() {
            return;
        }
        let mut theirs = [0; HELLO_BYTES];
        let first = self.stream.read_u8().await;
        if !first.is_ok_and(|first| first == bytes[0]) {
            return;
        }
        theirs[0] = bytes[0];
        if self.stream.read_exact(&mut theirs[1..]).await.is_ok() {
            let side = match self.side {
                Side::Opener => Side::Acceptor,
                Side::Acceptor => Side::Opener,
            };
            let theirs = Hello::decode(&ring, &theirs).expect("a member's hello");
            self.link = mine.agree(side, &theirs).ok();
        }
    }

    /// Sends a sealed frame, where both have greeted.
    async fn seal(&mut self, frame: &[u8], damage: Option<(usize, u8)>) {
        let Some((seal, _)) = &mut self.link else {
            return;
        };
        let ring = ring(SealMode::Required);
        let mut bytes = seal.seal(&ring, frame).expect("a key, and a short frame");
        match damage {
            // Not the length: what it makes of the rest is no frame either.
            Some((at, bits)) => {
                let at = 4 + at % (bytes.len() - 4);
                bytes[at] ^= bits;
                self.link = None;
            }
            None => self.said.sealed.push(frame.to_vec()),
        }
        self.write(&bytes).await;
    }

    /// Writes what the member takes, and reads what it has written meanwhile.
    async fn write(&mut self, bytes: &[u8]) {
        let (mut reader, mut writer) = split(&mut self.stream);
        let mut read = [0; 1_024];
        let heard = &mut self.said.heard;
        let writing = async {
            // An error says that the member has ended the link.
            let _ = writer.write_all(bytes).await;
            let _ = writer.flush().await;
        };
        tokio::pin!(writing);
        // The hello is left where it is until it is asked for.
        let may_read = self.link.is_some() || matches!(self.side, Side::Opener);
        loop {
            tokio::select! {
                biased;
                () = &mut writing => break,
                read_now = reader.read(&mut read), if may_read => match read_now {
                    Ok(len) if len > 0 => heard.extend_from_slice(&read[..len]),
                    _ => break,
                },
            }
        }
        self.said.bytes.extend_from_slice(bytes);
    }
}

impl Said {
    fn check(&self, mode: SealMode, side: Side, received: &[Vec<u8>]) {
        let (whole, frames) = framed(&self.bytes);
        let is_sealed = match side {
            Side::Opener => mode.sends_sealed(),
            Side::Acceptor => {
                let greeted = self.bytes.first() == Some(&hello_byte());
                mode.hears_sealed() && (greeted || !mode.hears_unsealed())
            }
        };
        if self.disturbed {
            // Read as the one or the other, and ended somewhere.
            let unsealed = frames.starts_with(received);
            assert!(
                unsealed || self.sealed.starts_with(received),
                "{received:?}"
            );
        } else if is_sealed {
            assert!(
                self.sealed.starts_with(received),
                "{received:?} of {:?}",
                self.sealed
            );
            assert!(!contains(&self.heard, SENT), "the plain text is in it");
        } else {
            // Frames up to the first that is none.
            assert_eq!(received, frames, "{whole}");
        }
    }
}

/// The frames that bytes are, up to the first that is none; and whether they are nothing else.
fn framed(mut bytes: &[u8]) -> (bool, Vec<Vec<u8>>) {
    let mut frames = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some((frame, rest)) = rest.split_at_checked(len) else {
            return (false, frames);
        };
        if len > LINK_FRAME_BYTES_MAX {
            return (false, frames);
        }
        frames.push(frame.to_vec());
        bytes = rest;
    }
    (bytes.is_empty(), frames)
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn hello_byte() -> u8 {
    Hello::new(&ring(SealMode::Required), [0; 16])
        .expect("a key")
        .encode()[0]
}

fn ring(mode: SealMode) -> Ring {
    match mode {
        SealMode::Off => Ring::off("tidings"),
        mode => {
            let key = SealKey::from_bytes(std::array::from_fn(|at| at as u8));
            Ring::new("tidings", vec![key.expect("not all equal")], mode).expect("one key")
        }
    }
}

/// Honest links of each kind, and each that is not.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    put_chunk(&mut text, b"a frame of some length, on a link");
    let mut seeds = Vec::new();
    for side in 0..2 {
        for mode in 0..4 {
            let then = |steps: &[&[u8]]| [&[side, mode][..], &steps.concat()].concat();
            let (framed, sealed) = (
                [&[op::FRAMED][..], &text].concat(),
                [&[op::SEALED][..], &text].concat(),
            );
            let hello = [op::HELLO, 9];
            seeds.extend([
                then(&[&framed, &[op::FRAMED, 0, 0], &framed]),
                then(&[&hello, &sealed, &sealed, &[op::SEALED, 0, 0], &sealed]),
                then(&[
                    &hello,
                    &sealed,
                    &[op::SEALED_DAMAGED, 0, 9, 1],
                    &text,
                    &sealed,
                ]),
                then(&[&[op::HELLO_DAMAGED, 12, 1], &sealed]),
                then(&[&[op::RAW], &text, &framed]),
                then(&[&[op::LENGTH, 0, 8, 0, 1], &framed]),
                then(&[&framed, &[op::MODE, 3], &framed, &[op::MODE, 0], &framed]),
            ]);
        }
    }
    seeds
}
