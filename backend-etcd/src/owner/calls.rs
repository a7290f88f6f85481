//! What an owner asks etcd about its key, and writes there.

use std::sync::Arc;

use etcd_client::KeyValue;
use tidings_api::Instance;

use super::Owner;
use crate::error::Fault;
use crate::value::Stored;
use crate::writes::{Write, Written};

/// One value of this handle in etcd.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    pub(super) revision: i64,
    pub(super) lease: i64,
    pub(super) value: Vec<u8>,
}

impl Owner {
    pub(super) async fn put(
        &mut self,
        expected: i64,
        value: &[u8],
        lease: i64,
    ) -> Result<Written, Fault> {
        let value = value.to_vec();
        self.write(expected, Write::Put { value, lease }).await
    }

    pub(super) async fn delete(&mut self, expected: i64) -> Result<Written, Fault> {
        self.write(expected, Write::Delete).await
    }

    /// Writes if the key was last written at revision `expected` (0: if it isn't there), and reads
    /// it otherwise.
    async fn write(&mut self, expected: i64, write: Write) -> Result<Written, Fault> {
        let writes = &self.context.writes;
        let answer = writes.write(self.raw.clone(), expected, write).await;
        self.uncertain |= answer.is_uncertain;
        answer.written
    }

    /// Deletes the key whatever stands there; returns at which revision.
    pub(super) async fn delete_unseen(&self) -> Result<i64, Fault> {
        let raw = &self.raw;
        let deleted = self.context.link.call(|client| {
            let (mut kv, raw) = (client.kv_client(), raw.clone());
            async move { kv.delete(raw, None).await }
        });
        let answer = deleted.await?;
        let header = answer.header();
        Ok(header.map_or(0, etcd_client::ResponseHeader::revision))
    }

    /// What stands under the key, and at which revision that was read.
    pub(super) async fn get(&self) -> Result<(Option<KeyValue>, i64), Fault> {
        let _permit = self.context.reads.acquire().await;
        let raw = &self.raw;
        let mut answer = self
            .context
            .link
            .call(|client| {
                let (mut kv, raw) = (client.kv_client(), raw.clone());
                async move { kv.get(raw, None).await }
            })
            .await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok((answer.take_kvs().pop(), revision))
    }

    pub(super) fn value(&self, instance: &Arc<Instance>, left: bool) -> Vec<u8> {
        let stored = Stored {
            instance: Instance::clone(instance),
            owner: Some(self.context.handle.clone()),
            left,
            unknown: self.unknown.clone(),
        };
        stored.write()
    }

    pub(super) fn is_own(&self, kv: &KeyValue) -> bool {
        Stored::read(&self.slot.key, kv.value())
            .is_ok_and(|stored| stored.owner.as_ref() == Some(&self.context.handle))
    }
}

impl From<&KeyValue> for Known {
    fn from(kv: &KeyValue) -> Self {
        Self {
            revision: kv.mod_revision(),
            lease: kv.lease(),
            value: kv.value().to_vec(),
        }
    }
}
