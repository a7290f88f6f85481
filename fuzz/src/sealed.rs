//! Sealed datagrams and links: what opens was sealed by the peer, is as it was, and opens once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_gossip::SealKey;
use tidings_gossip::seal::{
    Datagrams, Hello, LinkOpener, LinkSealer, Opened, Ring, SealMode, Side, StartId,
};

use crate::script::{Script, put_chunk};

/// Steps of one input; what follows is left out.
const STEPS_MAX: usize = 200;
const CLUSTER: &str = "tidings";
/// What stands behind the encrypted bytes.
const TAG_BYTES: usize = 16;

mod op {
    pub(super) const SEND: u8 = 0;
    pub(super) const SEND_DAMAGED: u8 = 1;
    pub(super) const SEND_CUT: u8 = 2;
    pub(super) const REPLAY: u8 = 3;
    pub(super) const REFLECT: u8 = 4;
    pub(super) const RAW: u8 = 5;
    pub(super) const FOREIGN: u8 = 6;
    pub(super) const WAIT: u8 = 7;
    pub(super) const ADD_KEY: u8 = 8;
    pub(super) const USE_KEY: u8 = 9;
    pub(super) const RETIRE_KEY: u8 = 10;
    pub(super) const LINK: u8 = 11;
    pub(super) const LINK_DAMAGED: u8 = 12;
    pub(super) const LINK_RAW: u8 = 13;
    pub(super) const HELLO: u8 = 14;
    pub(super) const COUNT: u8 = 15;
}

/// One of two members that seal all they send.
struct End {
    ring: Ring,
    datagrams: Datagrams,
    seal: LinkSealer,
    open: LinkOpener,
    /// Whether its link still carries frames.
    link_open: bool,
}

/// Both, with everything that was sealed: plain by sealed, until it has been opened.
struct World {
    now: Instant,
    ends: [End; 2],
    foreigner: Datagrams,
    sealed: Vec<(usize, Vec<u8>)>,
    plain: BTreeMap<Vec<u8>, (usize, bool)>,
    number: u64,
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        let Some(op) = script.next() else { break };
        world.step(op % op::COUNT, &mut script);
    }
}

impl World {
    fn new() -> Self {
        let ring = ring(CLUSTER, 1);
        let hello = |salt| Hello::new(&ring, [salt; 16]).expect("a key");
        let links = [
            hello(1).agree(Side::Opener, &hello(2)),
            hello(2).agree(Side::Acceptor, &hello(1)),
        ];
        let mut start = 0;
        let ends = links.map(|link| {
            let (seal, open) = link.expect("two salts");
            start += 1;
            let arc = Arc::new(ring.clone());
            End {
                datagrams: Datagrams::new(arc, StartId([start; 16]), Arc::default()),
                ring: ring.clone(),
                seal,
                open,
                link_open: true,
            }
        });
        let other = Arc::new(self::ring("other", 1));
        Self {
            now: Instant::now(),
            ends,
            foreigner: Datagrams::new(other, StartId([9; 16]), Arc::default()),
            sealed: Vec::new(),
            plain: BTreeMap::new(),
            number: 0,
        }
    }

    fn step(&mut self, op: u8, script: &mut Script<'_>) {
        let who = script.index(2);
        let other = 1 - who;
        match op {
            op::SEND => {
                let bytes = self.seal(who, script.chunk());
                self.hear(other, bytes, true);
            }
            op::SEND_DAMAGED => {
                let (at, bits) = (usize::from(script.short()), script.byte().max(1));
                let mut bytes = self.seal(who, script.chunk());
                let at = at % bytes.len();
                bytes[at] ^= bits;
                self.hear(other, bytes, false);
            }
            op::SEND_CUT => {
                let cut = 1 + usize::from(script.short());
                let mut bytes = self.seal(who, script.chunk());
                bytes.truncate(bytes.len().saturating_sub(cut));
                self.hear(other, bytes, false);
            }
            op::REPLAY => {
                if let Some((by, bytes)) = self.recorded(script) {
                    self.hear(1 - by, bytes, true);
                }
            }
            op::REFLECT => {
                if let Some((by, bytes)) = self.recorded(script) {
                    self.hear(by, bytes, false);
                }
            }
            op::RAW => self.hear(who, script.chunk().to_vec(), false),
            op::FOREIGN => {
                let bytes = self.foreigner.seal(framed(CLUSTER_FRONT, script.chunk()));
                self.hear(who, bytes, false);
            }
            op::WAIT => self.now += Duration::from_millis(20 * u64::from(script.byte())),
            op::ADD_KEY => self.change(who, |ring| ring.with(key(script.byte() % 10))),
            op::USE_KEY => self.change(who, |ring| ring.using(key(script.byte() % 10).id())),
            op::RETIRE_KEY => self.change(who, |ring| ring.without(key(script.byte() % 10).id())),
            op::LINK => self.carry(who, script.chunk(), None),
            op::LINK_DAMAGED => {
                let damage = (usize::from(script.short()), script.byte().max(1));
                self.carry(who, script.chunk(), Some(damage));
            }
            op::LINK_RAW => self.hear_link(other, script.chunk().to_vec(), None),
            _ => hear_hello(&self.ends[who].ring, script.chunk()),
        }
    }

    /// Seals a frame that no other is equal to.
    fn seal(&mut self, who: usize, chunk: &[u8]) -> Vec<u8> {
        self.number += 1;
        let mut frame = framed(CLUSTER_FRONT, chunk);
        frame.extend_from_slice(&self.number.to_be_bytes());
        let bytes = self.ends[who].datagrams.seal(frame.clone());
        assert_ne!(bytes, frame, "sent as it is");
        let behind = self.number.to_be_bytes().len() + TAG_BYTES;
        let place = bytes.len() - behind - chunk.len();
        assert!(
            !stands_at(&bytes[place..], chunk),
            "the plain text is in it"
        );
        self.plain.insert(frame, (who, false));
        self.sealed.push((who, bytes.clone()));
        bytes
    }

    /// One of those that were sealed so far.
    fn recorded(&self, script: &mut Script<'_>) -> Option<(usize, Vec<u8>)> {
        let at = usize::from(script.short()).checked_rem(self.sealed.len())?;
        self.sealed.get(at).cloned()
    }

    /// Gives a datagram to a member, and what it answers to the other, until none answers.
    fn hear(&mut self, to: usize, bytes: Vec<u8>, whole: bool) {
        let (mut to, mut bytes, mut whole) = (to, bytes, whole);
        for _ in 0..8 {
            let before = rejected(&self.ends[to].datagrams);
            match self.ends[to]
                .datagrams
                .open(self.now, address(to), &mut bytes)
            {
                Opened::Frame(place) => {
                    assert!(whole, "opened, and was not what the peer had sealed");
                    let frame = bytes[place].to_vec();
                    self.opened(to, &frame);
                    return;
                }
                Opened::Reply(reply) => {
                    self.released(to);
                    self.sealed.push((to, reply.clone()));
                    (to, bytes, whole) = (1 - to, reply, true);
                }
                Opened::Nothing => {
                    let released = self.released(to);
                    let rejected = rejected(&self.ends[to].datagrams) > before;
                    assert!(whole || rejected || released, "dropped, and not counted");
                    return;
                }
            }
        }
        panic!("members prove themselves to each other for ever");
    }

    fn released(&mut self, to: usize) -> bool {
        let mut released = false;
        while let Some((_, frame)) = self.ends[to].datagrams.next_released() {
            self.opened(to, &frame);
            released = true;
        }
        released
    }

    /// What was opened was sealed by the peer, and had not been opened.
    fn opened(&mut self, by: usize, frame: &[u8]) {
        let known = self.plain.get_mut(frame);
        let (sealer, opened) = known.expect("what opens was sealed");
        assert_eq!(*sealer, 1 - by, "opened what it had sealed itself");
        assert!(!std::mem::replace(opened, true), "opened twice");
    }

    fn change(&mut self, who: usize, change: impl FnOnce(&Ring) -> tidings_api::Result<Ring>) {
        let end = &mut self.ends[who];
        if let Ok(ring) = change(&end.ring) {
            end.datagrams.set_ring(Arc::new(ring.clone()));
            end.ring = ring;
        }
    }

    /// Sends a frame over the link.
    fn carry(&mut self, who: usize, frame: &[u8], damage: Option<(usize, u8)>) {
        let end = &mut self.ends[who];
        let sealed = end
            .seal
            .seal(&end.ring, frame)
            .expect("a key, and a short frame");
        let (len, bytes) = sealed.split_first_chunk::<4>().expect("a length");
        assert_eq!(u32::from_be_bytes(*len) as usize, bytes.len());
        assert!(!stands_at(bytes, frame), "the plain text is in it");
        let mut bytes = bytes.to_vec();
        if let Some((at, bits)) = damage {
            let at = at % bytes.len();
            bytes[at] ^= bits;
        }
        self.hear_link(1 - who, bytes, damage.is_none().then_some(frame));
    }

    /// Gives bytes to an end of the link; the first that don't open end it.
    fn hear_link(&mut self, to: usize, mut bytes: Vec<u8>, frame: Option<&[u8]>) {
        let end = &mut self.ends[to];
        if !end.link_open {
            return;
        }
        match end.open.open(&end.ring, &mut bytes) {
            Ok(()) => assert_eq!(Some(&*bytes), frame, "opened what was not sealed so"),
            Err(_) => end.link_open = false,
        }
    }
}

/// A hello of anybody.
fn hear_hello(ring: &Ring, bytes: &[u8]) {
    let mine = Hello::new(ring, [3; 16]).expect("a key");
    let mut theirs = mine.encode();
    for (at, byte) in bytes.iter().enumerate().take(theirs.len()) {
        theirs[at] ^= byte;
    }
    if let Ok(hello) = Hello::decode(ring, &theirs) {
        assert_eq!(hello.encode(), theirs);
        let agreed = mine.agree(Side::Acceptor, &hello);
        assert_eq!(agreed.is_err(), mine.encode()[10..] == theirs[10..]);
        let Ok((_, mut open)) = agreed else { return };
        let mut forged = bytes.to_vec();
        assert!(
            open.open(ring, &mut forged).is_err(),
            "opened what nobody has sealed"
        );
    }
}

/// How an unsealed frame begins: magic, version, hash of the cluster.
const CLUSTER_FRONT: [u8; 2] = [0xD7, 1];

fn framed(front: [u8; 2], chunk: &[u8]) -> Vec<u8> {
    let cluster = tidings_gossip::wire::cluster_hash(CLUSTER);
    [&front[..], &cluster.to_be_bytes(), chunk].concat()
}

fn rejected(datagrams: &Datagrams) -> u64 {
    let stats = datagrams.stats();
    stats.unsealed
        + stats.malformed
        + stats.foreign
        + stats.unknown_key
        + stats.forged
        + stats.replayed
        + stats.late
        + stats.reflected
        + stats.unproven
}

/// Whether a text of some length stands at the beginning of `bytes`. Elsewhere it may: nothing here is
/// random, so that a fuzzer sends what it saw come out.
fn stands_at(bytes: &[u8], text: &[u8]) -> bool {
    text.len() >= 8 && bytes.starts_with(text)
}

fn address(at: usize) -> SocketAddr {
    crate::seeds::address(at as u8)
}

fn key(number: u8) -> SealKey {
    SealKey::from_bytes(std::array::from_fn(|at| at as u8 ^ number)).expect("not all equal")
}

fn ring(cluster: &str, number: u8) -> Ring {
    Ring::new(cluster, vec![key(number)], SealMode::Required).expect("one key")
}

/// Honest frames both ways with a rotation between, and each attack once.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let text = b"a frame of some length, to be sealed";
    let mut said = Vec::new();
    put_chunk(&mut said, text);
    let send = |op: u8, who: u8| [&[op, who][..], &said].concat();
    let met = [send(op::SEND, 0), send(op::SEND, 1)].concat();
    let rotated = [
        [op::ADD_KEY, 0, 2],
        [op::ADD_KEY, 1, 2],
        [op::USE_KEY, 0, 2],
        [op::USE_KEY, 1, 2],
        [op::RETIRE_KEY, 0, 1],
        [op::RETIRE_KEY, 1, 1],
    ];
    let mut seeds = vec![
        met.clone(),
        [
            met.clone(),
            rotated
                .iter()
                .flat_map(|step| [step.to_vec(), met.clone()].concat())
                .collect(),
        ]
        .concat(),
    ];
    for steps in [
        [&[op::SEND_DAMAGED, 0, 0, 40, 1][..], &said].concat(),
        [&[op::SEND_CUT, 0, 0, 3][..], &said].concat(),
        [&[op::WAIT, 0, 80][..], &met].concat(),
        vec![op::REPLAY, 0, 0, 0],
        vec![op::REFLECT, 0, 0, 0],
        send(op::RAW, 0),
        send(op::FOREIGN, 0),
        [send(op::LINK, 0), send(op::LINK, 1), send(op::LINK, 0)].concat(),
        [
            &send(op::LINK, 0)[..],
            &[op::LINK_DAMAGED, 0, 0, 9, 1],
            &said,
        ]
        .concat(),
        send(op::LINK_RAW, 0),
        vec![op::HELLO, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7],
    ] {
        seeds.push(steps.clone());
        seeds.push([met.clone(), steps, met.clone()].concat());
    }
    seeds
}
