//! One to three engines in virtual time: whatever is heard, asked or awaited, in whatever order.
//!
//! Frames between the members fly until a step says what becomes of them; besides, anybody may say
//! anything to anyone. After each step the engines are held to what they promise.

mod laws;
mod world;

use std::time::Duration;

use tidings_api::Health;
use tidings_gossip::engine::LinkFailure;

use self::world::World;
use crate::script::{Script, put_chunk};
use crate::seeds;

/// Steps of one input; what follows is left out.
const STEPS_MAX: usize = 400;

/// What a step does, by its first byte.
mod op {
    pub(super) const RUN: u8 = 0;
    pub(super) const WAIT: u8 = 1;
    pub(super) const LEAP: u8 = 2;
    pub(super) const DELIVER: u8 = 3;
    pub(super) const DROP: u8 = 4;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const DELAY: u8 = 6;
    pub(super) const DAMAGE: u8 = 7;
    pub(super) const DATAGRAM: u8 = 8;
    pub(super) const LINK: u8 = 9;
    pub(super) const REFUSED: u8 = 10;
    pub(super) const UNREACHABLE: u8 = 11;
    pub(super) const REGISTER: u8 = 12;
    pub(super) const DEREGISTER: u8 = 13;
    pub(super) const HEALTH: u8 = 14;
    pub(super) const SEEDS: u8 = 15;
    pub(super) const SEAL: u8 = 16;
    pub(super) const LEAVE: u8 = 17;
    pub(super) const COUNT: u8 = 18;
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new(1 + script.index(3));
    let mut steps = 0;
    while let Some(op) = script.next()
        && steps < STEPS_MAX
    {
        step(&mut world, op % op::COUNT, &mut script);
        world.check();
        steps += 1;
    }
}

fn step(world: &mut World, op: u8, script: &mut Script<'_>) {
    let millis = Duration::from_millis;
    match op {
        op::RUN => world.run(millis(10 * u64::from(script.byte())), true),
        op::WAIT => world.run(millis(100 * u64::from(script.byte())), false),
        op::LEAP => world.leap(Duration::from_secs(60 * u64::from(script.short()))),
        op::DELIVER => world.deliver(),
        op::DROP => drop(world.flying.pop_front()),
        op::DOUBLE => world.double(),
        op::DELAY => {
            let delayed = world.flying.pop_front();
            world.flying.extend(delayed);
        }
        op::DAMAGE => {
            let (at, bits) = (script.short(), script.byte());
            world.damage(at.into(), bits);
        }
        op::DATAGRAM => {
            let (to, from, sender) = (script.byte(), script.byte(), script.byte());
            let frame = seeds::frame_of(sender, script.chunk());
            world.hear_datagram(to.into(), from, &frame);
        }
        op::LINK => {
            let (to, link, sender) = (script.byte(), script.byte(), script.byte());
            let frame = seeds::frame_of(sender, script.chunk());
            world.hear_link(to.into(), link, &frame);
        }
        op::REFUSED => world.fail(script.byte(), script.byte(), LinkFailure::Refused),
        op::UNREACHABLE => world.fail(script.byte(), script.byte(), LinkFailure::Unreachable),
        op::REGISTER => {
            let (by, at, port, bytes) =
                (script.byte(), script.index(6), script.byte(), script.byte());
            world.register(
                by.into(),
                seeds::instance(at, port.into(), 16 * usize::from(bytes)),
            );
        }
        op::DEREGISTER => world.deregister(script.byte().into(), script.index(6)),
        op::HEALTH => {
            let health = [Health::passing(), Health::critical("x"), Health::draining()];
            let (by, at, health) = (script.byte(), script.index(6), &health[script.index(3)]);
            world.health(by.into(), at, health);
        }
        op::SEEDS => world.meet(script.byte().into(), script.byte()),
        op::SEAL => world.tell_seal(script.byte().into(), script.chunk()),
        _ => world.leave(script.byte().into()),
    }
}

/// Members that meet and work, whole and disturbed, and each message said by a stranger.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const MEET: [u8; 9] = [op::SEEDS, 0, 0, op::SEEDS, 1, 1, op::SEEDS, 2, 1];
    const OFFER: [u8; 10] = [op::REGISTER, 0, 1, 80, 0, op::REGISTER, 1, 1, 81, 255];
    let settled = [&[2][..], &MEET, &[op::RUN, 200], &OFFER, &[op::RUN, 200]].concat();
    let then = |steps: &[u8]| [&settled[..], steps, &[op::RUN, 255]].concat();
    let mut seeds = vec![
        then(&[op::DEREGISTER, 0, 1, op::HEALTH, 1, 1, 1]),
        then(&[op::WAIT, 100, op::RUN, 255, op::WAIT, 200, op::RUN, 255]),
        then(&[op::LEAP, 5, 200, op::RUN, 255, op::RUN, 255]),
        then(&[op::REFUSED, 0, 1, op::REFUSED, 2, 1, op::RUN, 100]),
        then(&[op::LEAVE, 1, op::RUN, 200, op::WAIT, 100]),
        then(&[op::SEAL, 0, 0, 5, 2, 1, 2, 3, 4, op::RUN, 100]),
        then(&[
            op::REGISTER,
            0,
            2,
            80,
            0,
            op::DOUBLE,
            op::DELAY,
            op::DAMAGE,
            0,
            30,
            1,
            op::DROP,
        ]),
    ];
    for message in seeds::messages() {
        for (op, to) in [(op::DATAGRAM, 0), (op::LINK, 1)] {
            let mut said = vec![op, to, 9, seeds::STRANGER];
            put_chunk(&mut said, &message.to_bytes());
            seeds.push(then(&said));
        }
    }
    for (sender, frame) in seeds::conversation() {
        for op in [op::DATAGRAM, op::LINK] {
            let mut said = vec![op, 0, 4, sender];
            put_chunk(&mut said, seeds::messages_of(&frame));
            seeds.push(then(&said));
        }
    }
    seeds
}
