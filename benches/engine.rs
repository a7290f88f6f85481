//! What the gossip engine costs: handling a ping, turning frames into bytes and back, and sealing
//! them.
//!
//! `cargo bench --bench engine`

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tidings::{Generation, Instance};
use tidings_gossip::SealKey;
use tidings_gossip::engine::{Engine, EngineConfig, Identity, Route};
use tidings_gossip::seal::{
    Datagrams, Hello, LinkOpener, LinkSealer, Opened, Ring, SealMode, Side, StartId,
};
use tidings_gossip::wire::content::Content;
use tidings_gossip::wire::message::Record;
use tidings_gossip::wire::{Header, Message, Reader, member_hash};

fn engine(at: u8, now: Instant) -> Engine {
    let identity = Identity {
        name: format!("m{at}").into(),
        generation: Generation::new(1),
        address: address(at),
    };
    Engine::new(now, identity, EngineConfig::default(), at.into())
}

fn address(at: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, at], 7946))
}

/// Two engines that know each other, and a ping of the first to the second.
fn pair(now: Instant) -> (Engine, Vec<u8>) {
    let (mut a, mut b) = (engine(1, now), engine(2, now));
    a.handle_seeds(now, &[]);
    b.handle_seeds(now, &[address(1)]);
    let mut ping = Vec::new();
    for _ in 0..100 {
        for turn in 0..2 {
            let (from, to) = if turn == 0 {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            while let Some(transmit) = from.poll_transmit() {
                match transmit.route {
                    Route::Datagram(_) => to.handle_datagram(now, address(1), &transmit.frame),
                    Route::Link(_) | Route::Reply(_) => {
                        to.handle_link(now, tidings_gossip::engine::LinkId(1), &transmit.frame);
                    }
                }
            }
        }
    }
    let mut later = now;
    while ping.is_empty() {
        later += Duration::from_millis(100);
        a.handle_timeout(later);
        while let Some(transmit) = a.poll_transmit() {
            let mut reader = Reader::new(&transmit.frame);
            let header = Header::decode(&mut reader);
            if header.is_ok()
                && matches!(Message::decode(&mut reader), Ok(Some(Message::Ping { .. })))
            {
                ping = transmit.frame;
            }
        }
    }
    while b.poll_event().is_some() {}
    (b, ping)
}

fn handle_ping(c: &mut Criterion) {
    let now = Instant::now();
    let (mut engine, ping) = pair(now);
    c.bench_function("handle a ping and answer it", |b| {
        b.iter(|| {
            engine.handle_datagram(now, address(1), black_box(&ping));
            black_box(engine.poll_transmit())
        });
    });
}

fn code(c: &mut Criterion) {
    let instance = Instance::new("payments", "10.0.0.7:8080")
        .and_then(|instance| instance.with_id("payments-1"))
        .and_then(|instance| instance.with_zone("eu-1a"))
        .and_then(|instance| instance.with_metadata("version", "1.4.2"))
        .expect("within the limits");
    let record = Message::Record(Record {
        owner: member_hash("m1"),
        generation: 1_700_000_000_000_000,
        version: 300,
        key: instance.key().clone(),
        content: Some(Content::from(Arc::new(instance))),
    });
    let ping = Message::Ping {
        sequence: 300,
        target: 1,
        digest: 2,
    };
    for (name, message) in [("ping", ping), ("record", record)] {
        let encode = |message: &Message| {
            let mut frame = Header {
                cluster: 1,
                sender: 2,
            }
            .to_frame();
            message.encode(&mut frame);
            frame
        };
        let frame = encode(&message);
        c.bench_function(&format!("encode a frame with a {name}"), |b| {
            b.iter(|| encode(black_box(&message)));
        });
        c.bench_function(&format!("decode a frame with a {name}"), |b| {
            b.iter(|| {
                let mut reader = Reader::new(black_box(&frame));
                let header = Header::decode(&mut reader);
                (header, Message::decode(&mut reader))
            });
        });
    }
}

/// Two ends of sealed datagrams that have heard each other.
fn sealed_pair() -> (Datagrams, Datagrams) {
    let key = SealKey::from_bytes(std::array::from_fn(|at| at as u8)).expect("not all equal");
    let ring = Ring::new("tidings", vec![key], SealMode::Required).expect("one key");
    let end = |start| Datagrams::new(Arc::new(ring.clone()), StartId([start; 16]), Arc::default());
    let (mut a, mut b) = (end(1), end(2));
    let now = Instant::now();
    let mut datagram = a.seal(vec![0xD7; 60]);
    for turn in 0.. {
        let to = if turn % 2 == 0 { &mut b } else { &mut a };
        match to.open(now, address(1), &mut datagram) {
            Opened::Reply(reply) => datagram = reply,
            Opened::Frame(_) | Opened::Nothing => break,
        }
    }
    while b.next_released().is_some() {}
    (a, b)
}

fn seal_datagrams(c: &mut Criterion) {
    let now = Instant::now();
    for len in [64, 512, 1_356] {
        let frame = vec![0xD7; len];
        let (mut a, mut b) = sealed_pair();
        let overhead = a.seal(frame.clone()).len() - len;
        let (mut plain, mut plain_to) = unsealed_pair();
        c.bench_function(&format!("leave a frame of {len} bytes unsealed"), |bench| {
            bench.iter(|| plain.seal(black_box(frame.clone())));
        });
        c.bench_function(&format!("hear an unsealed frame of {len} bytes"), |bench| {
            let mut datagram = frame.clone();
            bench.iter(|| plain_to.open(now, address(1), black_box(&mut datagram)));
        });
        c.bench_function(
            &format!("seal a frame of {len} bytes (+{overhead})"),
            |bench| {
                bench.iter(|| a.seal(black_box(frame.clone())));
            },
        );
        // Each can be opened once, so as many are sealed as are to be opened.
        c.bench_function(&format!("open a frame of {len} bytes"), |bench| {
            bench.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let mut datagram = a.seal(frame.clone());
                    let started = Instant::now();
                    let opened = b.open(now, address(1), black_box(&mut datagram));
                    spent += started.elapsed();
                    assert!(matches!(opened, Opened::Frame(_)));
                }
                spent
            });
        });
        c.bench_function(&format!("refuse a forged frame of {len} bytes"), |bench| {
            let forged = a.seal(frame.clone());
            let mut number = 0_u64;
            bench.iter(|| {
                let mut forged = forged.clone();
                number += 1;
                // Another start each time, for which a key has to be derived.
                forged[10..18].copy_from_slice(&number.to_be_bytes());
                b.open(now, address(1), &mut forged)
            });
        });
    }
}

/// The two ends of one way of a sealed link.
fn sealed_link() -> (Ring, LinkSealer, LinkOpener) {
    let key = SealKey::from_bytes(std::array::from_fn(|at| at as u8)).expect("not all equal");
    let ring = Ring::new("tidings", vec![key], SealMode::Required).expect("one key");
    let hello = |salt| Hello::new(&ring, [salt; 16]).expect("a key");
    let (seal, _) = hello(1).agree(Side::Opener, &hello(2)).expect("two salts");
    let (_, open) = hello(2)
        .agree(Side::Acceptor, &hello(1))
        .expect("two salts");
    (ring, seal, open)
}

/// Two ends that seal nothing.
fn unsealed_pair() -> (Datagrams, Datagrams) {
    let ring = Arc::new(Ring::off("tidings"));
    let end = |start| Datagrams::new(ring.clone(), StartId([start; 16]), Arc::default());
    (end(1), end(2))
}

/// What is written to a link, and what was read from it: with the length before it, and without.
fn seal_links(c: &mut Criterion) {
    for len in [1024, 64 * 1024] {
        let frame = vec![0xD7; len];
        let (ring, mut seal, _) = sealed_link();
        let overhead = seal
            .seal(&ring, &frame)
            .map_or(0, |bytes| bytes.len() - 4 - len);
        c.bench_function(
            &format!("leave a link frame of {len} bytes unsealed"),
            |bench| {
                bench.iter(|| [&(len as u32).to_be_bytes()[..], black_box(&*frame)].concat());
            },
        );
        c.bench_function(
            &format!("seal a link frame of {len} bytes (+{overhead})"),
            |bench| {
                bench.iter(|| seal.seal(&ring, black_box(&frame)));
            },
        );
        let (ring, mut seal, mut open) = sealed_link();
        c.bench_function(&format!("open a link frame of {len} bytes"), |bench| {
            bench.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let mut bytes = seal.seal(&ring, &frame).expect("a key").split_off(4);
                    let started = Instant::now();
                    let opened = open.open(&ring, black_box(&mut bytes));
                    spent += started.elapsed();
                    assert_eq!(opened, Ok(()));
                }
                spent
            });
        });
    }
}

criterion_group!(benches, handle_ping, code, seal_datagrams, seal_links);
criterion_main!(benches);
