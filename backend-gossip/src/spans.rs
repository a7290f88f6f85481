//! The spans of [`tracing`] in which a member works: docs/metrics.md lists them for users.

use std::net::SocketAddr;

use tracing::{Span, debug_span, error_span};

use crate::engine::LinkId;
use crate::seal::Side;

/// Around everything a member does, so that each line says whose it is where several members are one
/// process. At the highest level, so that a filter that lets nothing but errors through keeps it; and
/// a root, since the member outlives whatever its application was doing when it started it.
pub(crate) fn member(cluster: &str, name: &str) -> Span {
    error_span!(parent: None, "member", cluster, name)
}

/// From the first question to the seeds to the first answer, or the end of
/// [`join_wait`](crate::GossipConfig::join_wait).
pub(crate) fn join(seeds: usize) -> Span {
    debug_span!("join", seeds)
}

/// From `close` to its return.
pub(crate) fn leave(member: &Span) -> Span {
    debug_span!(parent: member, "leave")
}

/// Around the task of a link; `peer` where it is known.
pub(crate) fn link(id: LinkId, side: Side, peer: Option<SocketAddr>) -> Span {
    let opened = side == Side::Opener;
    debug_span!(
        "link",
        id = id.0,
        opened,
        peer = peer.map(tracing::field::display)
    )
}
