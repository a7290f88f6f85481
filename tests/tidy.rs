//! What text can check about the repository itself: purity of the engine, the map in
//! ARCHITECTURE.md, lengths of files and lines.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code a source file may have, tests and comments included: more doesn't fit in a head.
const FILE_LINES_MAX: usize = 900;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder that end in `.rs`, but for build output.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Code without comments and without the tests at the end of a file.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_engine_knows_no_clock_socket_task_or_hash_order() {
    let banned = [
        "Instant::now",
        "SystemTime",
        "tokio",
        "UdpSocket",
        "TcpStream",
        "HashMap",
        "HashSet",
        "thread",
        "Rng::new",
        "getrandom",
        "Freshness::stale",
        "Generation::after",
    ];
    let mut read = 0;
    let pure = ["engine", "wire", "seal", "observer"];
    for folder in pure {
        for path in sources(&root().join("backend-gossip/src").join(folder)) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if folder == "observer" && !["replica.rs", "session.rs"].contains(&&*name) {
                continue;
            }
            if path.to_string_lossy().ends_with("tests.rs") {
                continue;
            }
            read += 1;
            let code = code(&fs::read_to_string(&path).unwrap());
            // Who is heard isn't read in order there; the lookup is on every datagram's way.
            let banned = banned
                .iter()
                .filter(|word| folder != "seal" || **word != "HashMap");
            for word in banned {
                assert!(!code.contains(word), "{} has {word}", path.display());
            }
        }
    }
    assert!(read > 10, "only {read} files were read");
}

#[test]
fn every_path_in_the_architecture_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let mut checked = 0;
    for path in quoted.filter(|quoted| quoted.contains('/') && !quoted.contains([' ', ':', '<'])) {
        assert!(
            root().join(path).exists(),
            "ARCHITECTURE.md names {path}, which does not exist"
        );
        checked += 1;
    }
    assert!(checked > 10, "only {checked} paths were checked");
}

#[test]
fn files_fit_in_a_head_and_lines_on_a_screen() {
    for path in sources(root()) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{} has {lines} lines",
            path.display()
        );
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            assert!(
                columns <= 130,
                "{}:{} has {columns} columns",
                path.display(),
                at + 1
            );
        }
    }
}

#[test]
fn every_member_of_the_workspace_uses_its_lints() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 3);
    for member in members {
        let text = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{member} has lints of its own"
        );
    }
}
