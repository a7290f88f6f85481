//! Floods of datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use tidings_gossip::SealKey;
use tidings_gossip::seal::{Datagrams, Ring, SealMode, StartId};
use tidings_gossip::wire::message::Alive;
use tidings_gossip::wire::{Features, Header, Message, cluster_hash};

use crate::lab::{Attack, KEY, Lab};

fn frame(cluster: &str, message: &Message) -> Vec<u8> {
    let header = Header {
        cluster: cluster_hash(cluster),
        sender: 66,
    };
    let mut frame = header.to_frame();
    while frame.len() < 1_300 {
        message.encode(&mut frame);
    }
    frame
}

fn ping() -> Message {
    Message::Ping {
        sequence: 1,
        target: 1,
        digest: 1,
    }
}

/// Sends what `next` gives as fast as it goes.
fn flood_with(target: SocketAddr, attack: &Attack, mut next: impl FnMut() -> Vec<u8>) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    while attack.goes_on() {
        let bytes = next();
        for _ in 0..16 {
            attack.sent(usize::from(socket.send_to(&bytes, target).is_ok()));
        }
    }
    socket
}

#[test]
fn garbage() {
    let lab = Lab::new(false);
    let report = lab.flood("garbage datagrams", 1, |number, target, attack| {
        let mut rng = fastrand::Rng::with_seed(number as u64);
        flood_with(target, attack, || {
            let len = rng.usize(1..1_400);
            std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
        });
    });
    let malformed = report.after.engine.malformed - report.before.engine.malformed;
    assert!(
        malformed > 1_000,
        "{malformed} malformed of {}",
        report.sent
    );
}

#[test]
fn pings_of_strangers_are_answered_with_no_more_than_they_took() {
    let lab = Lab::new(false);
    let report = lab.flood(
        "datagrams full of pings for a wrong start",
        1,
        |_, target, attack| {
            let frame = frame("tidings", &ping());
            let socket = flood_with(target, attack, || frame.clone());
            let mut answer = [0; 2_000];
            while let Ok(len) = socket.recv(&mut answer) {
                assert!(len < frame.len());
            }
        },
    );
    let engine = |stats: &tidings_gossip::Stats| stats.engine;
    let (before, after) = (engine(&report.before), engine(&report.after));
    let taken = after.datagrams_in - before.datagrams_in;
    let answered = after.bytes_out - before.bytes_out;
    println!("    {taken} of 1,300 bytes taken, {answered} bytes sent, honest ones included");
    assert!(taken > 1_000 && answered < taken * 1_300);
}

#[test]
fn other_clusters() {
    let lab = Lab::new(false);
    let report = lab.flood("frames of another cluster", 1, |_, target, attack| {
        let frame = frame("elsewhere", &ping());
        flood_with(target, attack, || frame.clone());
    });
    assert!(report.after.engine.foreign - report.before.engine.foreign > 1_000);
}

#[test]
fn forged_sealed_datagrams() {
    let lab = Lab::new(true);
    let report = lab.flood(
        "sealed datagrams that don't authenticate",
        1,
        |_, target, attack| {
            let key = SealKey::from_bytes(KEY).unwrap();
            let ring = Arc::new(Ring::new("tidings", vec![key], SealMode::Required).unwrap());
            let mut rng = fastrand::Rng::with_seed(1);
            flood_with(target, attack, || {
                // Each of a start of its own, so that each costs deriving a key.
                let start = StartId(rng.u128(..).to_be_bytes());
                let mut sealing = Datagrams::new(ring.clone(), start, Arc::default());
                let mut bytes = sealing.seal(frame("tidings", &ping()));
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                bytes
            });
        },
    );
    assert!(report.after.seal.forged - report.before.seal.forged > 1_000);
}

/// Somebody who knows the key, or a cluster without one.
#[test]
fn invented_members() {
    let lab = Lab::new(false);
    let report = lab.flood(
        "datagrams full of invented members",
        1,
        |_, target, attack| {
            let mut number = 0_u32;
            flood_with(target, attack, || {
                let header = Header {
                    cluster: cluster_hash("tidings"),
                    sender: 66,
                };
                let mut frame = header.to_frame();
                while frame.len() < 1_200 {
                    // A bounded number: what is remembered of them is shown in virtual time.
                    number = (number + 1) % 5_000;
                    let [.., high, low] = number.to_be_bytes();
                    let alive = Alive {
                        name: format!("invented-{number}").into(),
                        generation: 1,
                        incarnation: 0,
                        // Of this machine, so that nothing leaves it.
                        address: ([127, 66, high, low], 9).into(),
                        floor: 0,
                        newest: 0,
                        seal: [].into(),
                        features: Features::NONE,
                        unknown: [].into(),
                    };
                    Message::Alive(alive).encode(&mut frame);
                }
                frame
            });
        },
    );
    assert!(report.after.engine.datagrams_in > report.before.engine.datagrams_in + 100);
}
