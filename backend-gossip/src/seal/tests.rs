use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::window::WINDOW_FRAMES;
use super::*;
use crate::wire::{self, Header};

const CLUSTER: &str = "tidings";

fn key(number: u8) -> SealKey {
    SealKey::from_bytes(std::array::from_fn(|at| at as u8 ^ number)).unwrap()
}

fn ring(numbers: &[u8], mode: SealMode) -> Arc<Ring> {
    let keys = numbers.iter().copied().map(key).collect();
    Arc::new(Ring::new(CLUSTER, keys, mode).unwrap())
}

fn frame(text: &str) -> Vec<u8> {
    let header = Header {
        cluster: wire::cluster_hash(CLUSTER),
        sender: 7,
    };
    [&header.to_frame(), text.as_bytes()].concat()
}

/// One member as its datagrams see it.
struct Member {
    datagrams: Datagrams,
    counters: Arc<Counters>,
    now: Instant,
}

impl Member {
    fn new(start: u8, ring: Arc<Ring>) -> Self {
        let counters = Arc::<Counters>::default();
        let start = StartId([start; 16]);
        Self {
            datagrams: Datagrams::new(ring, start, counters.clone()),
            counters,
            now: Instant::now(),
        }
    }

    fn seal(&mut self, text: &str) -> Vec<u8> {
        self.datagrams.seal(frame(text))
    }

    /// Takes a datagram; answers the frame in it, or the reply to it.
    fn take(&mut self, datagram: &[u8]) -> Taken {
        let mut bytes = datagram.to_vec();
        match self.datagrams.open(self.now, from(), &mut bytes) {
            Opened::Frame(place) => Taken::Frame(bytes[place].to_vec()),
            Opened::Reply(reply) => Taken::Reply(reply),
            Opened::Nothing => Taken::Nothing,
        }
    }

    fn released(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.datagrams.next_released())
            .map(|(_, frame)| frame)
            .collect()
    }

    fn stats(&self) -> SealStats {
        self.counters.stats()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Frame(Vec<u8>),
    Reply(Vec<u8>),
    Nothing,
}

fn from() -> SocketAddr {
    ([127, 0, 0, 1], 7946).into()
}

/// Brings a datagram over, and all that is said about it after that, either way.
fn deliver(from: &mut Member, to: &mut Member, datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut taken = to.take(datagram);
    for turn in 0..10 {
        let (this, other) = if turn % 2 == 0 {
            (&mut *to, &mut *from)
        } else {
            (&mut *from, &mut *to)
        };
        frames.extend(this.released());
        match taken {
            Taken::Frame(frame) => {
                frames.push(frame);
                return frames;
            }
            Taken::Reply(reply) => taken = other.take(&reply),
            Taken::Nothing => {
                frames.extend(other.released());
                return frames;
            }
        }
    }
    panic!("no end of answers");
}

/// Two members that have heard each other.
fn pair(mode: SealMode) -> (Member, Member) {
    let (mut a, mut b) = (
        Member::new(1, ring(&[1], mode)),
        Member::new(2, ring(&[1], mode)),
    );
    for turn in 0..2 {
        let (from, to) = if turn == 0 {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        let hello = from.seal("hello");
        assert_eq!(deliver(from, to, &hello), [frame("hello")]);
    }
    (a, b)
}

fn sealed_pair() -> (Member, Member) {
    pair(SealMode::Required)
}

#[test]
fn what_was_sealed_is_opened_and_unreadable_on_the_way() {
    let (mut a, mut b) = sealed_pair();
    let datagram = a.seal("payments");
    let plain = frame("payments");
    assert_eq!(datagram.len(), plain.len() + DATAGRAM_OVERHEAD_BYTES);
    assert_eq!(DATAGRAM_OVERHEAD_BYTES, 44);
    assert!(!datagram.windows(8).any(|bytes| bytes == b"payments"));
    assert_eq!(b.take(&datagram), Taken::Frame(plain));
}

#[test]
fn a_replayed_datagram_is_dropped_and_counted() {
    let (mut a, mut b) = sealed_pair();
    let datagram = a.seal("once");
    assert_eq!(b.take(&datagram), Taken::Frame(frame("once")));
    assert_eq!(b.take(&datagram), Taken::Nothing);
    for _ in 0..10 {
        let between = a.seal("between");
        b.take(&between);
        assert_eq!(b.take(&datagram), Taken::Nothing);
    }
    assert_eq!(b.stats().replayed, 11);
}

#[test]
fn a_datagram_that_comes_too_late_to_be_known_is_dropped_and_counted() {
    let (mut a, mut b) = sealed_pair();
    let old = a.seal("old");
    for _ in 0..WINDOW_FRAMES {
        let datagram = a.seal("new");
        b.take(&datagram);
    }
    assert_eq!(b.take(&old), Taken::Nothing);
    assert_eq!(b.stats().late, 1);
}

#[test]
fn a_reflected_datagram_is_dropped_and_counted() {
    let (mut a, _) = sealed_pair();
    let datagram = a.seal("mine");
    assert_eq!(a.take(&datagram), Taken::Nothing);
    assert_eq!(a.stats().reflected, 1);
}

#[test]
fn a_truncated_datagram_is_dropped_and_counted_at_any_length() {
    let (mut a, mut b) = sealed_pair();
    let datagram = a.seal("whole");
    for len in 1..datagram.len() {
        assert_eq!(b.take(&datagram[..len]), Taken::Nothing, "{len}");
    }
    let stats = b.stats();
    let shortest = (HEADER_BYTES + TAG_BYTES) as u64;
    assert_eq!(stats.malformed, shortest - 1);
    assert_eq!(stats.malformed + stats.forged, datagram.len() as u64 - 1);
    // Nothing at all isn't sealed either.
    assert_eq!(b.take(&[]), Taken::Nothing);
    assert_eq!(b.stats().unsealed, 1);
    assert_eq!(b.take(&datagram), Taken::Frame(frame("whole")));
}

#[test]
fn a_datagram_with_any_bit_flipped_is_dropped_and_counted() {
    let (mut a, mut b) = sealed_pair();
    let datagram = a.seal("whole");
    let before = b.stats();
    for bit in 0..8 * datagram.len() {
        let mut flipped = datagram.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(b.take(&flipped), Taken::Nothing, "bit {bit}");
    }
    let after = b.stats();
    let dropped = |stats: SealStats| {
        stats.unsealed
            + stats.malformed
            + stats.foreign
            + stats.unknown_key
            + stats.forged
            + stats.replayed
            + stats.late
            + stats.reflected
    };
    assert_eq!(dropped(after) - dropped(before), 8 * datagram.len() as u64);
    assert!(after.forged as usize >= 8 * (datagram.len() - HEADER_BYTES));
    assert_eq!(after.opened, before.opened);
    assert_eq!(b.take(&datagram), Taken::Frame(frame("whole")));
}

#[test]
fn a_datagram_of_another_cluster_is_dropped_and_counted_though_the_key_is_the_same() {
    let other = Ring::new("staging", vec![key(1)], SealMode::Required).unwrap();
    let (_, mut b) = sealed_pair();
    let mut foreign = Member::new(3, Arc::new(other));
    let mut datagram = foreign.seal("hello");
    assert_eq!(b.take(&datagram), Taken::Nothing);
    assert_eq!(b.stats().foreign, 1);
    // Its name is not only said: it is in the key.
    datagram[2..6].copy_from_slice(&wire::cluster_hash(CLUSTER).to_be_bytes());
    assert_eq!(b.take(&datagram), Taken::Nothing);
    assert_eq!(b.stats().forged, 1);
}

#[test]
fn a_datagram_under_an_unknown_key_is_dropped_and_counted() {
    let (_, mut b) = sealed_pair();
    let mut stranger = Member::new(3, ring(&[9], SealMode::Required));
    let datagram = stranger.seal("hello");
    assert_eq!(b.take(&datagram), Taken::Nothing);
    assert_eq!(b.stats().unknown_key, 1);
}

#[test]
fn an_unsealed_datagram_is_dropped_and_counted_where_sealing_is_required() {
    let (_, mut b) = sealed_pair();
    assert_eq!(b.take(&frame("plain")), Taken::Nothing);
    assert_eq!(b.stats().unsealed, 1);
}

#[test]
fn members_one_mode_apart_hear_each_other() {
    use SealMode::{Accept, Off, Required, Send};
    for (one, other) in [
        (Off, Accept),
        (Accept, Accept),
        (Accept, Send),
        (Send, Send),
        (Send, Required),
    ] {
        let member = |start, mode| match mode {
            Off => Member::new(start, Arc::new(Ring::off(CLUSTER))),
            _ => Member::new(start, ring(&[1], mode)),
        };
        let (mut a, mut b) = (member(1, one), member(2, other));
        for turn in 0..4 {
            let (from, to) = if turn % 2 == 0 {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            let datagram = from.seal("hello");
            assert_eq!(
                deliver(from, to, &datagram),
                [frame("hello")],
                "{one} {other}"
            );
        }
    }
}

#[test]
fn keys_are_changed_one_member_after_the_other() {
    let (mut a, mut b) = sealed_pair();
    let talk = |a: &mut Member, b: &mut Member| {
        for turn in 0..2 {
            let (from, to) = if turn == 0 {
                (&mut *a, &mut *b)
            } else {
                (&mut *b, &mut *a)
            };
            let datagram = from.seal("still here");
            assert_eq!(to.take(&datagram), Taken::Frame(frame("still here")));
        }
    };
    for keys in [&[1, 2][..], &[2, 1], &[2]] {
        a.datagrams.set_ring(ring(keys, SealMode::Required));
        talk(&mut a, &mut b);
        b.datagrams.set_ring(ring(keys, SealMode::Required));
        talk(&mut a, &mut b);
    }
    let mut old = Member::new(9, ring(&[1], SealMode::Required));
    let datagram = old.seal("retired");
    assert_eq!(b.take(&datagram), Taken::Nothing);
    assert_eq!(b.stats().unknown_key, 1);
}

#[test]
fn a_replayed_datagram_is_dropped_across_a_change_of_keys() {
    let (mut a, mut b) = sealed_pair();
    let datagram = a.seal("once");
    b.take(&datagram);
    for member in [&mut a, &mut b] {
        member.datagrams.set_ring(ring(&[2, 1], SealMode::Required));
    }
    let next = a.seal("next");
    assert_eq!(b.take(&next), Taken::Frame(frame("next")));
    assert_eq!(b.take(&datagram), Taken::Nothing);
    assert_eq!(b.stats().replayed, 1);
}

#[test]
fn a_counter_forged_with_a_key_silences_a_start_until_the_keys_are_changed() {
    let (mut a, mut b) = sealed_pair();
    let mut forger = Member::new(1, ring(&[1], SealMode::Required));
    let forged = forger.datagrams.seal_at(u64::MAX, frame("forged"));
    assert_eq!(b.take(&forged), Taken::Frame(frame("forged")));
    let old = a.seal("unheard");
    assert_eq!(b.take(&old), Taken::Nothing);
    for member in [&mut a, &mut b] {
        member.datagrams.set_ring(ring(&[2, 1], SealMode::Required));
    }
    let next = a.seal("heard again");
    assert_eq!(b.take(&next), Taken::Frame(frame("heard again")));
    for datagram in [&old, &forged, &next] {
        assert_eq!(b.take(datagram), Taken::Nothing);
    }
    assert_eq!((b.stats().late, b.stats().replayed), (2, 2));
}

#[test]
fn a_replayed_datagram_is_dropped_though_its_key_was_retired_meanwhile() {
    let (mut a, mut b) = sealed_pair();
    let once = a.seal("once");
    b.take(&once);
    for keys in [&[2, 1][..], &[2], &[2, 1]] {
        for member in [&mut a, &mut b] {
            member.datagrams.set_ring(ring(keys, SealMode::Required));
        }
        let next = a.seal("next");
        assert_eq!(b.take(&next), Taken::Frame(frame("next")));
    }
    assert_eq!(b.take(&once), Taken::Nothing);
    assert_eq!(b.stats().replayed, 1);
}

#[test]
fn a_recording_under_the_former_key_is_not_heard_from_a_sender_that_proves_itself_with_another() {
    let (mut a, _) = sealed_pair();
    let old: Vec<_> = (0..2 * WINDOW_FRAMES).map(|_| a.seal("old")).collect();
    let rotating = || ring(&[2, 1], SealMode::Required);
    a.datagrams.set_ring(rotating());
    let mut b = Member::new(3, rotating());
    // What waits for the proof, and what comes after it.
    assert_eq!(deliver(&mut a, &mut b, &old[0]), [[0; 0]; 0]);
    for datagram in &old[..WINDOW_FRAMES as usize] {
        assert_eq!(b.take(datagram), Taken::Nothing);
    }
    assert_eq!(b.stats().late, WINDOW_FRAMES + 1);
}

#[test]
fn reordered_datagrams_are_all_heard() {
    let (mut a, mut b) = sealed_pair();
    let mut datagrams: Vec<_> = (0..500).map(|_| a.seal("mixed")).collect();
    fastrand::Rng::with_seed(11).shuffle(&mut datagrams);
    for datagram in &datagrams {
        assert_eq!(b.take(datagram), Taken::Frame(frame("mixed")));
    }
    assert_eq!((b.stats().replayed, b.stats().late), (0, 0));
}

#[test]
fn first_contact_takes_one_proof_and_loses_nothing() {
    let mut a = Member::new(1, ring(&[1], SealMode::Required));
    let mut b = Member::new(2, ring(&[1], SealMode::Required));
    let (first, second) = (a.seal("first"), a.seal("second"));
    let Taken::Reply(challenge) = b.take(&first) else {
        panic!("heard unproven");
    };
    assert!(matches!(b.take(&second), Taken::Reply(_)));
    let Taken::Reply(proof) = a.take(&challenge) else {
        panic!("no proof");
    };
    assert!(
        challenge.len() <= first.len() + 16 && proof.len() < 100,
        "no amplification"
    );
    // It carries the other direction's challenge, so the answer is heard at once.
    let Taken::Reply(counter_proof) = b.take(&proof) else {
        panic!("nothing asked in return");
    };
    assert_eq!(b.released(), [frame("first"), frame("second")]);
    assert_eq!(a.take(&counter_proof), Taken::Nothing);
    let answer = b.seal("answer");
    assert_eq!(a.take(&answer), Taken::Frame(frame("answer")));
    // Once only.
    assert_eq!(b.take(&proof), Taken::Nothing);
    assert_eq!(b.stats().replayed, 1);
}

#[test]
fn a_recording_played_to_a_restarted_member_is_not_heard() {
    let (mut a, mut b) = sealed_pair();
    let recording: Vec<_> = (0..100).map(|_| a.seal("old news")).collect();
    for datagram in &recording {
        b.take(datagram);
    }
    // The sender is gone, the receiver starts anew: nothing proves that the recording is old but that
    // nobody answers.
    let mut b = Member::new(3, ring(&[1], SealMode::Required));
    for datagram in &recording {
        assert!(matches!(b.take(datagram), Taken::Reply(_)));
    }
    assert_eq!((b.released().len(), b.stats().opened), (0, 0));
    assert_eq!(b.stats().unproven, 96, "four wait, the others are dropped");
}

#[test]
fn a_recording_of_a_sender_that_lives_is_heard_in_no_case_twice_or_late() {
    let (mut a, _) = sealed_pair();
    let old = a.seal("old");
    for _ in 0..2 * WINDOW_FRAMES {
        a.seal("meanwhile");
    }
    let mut b = Member::new(3, ring(&[1], SealMode::Required));
    assert_eq!(deliver(&mut a, &mut b, &old), [[0; 0]; 0]);
    assert_eq!(b.stats().late, 1);
    let recent = a.seal("recent");
    assert_eq!(b.take(&recent), Taken::Frame(frame("recent")));
    assert_eq!(b.take(&recent), Taken::Nothing);
}

#[test]
fn a_recorded_proof_proves_nothing() {
    let mut a = Member::new(1, ring(&[1], SealMode::Required));
    let mut b = Member::new(2, ring(&[1], SealMode::Required));
    let first = a.seal("first");
    let Taken::Reply(challenge) = b.take(&first) else {
        panic!()
    };
    let Taken::Reply(proof) = a.take(&challenge) else {
        panic!()
    };
    let mut restarted = Member::new(3, ring(&[1], SealMode::Required));
    restarted.take(&first);
    assert!(!matches!(restarted.take(&proof), Taken::Frame(_)));
    assert_eq!(restarted.released(), [[0; 0]; 0]);
    assert_eq!(restarted.stats().opened, 0);
}

#[test]
fn what_waited_too_long_is_not_heard() {
    let mut a = Member::new(1, ring(&[1], SealMode::Required));
    let mut b = Member::new(2, ring(&[1], SealMode::Required));
    let stale = a.seal("stale");
    b.take(&stale);
    b.now += Duration::from_secs(2);
    let fresh = a.seal("fresh");
    assert_eq!(deliver(&mut a, &mut b, &fresh), [frame("fresh")]);
}

#[test]
fn a_lost_challenge_or_proof_is_made_up_for_by_the_next_frame() {
    let mut a = Member::new(1, ring(&[1], SealMode::Required));
    let mut b = Member::new(2, ring(&[1], SealMode::Required));
    let first = a.seal("first");
    let Taken::Reply(_lost) = b.take(&first) else {
        panic!()
    };
    let second = a.seal("second");
    let Taken::Reply(challenge) = b.take(&second) else {
        panic!()
    };
    let Taken::Reply(_lost) = a.take(&challenge) else {
        panic!()
    };
    let third = a.seal("third");
    let frames = deliver(&mut a, &mut b, &third);
    assert_eq!(frames, [frame("first"), frame("second"), frame("third")]);
}

#[test]
fn no_key_and_nonce_is_used_twice_whatever_restarts() {
    // The same member, started a thousand times with the same key: what stands before the encrypted
    // bytes decides both, and never repeats.
    let mut seen = std::collections::HashSet::new();
    for start in 0..1_000_u128 {
        let start = StartId((start * 0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let mut member = Datagrams::new(ring(&[1], SealMode::Send), start, Arc::default());
        for turn in 0..20 {
            if turn == 10 {
                member.set_ring(ring(&[2, 1], SealMode::Send));
            }
            let datagram = member.seal(frame("same"));
            assert!(seen.insert(datagram[6..HEADER_BYTES].to_vec()));
            // A counter that began anew after the change would be one too many for a window.
            assert_eq!(datagram[26..34], (turn as u64 + 1).to_be_bytes());
        }
    }
}

// Links.

/// Both ends of a link.
fn link(ring: &Ring) -> [(LinkSealer, LinkOpener); 2] {
    let opener = Hello::new(ring, [1; 16]).unwrap();
    let acceptor = Hello::new(ring, [2; 16]).unwrap();
    let theirs = Hello::decode(ring, &opener.encode()).unwrap();
    let answer = Hello::decode(ring, &acceptor.encode()).unwrap();
    [
        opener.agree(Side::Opener, &answer).unwrap(),
        acceptor.agree(Side::Acceptor, &theirs).unwrap(),
    ]
}

fn opened(opener: &mut LinkOpener, ring: &Ring, framed: &[u8]) -> Result<Vec<u8>, Rejection> {
    let mut bytes = framed[4..].to_vec();
    opener.open(ring, &mut bytes).map(|()| bytes)
}

#[test]
fn link_frames_go_both_ways_and_are_unreadable_on_the_way() {
    let ring = ring(&[1], SealMode::Required);
    let [(mut seal_a, mut open_a), (mut seal_b, mut open_b)] = link(&ring);
    for round in 0..3 {
        let text = format!("payments {round}");
        for (seal, open) in [(&mut seal_a, &mut open_b), (&mut seal_b, &mut open_a)] {
            let framed = seal.seal(&ring, text.as_bytes()).unwrap();
            assert_eq!(framed.len(), 4 + text.len() + LINK_OVERHEAD_BYTES);
            assert!(!framed.windows(8).any(|bytes| bytes == b"payments"));
            assert_eq!(opened(open, &ring, &framed), Ok(text.clone().into_bytes()));
        }
    }
    assert_eq!(LINK_OVERHEAD_BYTES, 20);
}

#[test]
fn replayed_missing_and_reordered_link_frames_do_not_open() {
    let ring = ring(&[1], SealMode::Required);
    let frames = |seal: &mut LinkSealer| [1, 2, 3].map(|n| seal.seal(&ring, &[n]).unwrap());
    for order in [[0, 0], [1, 0], [2, 1]] {
        let [(mut seal, _), (_, mut open)] = link(&ring);
        let frames = frames(&mut seal);
        let last = order.map(|at| opened(&mut open, &ring, &frames[at]));
        assert!(last.contains(&Err(Rejection::Forged)), "{order:?}");
    }
}

#[test]
fn a_link_that_was_recorded_does_not_open_on_another() {
    let ring = ring(&[1], SealMode::Required);
    let [(mut seal, _), (_, mut open)] = link(&ring);
    let framed = seal.seal(&ring, b"hello").unwrap();
    assert!(opened(&mut open, &ring, &framed).is_ok());
    // The same hello and frames again; the acceptor has drawn another salt.
    let opener = Hello::new(&ring, [1; 16]).unwrap();
    let acceptor = Hello::new(&ring, [3; 16]).unwrap();
    let (_, mut again) = acceptor.agree(Side::Acceptor, &opener).unwrap();
    assert_eq!(opened(&mut again, &ring, &framed), Err(Rejection::Forged));
}

#[test]
fn reflected_link_frames_and_hellos_do_not_open() {
    let ring = ring(&[1], SealMode::Required);
    let [(mut seal, mut open), _] = link(&ring);
    let framed = seal.seal(&ring, b"mine").unwrap();
    assert_eq!(opened(&mut open, &ring, &framed), Err(Rejection::Forged));
    let hello = Hello::new(&ring, [1; 16]).unwrap();
    let reflected = hello.agree(Side::Opener, &hello);
    assert_eq!(reflected.unwrap_err(), Rejection::Reflected);
}

#[test]
fn truncated_and_flipped_link_frames_do_not_open() {
    let ring = ring(&[1], SealMode::Required);
    let framed = |ring: &Ring| {
        let [(mut seal, _), (_, open)] = link(ring);
        (seal.seal(ring, b"whole").unwrap(), open)
    };
    let (whole, _) = framed(&ring);
    for len in 4..whole.len() {
        let (_, mut open) = framed(&ring);
        let rejection = opened(&mut open, &ring, &whole[..len]).unwrap_err();
        let short = len < 4 + LINK_OVERHEAD_BYTES;
        let expected = if short {
            Rejection::Malformed
        } else {
            Rejection::Forged
        };
        assert_eq!(rejection, expected, "{len}");
    }
    for bit in 32..8 * whole.len() {
        let (mut flipped, mut open) = framed(&ring);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let rejection = opened(&mut open, &ring, &flipped).unwrap_err();
        let in_id = bit < 64;
        let expected = if in_id {
            Rejection::UnknownKey
        } else {
            Rejection::Forged
        };
        assert_eq!(rejection, expected, "bit {bit}");
    }
}

#[test]
fn hellos_of_other_clusters_keys_and_versions_are_refused() {
    let ours = ring(&[1], SealMode::Required);
    let staging = Ring::new("staging", vec![key(1)], SealMode::Required).unwrap();
    let refused = |hello: &[u8; HELLO_BYTES]| Hello::decode(&ours, hello).unwrap_err();
    let foreign = Hello::new(&staging, [2; 16]).unwrap();
    assert_eq!(refused(&foreign.encode()), Rejection::Foreign);
    let stranger = Hello::new(&ring(&[9], SealMode::Required), [2; 16]).unwrap();
    assert_eq!(refused(&stranger.encode()), Rejection::UnknownKey);
    for at in [0, 1] {
        let mut hello = Hello::new(&ours, [2; 16]).unwrap().encode();
        hello[at] ^= 0x40;
        assert_eq!(refused(&hello), Rejection::Malformed);
    }
    // The name is in the keys as well, not only said.
    let claimed = Hello::new(&ours, [2; 16]).unwrap();
    let [(mut seal, _), _] = link(&staging);
    let framed = seal.seal(&staging, b"hello").unwrap();
    let mine = Hello::new(&ours, [3; 16]).unwrap();
    let (_, mut open) = mine.agree(Side::Acceptor, &claimed).unwrap();
    assert_eq!(opened(&mut open, &ours, &framed), Err(Rejection::Forged));
}

#[test]
fn a_link_changes_keys_between_two_frames_without_an_end() {
    let [(mut seal, _), (_, mut open)] = link(&ring(&[1], SealMode::Required));
    for (keys, accepted) in [
        (&[1][..], &[1][..]),
        (&[1, 2], &[1]),
        (&[2, 1], &[1, 2]),
        (&[2], &[2, 1]),
    ] {
        let framed = seal
            .seal(&ring(keys, SealMode::Required), b"still here")
            .unwrap();
        let heard = opened(&mut open, &ring(accepted, SealMode::Required), &framed);
        assert_eq!(heard, Ok(b"still here".to_vec()), "{keys:?}");
    }
    // Retired: also for a link that has used it.
    let framed = seal
        .seal(&ring(&[2], SealMode::Required), b"retired")
        .unwrap();
    let heard = opened(&mut open, &ring(&[3], SealMode::Required), &framed);
    assert_eq!(heard, Err(Rejection::UnknownKey));
}
