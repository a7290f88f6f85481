//! The contract, against the agent of a real Consul.

mod support;

use support::ConsulFixture;

tidings_testkit::server_suite!(consul, tidings_conformance, consul, ConsulFixture);
