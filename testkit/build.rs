//! Looks for the servers, so that tests without one are compiled as ignored, with the reason.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(have_consul, have_dig, have_etcd_3_4, have_etcd_3_5)");
    println!("cargo::rustc-check-cfg=cfg(have_go, have_go_naming)");
    println!("cargo::rustc-check-cfg=cfg(have_zookeeper_3_8, have_curator, have_java)");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-env-changed=TIDINGS_SERVERS");
    let servers = std::env::var("TIDINGS_SERVERS").unwrap_or("/opt/tidings-servers".into());
    let servers = Path::new(&servers);
    let unpacked = servers.join("consul/usr/bin/consul");
    find("consul", &[in_path("consul"), vec![unpacked]].concat());
    find("dig", &in_path("dig"));
    let has_etcd = find("etcd_3_4", &in_path("etcd"));
    find("etcd_3_5", &[servers.join("etcd-3.5/usr/bin/etcd")]);
    if find("go", &in_path("go")) && has_etcd {
        find("go_naming", &[go_source("naming/endpoints/endpoints.go")]);
    } else {
        println!("cargo::rustc-env=TESTKIT_GO_NAMING=");
    }
    if find("java", &in_path("java")) {
        find("zookeeper_3_8", &[jar("zookeeper.jar")]);
        if in_path("javac").iter().any(|path| path.is_file()) {
            find("curator", &[jar("curator-x-discovery.jar")]);
            return;
        }
    } else {
        println!("cargo::rustc-env=TESTKIT_ZOOKEEPER_3_8=");
    }
    println!("cargo::rustc-env=TESTKIT_CURATOR=");
}

/// Where Debian's packages put it.
fn jar(name: &str) -> PathBuf {
    Path::new("/usr/share/java").join(name)
}

/// The same for the sources of etcd's client for Go.
fn go_source(name: &str) -> PathBuf {
    Path::new("/usr/share/gocode/src/go.etcd.io/etcd/clientv3").join(name)
}

/// Says where the server is, by an environment variable of the same name or at one of `places`; and
/// whether it is there at all.
fn find(server: &str, places: &[PathBuf]) -> bool {
    let variable = server.to_uppercase();
    println!("cargo::rerun-if-env-changed={variable}");
    let named = std::env::var(&variable).ok().map(PathBuf::from);
    let mut candidates = named.into_iter().chain(places.iter().cloned());
    // A file that is missing makes Cargo look again, so that an install is noticed.
    let found = candidates.find(|path| {
        println!("cargo::rerun-if-changed={}", path.display());
        path.is_file()
    });
    match &found {
        Some(path) => {
            println!("cargo::rustc-cfg=have_{server}");
            println!("cargo::rustc-env=TESTKIT_{variable}={}", path.display());
        }
        None => println!("cargo::rustc-env=TESTKIT_{variable}="),
    }
    found.is_some()
}

fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .collect()
}
