#!/usr/bin/env bash
# Runs every test of the workspace and closes with the test runner's summary.
#
# It needs a Rust toolchain (1.88 or later), a C compiler and protoc; for the tests of the server
# backends etcd, ZooKeeper and Consul; for those in network namespaces `ip` and `iptables`. On Debian,
# as root, it installs what is missing and says so; elsewhere it says what is missing. Tests of what
# isn't there show as ignored.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '== %s\n' "$*"; }
fail() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

can_install() { [ "$(id -u)" = 0 ] && [ -r /etc/debian_version ] && command -v apt-get >/dev/null; }

command -v cargo >/dev/null ||
    fail "cargo is not on the PATH: install Rust 1.88 or later, https://rust-lang.org/tools/install"

apt_install() {
    say "installing $*: apt-get install"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

if ! command -v cc >/dev/null; then
    can_install || fail "no C compiler (cc) is on the PATH: install gcc or clang"
    apt_install gcc libc6-dev
fi

for tool in ip:iproute2 iptables:iptables; do
    if can_install && ! command -v "${tool%:*}" >/dev/null; then
        apt_install "${tool#*:}" || say "${tool%:*} is missing: tests that need it are ignored"
    fi
done

if can_install; then
    say "servers for the tests"
    scripts/install-servers.sh || say "not all servers could be installed; their tests are ignored"
fi
command -v protoc >/dev/null ||
    fail "protoc is not on the PATH, which the etcd client needs to build (Debian: protobuf-compiler libprotobuf-dev)"

say "documentation tests"
cargo test --workspace --all-features --doc

say "tests"
# Most of them wait for servers or for time limits, not for a processor.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-8}
export RUST_TEST_THREADS
exec cargo test --workspace --all-features --lib --bins --tests --examples --no-fail-fast "$@"
