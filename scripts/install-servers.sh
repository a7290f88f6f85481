#!/bin/sh
# Installs the real servers that the tests of the backends run against, on Debian, as root:
#
#   etcd of this release          from its packages; no service is started
#   protoc and its protobuf files which the crate etcd-client needs to build
#   ZooKeeper and Apache Curator  from their packages, with a Java compiler for the latter's test;
#                                 no service is started
#   Go and etcd's client for it   from their packages, for a test beside the official naming resolver
#   dig                           from its package, to ask Consul's DNS
#   etcd 3.5 (Debian trixie)      unpacked into $TIDINGS_SERVERS, where the package sources can be
#                                 derived from this machine's own; nothing of it is installed
#   Consul 1.8.7 (Debian bullseye) likewise, unless a consul is in the PATH already
#
# Running it again changes nothing. Without servers the tests that need one are shown as ignored.
set -eu

SERVERS=${TIDINGS_SERVERS:-/opt/tidings-servers}
PACKAGES='etcd-server etcd-client protobuf-compiler libprotobuf-dev
    zookeeper libcurator-discovery-java libcurator-recipes-java libslf4j-java default-jdk-headless
    golang-go golang-etcd-server-dev bind9-dnsutils'
NEWER_RELEASE=trixie
# The last release of Debian that has Consul.
CONSUL_RELEASE=bullseye

main() {
    check_system
    install_packages
    unpack "etcd 3.5" "$NEWER_RELEASE" etcd-3.5 etcd etcd-server etcd-client
    if command -v consul >/dev/null; then
        say "consul in the PATH: $(consul version | head -n 1), $(command -v consul)"
    else
        unpack "Consul" "$CONSUL_RELEASE" consul consul consul
    fi
    say "etcd of this release: $(etcd --version | head -n 1), $(command -v etcd)"
}

check_system() {
    if ! command -v apt-get >/dev/null || [ ! -e /etc/debian_version ]; then
        fail "this script knows Debian only; install yourself: etcd 3.4 or later (etcd and etcdctl
in the PATH, or ETCD_3_4 and ETCD_3_5 naming the binaries), consul (in the PATH, or CONSUL naming
the binary), protoc, and the protobuf files google/protobuf/*.proto; ZooKeeper 3.8 and Curator 5
(ZOOKEEPER_3_8 and CURATOR naming the jars zookeeper.jar and curator-x-discovery.jar, others beside
them), and java and javac; go, and etcd's client for it (GO_NAMING naming the source file
clientv3/naming/endpoints/endpoints.go in a GOPATH with all it needs); and dig"
    fi
    if [ "$(id -u)" != 0 ] && [ -n "$(missing_packages)" ]; then
        fail "not root, and these packages are missing: $(missing_packages)"
    fi
}

install_packages() {
    missing=$(missing_packages)
    if [ -z "$missing" ]; then
        say "installed already: $PACKAGES"
        return
    fi
    say "installing: $missing"
    guard_services
    apt-get -qq update
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >&2
}

missing_packages() {
    for package in $PACKAGES; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            printf '%s ' "$package"
    done
}

# etcd's package starts a service as soon as it is installed, unless a policy forbids it.
guard_services() {
    if [ -e /usr/sbin/policy-rc.d ]; then
        return
    fi
    say "no service may start meanwhile: writing /usr/sbin/policy-rc.d, to be removed at the end"
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d; disable_service' EXIT
}

disable_service() {
    if command -v systemctl >/dev/null; then
        systemctl disable etcd.service >/dev/null 2>&1 || true
    fi
}

# Unpacks WHAT of another RELEASE into a FOLDER with its BINARY: PACKAGES. With package lists of its
# own, so that the other release can't leak into ordinary installs.
unpack() {
    what=$1 release=$2 target=$SERVERS/$3 binary=$SERVERS/$3/usr/bin/$4
    shift 4
    if [ -x "$binary" ]; then
        say "unpacked already: $target"
        return
    fi
    if ! mkdir -p "$target"; then
        say "leaving out $what: $target can't be written (set TIDINGS_SERVERS)"
        return
    fi
    work=$(mktemp -d)
    mkdir -p "$work/parts" "$work/lists/partial" "$work/cache/archives/partial"
    chmod -R a+rX "$work"
    derive_sources "$work/parts" "$release"
    apt_other="apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$work/parts
        -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
    say "fetching $what of $release"
    # shellcheck disable=SC2086 # options
    if $apt_other update && (cd "$work" && $apt_other download "$@"); then
        for package in "$work"/*.deb; do
            dpkg -x "$package" "$target"
        done
        say "unpacked $what into $target: $("$binary" --version | head -n 1)"
    else
        rmdir "$target" 2>/dev/null || true
        say "leaving out $what: no packages of $release in this machine's sources"
    fi
    rm -rf "$work"
}

# This machine's sources of Debian itself in a FOLDER, with another RELEASE in place of its own.
derive_sources() {
    . /etc/os-release
    for file in /etc/apt/sources.list.d/debian.sources; do
        if [ -e "$file" ]; then
            sed -e "s/$VERSION_CODENAME-updates//; s/$VERSION_CODENAME/$2/" "$file" |
                awk -v suite="$2" \
                    'BEGIN { RS = ""; ORS = "\n\n" } $0 ~ "Suites: " suite "[ ]*\n"' \
                    >"$1/$2.sources"
        fi
    done
    if [ -e /etc/apt/sources.list ]; then
        grep -E "^deb .*[ ]$VERSION_CODENAME[ ]" /etc/apt/sources.list |
            sed -e "s/ $VERSION_CODENAME / $2 /" >"$1/$2.list" || true
    fi
}

say() {
    printf 'install-servers: %s\n' "$*"
}

fail() {
    printf 'install-servers: %s\n' "$*" >&2
    exit 1
}

main
