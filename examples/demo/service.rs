//! One of the services: registers itself and reports every change that it sees, one line each.

use tidings::{Change, DiscoveryExt, Instance};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use crate::Outcome;

/// The first argument of a service process.
pub(crate) const MODE: &str = "--service";
/// The name that clients look up.
pub(crate) const SERVICE: &str = "payments";

/// What a service says and is told, as lines on its standard output and input.
pub(crate) const REGISTERED: &str = "registered";
pub(crate) const APPEARED: &str = "+ ";
pub(crate) const VANISHED: &str = "- ";
pub(crate) const LEAVE: &str = "leave";

pub(crate) async fn run(name: &str, url: &str) -> Outcome {
    let discovery = tidings::connect(url).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let instance = Instance::new(SERVICE, listener.local_addr()?.to_string())?.with_id(name)?;
    discovery.register(instance).await?;
    println!("{REGISTERED}");

    let mut changes = discovery.watch_service(SERVICE).await?.into_changes();
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            Some(change) = changes.next() => match change {
                Change::Added(instance) => println!("{APPEARED}{}", instance.id()),
                Change::Removed(instance) => println!("{VANISHED}{}", instance.id()),
                _ => {}
            },
            // Told to leave, or the demo is gone.
            order = orders.next_line() => match order?.as_deref() {
                Some(LEAVE) | None => break,
                Some(other) => return Err(format!("{other:?} is no order").into()),
            },
        }
    }
    Ok(discovery.close().await?)
}
