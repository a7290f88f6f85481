//! A child process that ends with its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

const STOP_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A running child process; killed, by its id, when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `arguments`; what it prints is added to the file `log`.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self {
            child: spawn(command)?,
            log: log.to_owned(),
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it hasn't ended by itself.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops it without letting it know (SIGSTOP): it hangs, its sockets stay open. Returns when
    /// every thread of it has stopped, which on a busy machine takes a moment.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        while !self.is_stopped() {
            std::thread::sleep(STOP_POLL_INTERVAL);
        }
        Ok(())
    }

    /// Ends [`pause`](Self::pause).
    ///
    /// # Errors
    /// Where it has ended.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of what it printed, for a failure's text.
    #[must_use]
    pub fn log_tail(&self) -> String {
        const BYTES_MAX: usize = 2_000;
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let start = (text.len().saturating_sub(BYTES_MAX)..text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or_default();
        text[start..].to_owned()
    }

    /// Whether every thread is stopped, or gone.
    fn is_stopped(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else {
            return true;
        };
        let stats = threads.flatten().map(|thread| thread.path().join("stat"));
        let mut stats = stats.filter_map(|stat| fs::read_to_string(stat).ok());
        // The state stands behind the name, which is in parentheses and may have some of its own.
        stats.all(|stat| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with(['T', 'Z']))
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        let id = Pid::from_raw(id).ok_or("a process has an id")?;
        Ok(kill_process(id, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets the child die with this process even where no destructor runs. Part of util-linux.
fn setpriv() -> Option<&'static Path> {
    let path = Path::new("/usr/bin/setpriv");
    path.is_file().then_some(path)
}

/// Starts the command on a thread that lives as long as the process: the death signal goes by the
/// thread that started the child, and the threads of tests end early.
fn spawn(command: Command) -> Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits any more only where the test has gone.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, child) = mpsc::channel();
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))?;
    Ok(child.recv()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_ends_with_its_owner_also_on_panic() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let sleep = || {
            let program = Path::new("/bin/sleep");
            Process::start(program, &["600".into()], log.path()).unwrap()
        };
        let mut child = sleep();
        let id = child.id();
        assert!(child.is_running() && is_there(id));
        child.pause().unwrap();
        drop(child);
        assert!(!is_there(id));

        let child = sleep();
        let id = child.id();
        let panicked = std::thread::spawn(move || {
            let _child = child;
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert!(!is_there(id));
    }

    fn is_there(id: u32) -> bool {
        Path::new(&format!("/proc/{id}/stat")).exists()
    }
}
