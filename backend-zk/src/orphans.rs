//! Nodes of the own session that nobody offers any more.
//!
//! A server may know more of a session than the handle: one that was restored from an older snapshot
//! has again what was deregistered since, and keeps it for as long as the session lives. So on
//! every connection but the first the nodes of the session are compared with what is offered.

use std::sync::Arc;

use tidings_api::InstanceKey;
use zookeeper_client as zk;

use crate::content::Content;
use crate::error::Failure;
use crate::keys::Place;
use crate::session::{Backoff, Link};
use crate::{Shared, registration};

/// Takes them back, for as long as the handle lives.
pub(crate) async fn take_back(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(shared.config.retry_max);
    loop {
        let link = shared.line.up().await;
        match look(&shared, &link).await {
            Ok(()) => {
                backoff.reset();
                shared.line.lost(&link).await;
            }
            Err(failure) => {
                tracing::debug!(?failure, "could not look for nodes that nobody offers");
                tokio::select! {
                    () = tokio::time::sleep(backoff.pause()) => {}
                    () = shared.line.lost(&link) => {}
                }
            }
        }
    }
}

async fn look(shared: &Arc<Shared>, link: &Link) -> Result<(), Failure> {
    if link.number() == 1 || shared.is_old() {
        return Ok(());
    }
    let listed = link.client().list_ephemerals(shared.keys.base());
    let paths = match link.call(listed).await {
        Err(failure) if failure.is_unknown_request() => {
            shared.know_as_old();
            return Ok(());
        }
        paths => paths?,
    };
    for path in paths {
        if let Place::Instance(key) = shared.keys.place(&path)
            && !shared.registrations.knows(&key)
        {
            take_back_one(shared, link, key, &path).await?;
        }
    }
    Ok(())
}

async fn take_back_one(
    shared: &Arc<Shared>,
    link: &Link,
    key: InstanceKey,
    path: &str,
) -> Result<(), Failure> {
    let data = match link.call(link.client().get_data(path)).await {
        Err(Failure::Refused(zk::Error::NoNode | zk::Error::NoAuth)) => return Ok(()),
        read => read?.0,
    };
    // What can't be read is shown to nobody.
    if let Ok(content) = Content::decode(&key, &data)
        && shared.registrations.take_back(content.instance)
    {
        tracing::info!(%key, "taking back what nobody offers any more");
        // An error means that the handle is closed.
        let _closed = shared.tasks.spawn(registration::work(shared.clone(), key));
    }
    Ok(())
}
