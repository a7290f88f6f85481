//! Real servers as child processes, for the tests of the backends.
//!
//! A server gets free ports on loopback and a temporary directory, both its own. It ends, by its
//! process id, when it is dropped, so also when a test panics; where `setpriv` is there, also when
//! the test process is killed. Readiness is a condition that is asked for, never a time.
//!
//! | module | what |
//! |---|---|
//! | [`consul`] | a Consul agent: server or client, with access lists and TLS |
//! | [`etcd`] | etcd 3.4 and 3.5, one member or three, with TLS and users |
//! | [`zookeeper`] | ZooKeeper 3.8, one server or three, with TLS and SASL; Apache Curator |
//! | [`go`] | programs in Go that use etcd's official client |
//! | [`process`] | a child process: kill, pause, resume |
//! | [`proxy`] | a TCP proxy between a client and a server, for partitions and delays |
//! | [`ports`] | free ports |
//! | [`tls`] | a certificate authority for one test |
//!
//! Servers are found by the build script: `etcd` and `consul` in the `PATH` or where `ETCD_3_4` and
//! `CONSUL` say, and in `$TIDINGS_SERVERS` (`/opt/tidings-servers`, where
//! `scripts/install-servers.sh` puts them) `consul`, and etcd 3.5 unless `ETCD_3_5` says where it is.
//! ZooKeeper and Curator are the jars of Debian's packages, or where `ZOOKEEPER_3_8` and `CURATOR`
//! say, with `java` in the `PATH` or where `JAVA` says. etcd's client for Go is the source of Debian's
//! package, or where `GO_NAMING` says, with `go` in the `PATH` or where `GO` says. Tests of a server that isn't there are
//! ignored, with the reason, by [`server_tests!`].

pub mod consul;
pub mod etcd;
pub mod go;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod tls;
pub mod zookeeper;

mod macros;
#[doc(hidden)]
pub use macros::runtime;

/// What a test needs to start or break a server failed; the test can't go on.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
