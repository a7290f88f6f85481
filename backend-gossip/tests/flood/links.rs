//! Connections that are silent, slow, or ask without end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use tidings_gossip::wire::message::RangeDigest;
use tidings_gossip::wire::{Header, Message, cluster_hash};

use crate::lab::Lab;

/// Connections each attacker holds: together more than a member accepts.
const CONNECTIONS: usize = 600;
const ATTACKERS: usize = 2;

fn connect(target: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect_timeout(&target, Duration::from_secs(1)).ok()
}

/// A length as it stands before a frame.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap().to_be_bytes()
}

/// Asks for the whole registry.
fn sync() -> Vec<u8> {
    let header = Header {
        cluster: cluster_hash("tidings"),
        sender: 66,
    };
    let mut frame = header.to_frame();
    let all = RangeDigest {
        first: 0,
        last: u64::MAX,
        digest: 0,
        count: 0,
    };
    Message::Sync(vec![all]).encode(&mut frame);
    [&length(frame.len()), &frame[..]].concat()
}

#[test]
fn silent_connections() {
    let lab = Lab::new(false);
    let report = lab.flood(
        "connections that say nothing",
        ATTACKERS,
        |_, target, attack| {
            let mut held = Vec::new();
            while attack.goes_on() {
                held.extend(connect(target));
                attack.sent(1);
                if held.len() > CONNECTIONS {
                    held.remove(0);
                }
            }
        },
    );
    let links = report.after.links;
    assert!(links.open <= 1_024 + 128, "{links:?}");
    assert!(
        links.accepted > report.before.links.accepted + 100,
        "{links:?}"
    );
}

#[test]
fn frames_that_never_end() {
    let lab = Lab::new(false);
    let report = lab.flood(
        "frames of 512 KiB, all but the last byte",
        ATTACKERS,
        |_, target, attack| {
            let part = vec![0_u8; 512 * 1024 - 1];
            let mut held = Vec::new();
            while attack.goes_on() {
                if held.len() >= CONNECTIONS {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                let Some(mut stream) = connect(target) else {
                    continue;
                };
                let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
                // What the member doesn't read stays in the system's buffers.
                let begun = stream.write_all(&length(512 * 1024));
                let _ = begun.and_then(|()| stream.write_all(&part));
                attack.sent(1);
                held.push(stream);
            }
        },
    );
    assert!(report.sent > 50, "{} connections", report.sent);
    assert!(report.growth < 200 << 20, "{} MiB", report.growth >> 20);
}

#[test]
fn bytes_one_by_one() {
    let lab = Lab::new(false);
    lab.flood("frames a byte at a time", ATTACKERS, |_, target, attack| {
        let mut held: Vec<_> = (0..200).filter_map(|_| connect(target)).collect();
        for stream in &mut held {
            let _ = stream.write_all(&length(60_000));
        }
        while attack.goes_on() {
            for stream in &mut held {
                attack.sent(usize::from(stream.write_all(&[0]).is_ok()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn syncs_without_end_whose_answers_are_never_read() {
    let lab = Lab::new(false);
    lab.offer_much();
    let report = lab.flood("syncs, answers not read", ATTACKERS, |_, target, attack| {
        let asks = sync();
        let mut held: Vec<_> = (0..100).filter_map(|_| connect(target)).collect();
        for stream in &mut held {
            let _ = stream.set_nonblocking(true);
        }
        while attack.goes_on() {
            for stream in &mut held {
                attack.sent(usize::from(stream.write_all(&asks).is_ok()));
            }
        }
    });
    assert!(
        report.after.links.dropped > report.before.links.dropped,
        "not a flood"
    );
}

#[test]
fn syncs_without_end() {
    let lab = Lab::new(false);
    lab.offer_much();
    let report = lab.flood("syncs, answers read", ATTACKERS, |_, target, attack| {
        let Some(mut stream) = connect(target) else {
            return;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let (asks, mut answers) = (sync(), vec![0; 1 << 20]);
        while attack.goes_on() {
            if stream.write_all(&asks).is_err() {
                return;
            }
            attack.sent(1);
            let _ = stream.read(&mut answers);
        }
    });
    let bytes = report.after.engine.sync_bytes_out - report.before.engine.sync_bytes_out;
    assert!(bytes > 1 << 20, "{bytes} bytes of syncs");
}
