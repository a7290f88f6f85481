//! What the gossip engine costs: handling a ping, and turning frames into bytes and back.
//!
//! `cargo bench --bench engine`

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tidings::{Generation, Instance};
use tidings_gossip::engine::{Engine, EngineConfig, Identity, Route};
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

criterion_group!(benches, handle_ping, code);
criterion_main!(benches);
