//! Faults on purpose, for tests only.

use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;

use crate::driver::Command;

/// Does to a member what networks and power supplies do. For tests only: it is behind the feature
/// `fault-injection`, which no product turns on.
///
/// Each fault has taken effect when its call returns. On a handle that is closed or dropped none
/// has any.
#[derive(Clone, Debug)]
pub struct Faults {
    commands: WeakSender<Command>,
}

impl Faults {
    pub(crate) fn new(commands: WeakSender<Command>) -> Self {
        Self { commands }
    }

    /// Drops all datagrams both ways and breaks all links; what others send is swallowed, as behind
    /// a broken network, not refused.
    pub async fn cut_off(&self) {
        self.set_cut_off(true).await;
    }

    /// Undoes [`cut_off`](Self::cut_off).
    pub async fn restore(&self) {
        self.set_cut_off(false).await;
    }

    /// Ends the member at once, without leaving. Its sockets are closed, so that connections to it
    /// are refused, as after the end of its process; its handle is as after `close`.
    pub async fn crash(&self) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::Crash).await;
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
