//! What the tests of this backend share.

use std::net::SocketAddr;
use std::time::Duration;

use tidings_consul::ConsulConfig;

/// Times that make tests quick, and leave a busy machine room to breathe.
pub(crate) fn quick(agent: SocketAddr) -> ConsulConfig {
    let mut config = ConsulConfig::default();
    config.agent = agent
        .to_string()
        .parse()
        .expect("an address is a host and a port");
    config.ttl = Duration::from_secs(8);
    config.request_timeout = Duration::from_secs(4);
    config.leave_timeout = Duration::from_secs(4);
    config.loss_hold = Duration::from_secs(20);
    config
}
