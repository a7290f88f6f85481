//! The file that keys are read from, over and over, so that they change without a restart.
//!
//! One key a line; empty lines and what follows a `#` are skipped. The first key seals.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidings_api::{Error, Result};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{Instrument, Span, warn};
use zeroize::Zeroizing;

use crate::seal::SealKey;

/// Time between two looks at the file.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest file that is read: some thousand times what the keys need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Looks at a key file again and again.
#[derive(Debug, Default)]
pub(crate) struct KeyFile {
    path: Option<PathBuf>,
    /// What the last look found, or why it found nothing: said once.
    last: Option<std::result::Result<Vec<SealKey>, String>>,
    look: JoinSet<Result<Vec<SealKey>>>,
}

impl KeyFile {
    /// Looks at `path`, whose keys were `keys` a moment ago. Without a path it never looks.
    pub(crate) fn new(path: Option<PathBuf>, keys: &[SealKey]) -> Self {
        Self {
            path,
            last: Some(Ok(keys.to_vec())),
            look: JoinSet::new(),
        }
    }

    /// The keys in a file, which has to have one.
    pub(crate) async fn read(path: &Path) -> Result<Vec<SealKey>> {
        let (path, span) = (path.to_owned(), Span::current());
        let read = spawn_blocking(move || span.in_scope(|| read(&path))).await;
        read.unwrap_or_else(|error| Err(Error::invalid_config("keys_file").with_source(error)))
    }

    /// Waits until the file has other keys. Where it can't be read, or what is in it is no key, it
    /// warns once and waits on. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Vec<SealKey> {
        let Some(path) = &self.path else {
            return std::future::pending().await;
        };
        loop {
            if self.look.is_empty() {
                let path = path.clone();
                let look = async move {
                    sleep(LOOK_INTERVAL).await;
                    Self::read(&path).await
                };
                self.look.spawn(look.in_current_span());
            }
            let Some(Ok(found)) = self.look.join_next().await else {
                continue;
            };
            let found = found.map_err(|error| error.to_string());
            let last = self.last.replace(found.clone());
            match found {
                found if last.as_ref() == Some(&found) => {}
                Ok(keys) => return keys,
                Err(error) => warn!(%error, "keys can't be read; going on with those there are"),
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<SealKey>> {
    let text = text(path).map_err(|error| {
        let accepted = "accepted is a file that this process can read, with a key on each line";
        Error::invalid_config(format!("keys_file \"{}\": {accepted}", path.display()))
            .with_source(error)
    })?;
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let key = line.split('#').next().unwrap_or_default().trim();
        if key.is_empty() {
            continue;
        }
        let key = key.parse::<SealKey>().map_err(|error| {
            let (path, line) = (path.display(), at + 1);
            Error::invalid_config(format!("keys_file \"{path}\", line {line}: {error}"))
        })?;
        keys.push(key);
    }
    if keys.is_empty() {
        let path = path.display();
        return Err(Error::invalid_config(format!(
            "keys_file \"{path}\" has no key: accepted is one on each line, the first to seal with"
        )));
    }
    Ok(keys)
}

fn text(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    warn_if_open_to_others(path, &file);
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(unix)]
fn warn_if_open_to_others(path: &Path, file: &File) {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Once;

    static SAID: Once = Once::new();
    if file
        .metadata()
        .is_ok_and(|metadata| metadata.mode() & 0o007 != 0)
    {
        SAID.call_once(|| {
            warn!(path = %path.display(), "every user of this machine may read the keys, or write \
                   them: chmod o= (said once)");
        });
    }
}

#[cfg(not(unix))]
fn warn_if_open_to_others(_: &Path, _: &File) {}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn key(number: u8) -> SealKey {
        SealKey::from_bytes(std::array::from_fn(|at| at as u8 ^ number)).unwrap()
    }

    fn text(keys: &[&SealKey]) -> String {
        let lines = keys.iter().map(|key| format!("{}\n", *key.expose()));
        lines.collect()
    }

    #[tokio::test]
    async fn keys_are_read_in_order_with_comments() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("keys");
        let keys = [key(1), key(2)];
        let written = format!(
            "# ours\n\n  {}   # new\n{}",
            *keys[0].expose(),
            *keys[1].expose()
        );
        std::fs::write(&path, written).unwrap();
        assert_eq!(KeyFile::read(&path).await.unwrap(), keys);
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_with_its_line_and_without_the_key() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("keys");
        let error = KeyFile::read(&path).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("keys_file \"{}\": accepted is", path.display())));
        std::fs::write(&path, "# none\n").unwrap();
        let error = KeyFile::read(&path).await.unwrap_err().to_string();
        assert!(
            error.contains("has no key: accepted is one on each line"),
            "{error}"
        );
        std::fs::write(&path, text(&[&key(1)]) + "hunter2\n").unwrap();
        let error = KeyFile::read(&path).await.unwrap_err().to_string();
        assert!(
            error.contains("line 2: a key: accepted are 32 random bytes"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_change_is_found_and_a_broken_file_is_waited_out() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text(&[&key(1)])).unwrap();
        let mut file = KeyFile::new(Some(path.clone()), &[key(1)]);
        assert!(
            timeout(2 * LOOK_INTERVAL, file.changed()).await.is_err(),
            "nothing changed"
        );
        std::fs::write(&path, "half a k").unwrap();
        assert!(
            timeout(2 * LOOK_INTERVAL, file.changed()).await.is_err(),
            "no keys"
        );
        std::fs::write(&path, text(&[&key(1), &key(2)])).unwrap();
        let found = timeout(LONG, file.changed()).await.unwrap();
        assert_eq!(found, [key(1), key(2)]);
    }
}
