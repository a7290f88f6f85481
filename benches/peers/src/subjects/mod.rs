//! What is compared, one file each.

use clap::ValueEnum;

use crate::peer::Peer;

mod chitchat;
mod foca;
mod memberlist;
mod serf;
mod serf_go;
mod tidings;

/// TCP ports over which the harness itself talks to nodes; loss spares them.
pub(crate) const SPARED_PORTS: [u16; 1] = [serf_go::RPC_PORT];

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Subject {
    /// This repository's gossip backend
    Ours,
    /// foca, `Config::new_lan(N)`, driven by one task a node
    Foca,
    /// chitchat, the configuration of its own tests
    Chitchat,
    /// al8n's Rust port of memberlist, `Options::lan()`
    Memberlist,
    /// al8n's Rust port of serf, `Options::new()`
    Serf,
    /// HashiCorp's serf as Debian packages it, `-profile=lan`, a process a node
    SerfGo,
}

impl Subject {
    /// What the command line calls it.
    pub(crate) fn key(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What tables call it.
    pub(crate) async fn title(self) -> String {
        match self {
            Self::Ours => format!("tidings {}", locked_version("tidings-gossip")),
            Self::Foca => format!("foca {}", locked_version("foca")),
            Self::Chitchat => format!("chitchat {}", locked_version("chitchat")),
            Self::Memberlist => format!("memberlist {} (Rust)", locked_version("memberlist")),
            Self::Serf => format!("serf {} (Rust)", locked_version("serf")),
            Self::SerfGo => format!("serf {} (Go)", serf_go::version().await),
        }
    }

    /// Makes it ready to start about `nodes` nodes.
    pub(crate) fn peer(self, nodes: usize) -> Box<dyn Peer> {
        match self {
            Self::Ours => Box::new(tidings::Tidings),
            Self::Foca => Box::new(foca::FocaPeer::new(nodes)),
            Self::Chitchat => Box::new(chitchat::ChitchatPeer),
            Self::Memberlist => Box::new(memberlist::MemberlistPeer),
            Self::Serf => Box::new(serf::SerfPeer),
            Self::SerfGo => Box::new(serf_go::SerfGo),
        }
    }
}

/// The version of a dependency in this workspace's lock file.
fn locked_version(package: &str) -> &'static str {
    const LOCK: &str = include_str!("../../Cargo.lock");
    let entry = format!("name = \"{package}\"\nversion = \"");
    LOCK.split_once(&entry)
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or("?")
}
