//! A member as the lab has it: a child process and the record of what it prints.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::record::Record;

/// First argument of a process that is a member.
pub(crate) const MEMBER: &str = "netns-member";

/// A running member, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    commands: ChildStdin,
    record: Arc<Mutex<Record>>,
    asked: usize,
}

impl Process {
    /// Starts a member by this configuration, with a command that runs others on its host.
    pub(crate) fn start(mut on_host: Command, url: &str) -> Self {
        let mut child = on_host
            .arg(env::current_exe().unwrap())
            .args([MEMBER, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let record = Arc::new(Mutex::new(Record::default()));
        let written = record.clone();
        thread::spawn(move || {
            for line in lines.map_while(|line| line.ok()) {
                let mut record = written.lock().unwrap_or_else(PoisonError::into_inner);
                record.add(&line);
            }
        });
        let asked = 0;
        Self {
            child,
            commands,
            record,
            asked,
        }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        // A failed question is no reason not to print the answers.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it what to do.
    pub(crate) fn ask(&mut self, command: &str) {
        self.asked += 1;
        writeln!(self.commands, "{command}").unwrap();
    }

    /// Whether it has done all that it was told.
    pub(crate) fn has_done_all(&self) -> bool {
        self.record().done == self.asked
    }

    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether the kernel has stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    }

    /// Ends it as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
