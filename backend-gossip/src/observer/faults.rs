//! Faults on purpose, for tests only.

use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;

use super::driver::Command;

/// Does to an observer what networks and power supplies do. For tests only: it is behind the feature
/// `fault-injection`, which no product turns on.
#[derive(Clone, Debug)]
pub struct ObserverFaults {
    commands: WeakSender<Command>,
}

impl ObserverFaults {
    pub(super) fn new(commands: WeakSender<Command>) -> Self {
        Self { commands }
    }

    /// Swallows everything both ways, as a broken network would.
    pub async fn cut_off(&self) {
        self.set_cut_off(true).await;
    }

    /// Undoes [`cut_off`](Self::cut_off).
    pub async fn restore(&self) {
        self.set_cut_off(false).await;
    }

    /// Ends the observer at once; its handle is as after `close`.
    pub async fn crash(&self) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::Close).await;
            commands.closed().await;
        }
    }

    async fn set_cut_off(&self, cut_off: bool) {
        if let Some(commands) = self.commands.upgrade() {
            let (reply, done) = oneshot::channel();
            let _ = commands.send(Command::CutOff(cut_off, reply)).await;
            let _ = done.await;
        }
    }
}
