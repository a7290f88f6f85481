//! The file of one member: lines of text, replaced as a whole.
//!
//! ```text
//! tidings gossip state 1
//! cluster prod
//! name web-1
//! generation 1763800000000000
//! member 10.0.0.2:7946 web-2
//! lost 10.0.0.3:7946 web-3
//! checksum 89b5f4b7c1d2e3f4
//! ```
//!
//! Lines that begin with another word are skipped: a later version may have written them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tidings_api::{Error, Result};
use tracing::warn;

use super::{KEPT_MAX, KnownMember, Saved};
use crate::wire::codec;
use crate::wire::limits::COUNTER_MAX;

const FIRST_LINE: &str = "tidings gossip state 1";
/// What is read of a file at most: twice what the longest names and addresses come to.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where the state of one member is kept.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    cluster: String,
    name: String,
}

impl StateFile {
    /// The file of a member, in a folder that is made where only it itself is missing.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where that is no folder.
    pub(super) fn new(folder: &Path, cluster: &str, name: &str) -> Result<Self> {
        let made = match fs::metadata(folder) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
            // Not the folders above it: a mistyped path should be noticed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(folder),
            Err(error) => Err(error),
        };
        made.map_err(|error| wrong_path(folder, error))?;
        // Two names in one: whatever they consist of, this is a file name on every system.
        let hash = codec::hash(&[cluster.as_bytes(), name.as_bytes()]);
        Ok(Self {
            path: folder.join(format!("member-{hash:016x}.state")),
            cluster: cluster.to_owned(),
            name: name.to_owned(),
        })
    }

    /// What was written last; nothing where there is no file. One that can't be used is said and
    /// ignored: a member without memory serves better than none.
    pub(super) fn read(&self) -> Saved {
        match self.try_read() {
            Ok(saved) => saved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "state ignored");
                Saved::default()
            }
        }
    }

    /// Writes the first state of a start.
    ///
    /// # Errors
    /// [`InvalidConfig`](tidings_api::ErrorKind::InvalidConfig) where this process can't write
    /// there. A device that is full or fails is said, and no error.
    pub(super) fn write_first(&self, saved: &Saved) -> Result<()> {
        use io::ErrorKind::{
            IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        let Err(error) = self.write(saved) else {
            return Ok(());
        };
        match error.kind() {
            IsADirectory | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => {
                let folder = self.path.parent().unwrap_or(&self.path);
                Err(wrong_path(folder, error))
            }
            _ => {
                warn!(path = %self.path.display(), %error, "state not written");
                Ok(())
            }
        }
    }

    /// Replaces the file: whoever reads it finds the old text or the new one, also after a loss of
    /// power. The generation never goes back, whoever else has written it.
    pub(super) fn write(&self, saved: &Saved) -> io::Result<()> {
        // The last write of a handle that was closed may still be under way when the next one starts.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.try_read().map_or(0, |found| found.generation);
        let text = self.format(saved, saved.generation.max(found));
        let beside = self.path.with_extension("state.new");
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, &self.path)?;
        sync_folder(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn try_read(&self) -> io::Result<Saved> {
        let mut text = String::new();
        let file = File::open(&self.path)?;
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if read as u64 > FILE_BYTES_MAX {
            return Err(invalid("it is too large"));
        }
        self.parse(&text).map_err(invalid)
    }

    fn format(&self, saved: &Saved, generation: u64) -> String {
        let mut text = format!(
            "{FIRST_LINE}\ncluster {}\nname {}\ngeneration {generation}\n",
            self.cluster, self.name
        );
        for (word, members) in [("member", &saved.members), ("lost", &saved.lost)] {
            for KnownMember { address, name } in members {
                // Writing to a string doesn't fail.
                let _ = writeln!(text, "{word} {address} {name}");
            }
        }
        let checksum = checksum(&text);
        let _ = writeln!(text, "checksum {checksum:016x}");
        text
    }

    fn parse(&self, text: &str) -> Result<Saved, &'static str> {
        let damaged = "it is damaged";
        let (body, last) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .ok_or(damaged)?;
        // With the end of its last line, as it was when it was summed up.
        let body = &text[..=body.len()];
        if last != format!("checksum {:016x}", checksum(body)) {
            return Err(damaged);
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err("it is of another version");
        }
        let mut saved = Saved::default();
        let mut theirs = (false, false);
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "cluster" => theirs.0 = rest == self.cluster,
                "name" => theirs.1 = rest == self.name,
                "generation" => saved.generation = rest.parse().map_err(|_| damaged)?,
                "member" => add(&mut saved.members, rest).ok_or(damaged)?,
                "lost" => add(&mut saved.lost, rest).ok_or(damaged)?,
                _ => {}
            }
        }
        if theirs != (true, true) {
            return Err("it belongs to another member");
        }
        if saved.generation >= COUNTER_MAX {
            return Err("its generation is out of range");
        }
        Ok(saved)
    }
}

fn add(members: &mut Vec<KnownMember>, line: &str) -> Option<()> {
    let (address, name) = line.split_once(' ')?;
    let address: SocketAddr = address.parse().ok()?;
    if members.len() < KEPT_MAX {
        let name: Arc<str> = name.into();
        members.push(KnownMember { address, name });
    }
    Some(())
}

/// Tells damage, and nothing else: nobody is kept from writing the file.
fn checksum(body: &str) -> u64 {
    codec::hash(&[b"state", body.as_bytes()])
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn wrong_path(folder: &Path, error: io::Error) -> Error {
    let message = format!(
        "state \"{}\": accepted is a folder that this process can write to, or can make in one that \
         is there",
        folder.display()
    );
    Error::invalid_config(message).with_source(error)
}

/// Makes the new name of a file last, where the system has a way to.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use proptest::prelude::*;
    use tempfile::tempdir;
    use tidings_api::ErrorKind;

    use super::*;

    fn member(text: &str) -> KnownMember {
        let mut members = Vec::new();
        add(&mut members, text).unwrap();
        members.remove(0)
    }

    fn saved() -> Saved {
        Saved {
            generation: 1_763_800_000_000_000,
            members: vec![member("10.0.0.2:7946 web-2"), member("[fe80::1%3]:1 a b")],
            lost: vec![member("10.0.0.3:7946 web-3")],
        }
    }

    fn file(folder: &Path, name: &str) -> StateFile {
        StateFile::new(folder, "prod", name).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempdir().unwrap();
        let file = file(folder.path(), "web-1");
        assert_eq!(file.read(), Saved::default());
        file.write_first(&saved()).unwrap();
        assert_eq!(file.read(), saved());
        let text = fs::read_to_string(file.path()).unwrap();
        let start = "tidings gossip state 1\ncluster prod\nname web-1\ngeneration 1763800000000000\n\
                     member 10.0.0.2:7946 web-2\n";
        assert!(text.starts_with(start), "{text}");
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "nothing else is left in the folder");
    }

    #[test]
    fn members_of_one_folder_dont_mix() {
        let folder = tempdir().unwrap();
        let [first, second] = ["..", "a:b"].map(|name| file(folder.path(), name));
        first.write(&saved()).unwrap();
        assert_eq!(second.read(), Saved::default());
        fs::copy(first.path(), second.path()).unwrap();
        assert_eq!(
            second.parse(&fs::read_to_string(second.path()).unwrap()),
            Err("it belongs to another member")
        );
        assert_eq!(second.read(), Saved::default());
    }

    #[test]
    fn the_generation_never_goes_back() {
        let folder = tempdir().unwrap();
        let file = file(folder.path(), "web-1");
        file.write(&saved()).unwrap();
        let late = Saved {
            generation: 7,
            ..Saved::default()
        };
        file.write(&late).unwrap();
        let expected = Saved {
            generation: saved().generation,
            ..Saved::default()
        };
        assert_eq!(file.read(), expected);
    }

    #[test]
    fn what_is_damaged_is_ignored_and_replaced() {
        let folder = tempdir().unwrap();
        let file = file(folder.path(), "web-1");
        let text = file.format(&saved(), saved().generation);
        assert_eq!(file.parse(&text), Ok(saved()));
        for at in 0..text.len() {
            assert!(file.parse(&text[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).unwrap();
            assert!(file.parse(&flipped).is_err(), "flipped at {at}");
        }
        for bytes in [&b""[..], b"\xff\xfe", b"\n", &[b'x'; 100_000]] {
            fs::write(file.path(), bytes).unwrap();
            assert_eq!(file.read(), Saved::default());
        }
        file.write_first(&saved()).unwrap();
        assert_eq!(file.read(), saved());
    }

    #[test]
    fn lines_of_later_versions_are_skipped_and_too_many_members_as_well() {
        let folder = tempdir().unwrap();
        let file = file(folder.path(), "web-1");
        let mut many = saved();
        many.lost = vec![member("10.0.0.3:7946 web-3"); 2 * KEPT_MAX];
        let text = file
            .format(&many, 5)
            .replace("generation", "weather fine\n\ngeneration");
        let body = &text[..text.rfind("checksum").unwrap()];
        let text = format!("{body}checksum {:016x}\n", checksum(body));
        let read = file.parse(&text).unwrap();
        assert_eq!(
            (read.generation, read.members.len(), read.lost.len()),
            (5, 2, KEPT_MAX)
        );
        let text = file.format(&saved(), COUNTER_MAX);
        assert_eq!(file.parse(&text), Err("its generation is out of range"));
    }

    #[test]
    fn a_wrong_path_is_a_wrong_configuration() {
        let folder = tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::write(&taken, "a file").unwrap();
        for path in [
            taken.clone(),
            taken.join("below"),
            folder.path().join("a/b"),
        ] {
            let error = StateFile::new(&path, "prod", "web-1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            let expected = format!(
                "state \"{}\": accepted is a folder that this process can write to, or can make in \
                 one that is there",
                path.display()
            );
            assert_eq!(error.to_string(), expected);
            assert!(error.source().is_some(), "the system's reason");
        }
        let made = folder.path().join("made");
        let file = file(&made, "web-1");
        // Something that no file can replace stands at its place.
        fs::create_dir(file.path()).unwrap();
        let error = file.write_first(&saved()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", rest in "[a-z0-9: \n.]{0,200}") {
            let file = StateFile {
                path: PathBuf::new(), cluster: "prod".to_owned(), name: "web-1".to_owned(),
            };
            let _ = file.parse(&text);
            let body = format!("{FIRST_LINE}\ncluster prod\nname web-1\n{rest}\n");
            let _ = file.parse(&format!("{body}checksum {:016x}\n", checksum(&body)));
        }
    }
}
