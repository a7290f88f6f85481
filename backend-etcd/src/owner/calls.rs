//! What an owner asks etcd about its key, and writes there.

use std::sync::Arc;

use etcd_client::{
    Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tidings_api::Instance;
use tokio::time::Instant;

use super::Owner;
use crate::error::Fault;
use crate::value::Stored;

/// One value of this handle in etcd.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    pub(super) revision: i64,
    pub(super) lease: i64,
    pub(super) value: Vec<u8>,
}

/// What a transaction on the key answered.
pub(super) enum Written {
    /// It is written, at this revision.
    At(i64),
    /// Nothing is written: this stands there.
    Found(Option<KeyValue>),
}

impl Owner {
    pub(super) async fn write(
        &mut self,
        expected: i64,
        value: &[u8],
        lease: i64,
    ) -> Result<Written, Fault> {
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(self.raw.clone(), value, Some(options));
        self.transaction(expected, put).await
    }

    /// Does `operation` if the key was last written at revision `expected` (0: if it isn't there),
    /// and reads it otherwise. It may arrive more than once: the second time it only reads.
    pub(super) async fn transaction(
        &mut self,
        expected: i64,
        operation: TxnOp,
    ) -> Result<Written, Fault> {
        let raw = &self.raw;
        let unchanged = Compare::mod_revision(raw.clone(), CompareOp::Equal, expected);
        let txn = Txn::new()
            .when([unchanged])
            .and_then([operation])
            .or_else([TxnOp::get(raw.clone(), None)]);
        let _permit = self.context.writes.acquire().await;
        let sent = Instant::now();
        let answer = self
            .context
            .link
            .call(|client| {
                let (mut kv, txn) = (client.kv_client(), txn.clone());
                async move { kv.txn(txn).await }
            })
            .await;
        // Some try may have got no answer, though the last one did.
        self.uncertain |= sent.elapsed() >= self.context.link.timing().answer
            || matches!(answer, Err(Fault::Unreachable(_)));
        Ok(Written::from(answer?))
    }

    /// What stands under the key, and at which revision that was read.
    pub(super) async fn get(&self) -> Result<(Option<KeyValue>, i64), Fault> {
        let _permit = self.context.writes.acquire().await;
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

impl From<TxnResponse> for Written {
    fn from(answer: TxnResponse) -> Self {
        if answer.succeeded() {
            let header = answer.header();
            return Self::At(header.map_or(0, etcd_client::ResponseHeader::revision));
        }
        let found = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
            _ => None,
        });
        Self::Found(found)
    }
}
