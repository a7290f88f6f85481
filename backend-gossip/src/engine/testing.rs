//! Members and frames that this folder's tests are made of.

use super::*;

/// Where a member is.
pub(super) fn address(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(at).unwrap()))
}

/// The name of a member: `m0`, `m1` and so on.
pub(super) fn name(at: usize) -> String {
    format!("m{at}")
}

/// What a member is known as.
pub(super) fn id(at: usize) -> u64 {
    wire::member_hash(&name(at))
}

pub(super) fn identity(at: usize) -> Identity {
    Identity {
        name: name(at).into(),
        generation: Generation::new(100),
        address: address(at),
    }
}

/// A member that has started, alone.
pub(super) fn engine(now: Instant, at: usize) -> Engine {
    let mut engine = Engine::new(now, identity(at), EngineConfig::default(), at as u64);
    engine.handle_seeds(now, &[]);
    engine
}

/// A frame as another member sends it.
pub(super) fn frame(sender: u64, messages: &[Message]) -> Vec<u8> {
    let header = Header {
        cluster: wire::cluster_hash("tidings"),
        sender,
    };
    let mut frame = header.to_frame();
    for message in messages {
        message.encode(&mut frame);
    }
    frame
}
