//! Who wrote a node.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidings_api::InstanceId;

/// A handle, over all its sessions: a random name it writes into its nodes.
///
/// It tells a node that an earlier session of this handle left behind from one of somebody else,
/// which the session id in the node's stat can't.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Owner(Arc<str>);

impl Owner {
    pub(crate) fn generate() -> Self {
        Self(InstanceId::generate().as_str().into())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
