//! Programs in Go, built with the packages of the system.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::Result;
use crate::process::Process;

/// A program that uses etcd's official client.
#[derive(Debug)]
pub struct Program {
    folder: TempDir,
}

impl Program {
    /// Builds one source file.
    ///
    /// # Errors
    /// Where Go or etcd's client for it isn't there, or the source doesn't compile.
    pub fn build(source: &Path) -> Result<Self> {
        let naming = env!("TESTKIT_GO_NAMING");
        let (packages, _) = naming
            .split_once("/src/")
            .ok_or("etcd's client for Go is not installed")?;
        let folder = TempDir::with_prefix("tidings-go-")?;
        let output = Command::new(env!("TESTKIT_GO"))
            .args(["build", "-o"])
            .arg(folder.path().join("program"))
            .arg(source)
            // The system's packages are no modules, and nothing is downloaded.
            .env("GO111MODULE", "off")
            .env("GOPATH", packages)
            .env_remove("GOFLAGS")
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(Self { folder })
    }

    /// Starts it; what it prints is added to the file `log`.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(&self, arguments: &[&str], log: &Path) -> Result<Process> {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        Process::start(&self.folder.path().join("program"), &arguments, log)
    }

    /// Where it may leave files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
