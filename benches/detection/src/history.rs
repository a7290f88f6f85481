//! Names that the network's model needs.

/// A process. There is one on each host, and never another: a member that is replaced goes to a new
/// host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId(pub(crate) u32);
