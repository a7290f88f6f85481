//! The few calls of Consul's HTTP API that a handle makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_api::{ErrorKind, Result};
use tokio::sync::Semaphore;

use crate::error::{error, is_unknown, nonsense, refused};
use crate::http::{Http, Reply};
use crate::{Consistency, ConsulConfig};

mod service;
pub(crate) use service::TaggedAddress;
pub(crate) use service::{
    Check, CheckStatus, CheckUpdate, Found, ServiceCheck, ServiceDefinition, Weights,
};

/// Requests under way at once, beside those that wait for a change. An agent serves registrations
/// one after the other: more would only wait there, until they are too late.
const REQUESTS_MAX: usize = 8;
/// Queries that wait for a change at once. An agent accepts 200 connections from one address by
/// default, and other processes of this machine have theirs.
pub(crate) const QUERIES_MAX: usize = 64;
/// Has an agent since Consul 1.10 ask the servers, instead of its own copy of a service: that knows
/// neither whether there is a leader nor, while it is filled again, what it had before.
const FROM_SERVERS: &str = "&near=_agent";
/// How much earlier than asked for a query may seem to have waited long enough: whole milliseconds
/// are sent, and another clock counts them.
const WAIT_SHORT_MAX: Duration = Duration::from_millis(100);
/// What a wait can be told apart by. No wait at all is a long one to Consul.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Lets waiting queries be told from dead ones: Consul adds up to a sixteenth of the wait.
const WAIT_JITTER_SHARE: u32 = 16;

/// The calls, with what the configuration adds to each.
pub(crate) struct Api {
    http: Http,
    limit: Duration,
    /// Parameters of every call.
    scope: String,
    /// Further parameters of calls that read the catalog for a watch.
    reading: String,
    requests: Semaphore,
    queries: Semaphore,
    sent: AtomicU64,
}

/// Where a query continues, and how long it waits there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) wait: Duration,
}

impl Position {
    /// The same, back as soon as a time has come. To let go of a query that waits is no way to be back:
    /// the agent goes on with it, and has a limited number of connections.
    pub(crate) fn back_at(mut self, time: Option<Instant>) -> Self {
        if let Some(time) = time {
            let left = time.saturating_duration_since(Instant::now());
            self.wait = self.wait.min(left + WAIT_MIN);
        }
        self
    }

    /// Whether a query from here that was answered with `index` was abandoned: the answer came before
    /// the wait was over, and without a change. A server does so with whatever waits on its catalog
    /// when it restores another one, and at no other time (`AbandonCh` in Consul's `blockingQuery`).
    pub(crate) fn is_abandoned(&self, index: u64, waited: Duration) -> bool {
        self.index > 0 && index == self.index && waited + WAIT_SHORT_MAX < self.wait
    }
}

/// An answer of the catalog.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// Where the next query continues; 0 where the answer doesn't say.
    pub(crate) index: u64,
    /// Why it can't be vouched for.
    pub(crate) doubt: Option<&'static str>,
    /// Something was left out for lack of permissions; known since Consul 1.11.
    withheld: bool,
    pub(crate) value: T,
}

/// Which catalog is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Catalog {
    /// That of the watched datacenter.
    Watched,
    /// That of the agent's own datacenter.
    Own,
}

impl Api {
    pub(crate) fn new(config: &ConsulConfig) -> Result<Self> {
        let mut scope = String::new();
        for (name, value) in [
            ("ns", &config.consul_namespace),
            ("partition", &config.partition),
        ] {
            if let Some(value) = value {
                parameter(&mut scope, name, value);
            }
        }
        let mut reading = String::new();
        if let Some(datacenter) = &config.datacenter {
            parameter(&mut reading, "dc", datacenter);
        }
        match config.consistency {
            Consistency::Default => {}
            Consistency::Consistent => reading.push_str("&consistent"),
            Consistency::Stale => reading.push_str("&stale"),
        }
        Ok(Self {
            http: Http::new(config)?,
            limit: config.request_timeout,
            scope,
            reading,
            requests: Semaphore::new(REQUESTS_MAX),
            queries: Semaphore::new(QUERIES_MAX),
            sent: AtomicU64::new(0),
        })
    }

    /// Number of requests sent since the start.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn reload_token(&self) -> bool {
        self.http.reload_token()
    }

    pub(crate) fn close(&self) {
        self.http.close();
    }

    /// Whether the servers have a leader: needs all of Consul to be well, and no permission. This
    /// and the next two are the pulse's, one at a time, and don't queue behind other requests.
    pub(crate) async fn leader(&self) -> Result<()> {
        let path = "/v1/status/leader?";
        let reply = self
            .send(Method::GET, path, Bytes::new(), self.limit)
            .await?;
        let leader: String = read("status/leader", &accepted(reply)?.body)?;
        if leader.is_empty() {
            return Err(error(ErrorKind::Unavailable, "the servers have no leader"));
        }
        Ok(())
    }

    /// The catalog's clock: the index of the newest change of any check. It goes backwards with a
    /// restored snapshot.
    pub(crate) async fn clock(&self) -> Result<u64> {
        // Of a node that isn't there, which makes the answer short.
        let path = format!("/v1/health/node/-?{}", self.scope);
        let reply = self
            .send(Method::GET, &path, Bytes::new(), self.limit)
            .await?;
        let answer: Answer<serde::de::IgnoredAny> = Answer::read(&accepted(reply)?)?;
        match answer.doubt {
            None => Ok(answer.index),
            Some(doubt) => Err(error(ErrorKind::Unavailable, doubt)),
        }
    }

    /// The identities of the servers, as far as the token may see them.
    pub(crate) async fn servers(&self) -> Result<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct Server {
            #[serde(rename = "ID", default)]
            id: String,
        }
        let path = format!("/v1/catalog/service/consul?{}", self.scope);
        let reply = self
            .send(Method::GET, &path, Bytes::new(), self.limit)
            .await?;
        let servers: Vec<Server> = read("catalog/service", &accepted(reply)?.body)?;
        let ids = servers.into_iter().map(|server| server.id);
        Ok(ids.filter(|id| !id.is_empty()).collect())
    }

    /// Registers a service at the agent, or replaces it together with its checks.
    pub(crate) async fn register(&self, service: &ServiceDefinition) -> Result<()> {
        let path = format!(
            "/v1/agent/service/register?replace-existing-checks=true{}",
            self.scope
        );
        let reply = self.ask(Method::PUT, &path, written(service)?).await?;
        accepted(reply).map(|_| ())
    }

    /// Takes a service from the agent. False if it wasn't there.
    pub(crate) async fn deregister(&self, id: &str) -> Result<bool> {
        let path = format!("/v1/agent/service/deregister/{id}?{}", self.scope);
        let reply = self.ask(Method::PUT, &path, Bytes::new()).await?;
        known(reply)
    }

    /// Reports how a check is. False if the agent doesn't know it.
    pub(crate) async fn update_check(&self, id: &str, update: &CheckUpdate<'_>) -> Result<bool> {
        let path = format!("/v1/agent/check/update/{id}?{}", self.scope);
        let reply = self.ask(Method::PUT, &path, written(update)?).await?;
        known(reply)
    }

    /// The instances of a service with their checks, whatever the case of its name, in any order;
    /// waits for a change after `position`.
    pub(crate) async fn health(
        &self,
        catalog: Catalog,
        service: &str,
        filter: Option<&str>,
        position: Position,
    ) -> Result<Answer<Vec<Box<RawValue>>>> {
        let mut path = self.query(catalog, &format!("/v1/health/service/{service}"), position);
        path.push_str(FROM_SERVERS);
        if let Some(filter) = filter {
            parameter(&mut path, "filter", filter);
        }
        self.wait(&path, position).await?.seen(Vec::is_empty)
    }

    /// The names of all services with their tags; waits for a change after `position`.
    pub(crate) async fn services(
        &self,
        position: Position,
    ) -> Result<Answer<BTreeMap<String, Option<Vec<String>>>>> {
        let path = self.query(Catalog::Watched, "/v1/catalog/services", position);
        self.wait(&path, position).await?.seen(BTreeMap::is_empty)
    }

    fn query(&self, catalog: Catalog, path: &str, position: Position) -> String {
        let mut path = format!("{path}?{}", self.scope);
        if catalog == Catalog::Watched {
            path.push_str(&self.reading);
        }
        if position.index > 0 {
            let millis = position.wait.as_millis();
            let _ = write!(path, "&index={}&wait={millis}ms", position.index);
        }
        path
    }

    /// A request that is answered at once.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Reply> {
        let _permit = self.requests.acquire().await;
        self.send(method, path, body, self.limit).await
    }

    /// A query that is answered when something changes.
    async fn wait<T: DeserializeOwned>(&self, path: &str, position: Position) -> Result<Answer<T>> {
        let limit = match position.index {
            0 => self.limit,
            _ => position.wait + position.wait / WAIT_JITTER_SHARE + self.limit,
        };
        let permits = if position.index == 0 {
            &self.requests
        } else {
            &self.queries
        };
        let reply = {
            let _permit = permits.acquire().await;
            self.send(Method::GET, path, Bytes::new(), limit).await?
        };
        Answer::read(&accepted(reply)?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Reply> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.http.send(method, path, body, limit).await
    }
}

impl<T: DeserializeOwned> Answer<T> {
    fn read(reply: &Reply) -> Result<Self> {
        let header = |name: &str| {
            let value = reply.headers.get(name)?;
            value.to_str().ok()
        };
        let index = header("x-consul-index").and_then(|text| text.parse().ok());
        let leaderless = header("x-consul-knownleader") == Some("false");
        Ok(Self {
            index: index.unwrap_or(0),
            doubt: leaderless.then_some("the servers have no leader"),
            withheld: header("x-consul-results-filtered-by-acls") == Some("true"),
            value: read("the catalog", &reply.body)?,
        })
    }

    /// This answer, unless there is nothing in it because the token may see nothing of it. A part
    /// may well be withheld: a token often sees but its own services.
    fn seen(self, is_empty: impl Fn(&T) -> bool) -> Result<Self> {
        if self.withheld && is_empty(&self.value) {
            return Err(error(
                ErrorKind::Denied,
                "the token may not see what is asked for",
            ));
        }
        Ok(self)
    }
}

fn accepted(reply: Reply) -> Result<Reply> {
    if reply.status.is_success() {
        return Ok(reply);
    }
    Err(refused(reply.status, &reply.body))
}

fn known(reply: Reply) -> Result<bool> {
    if is_unknown(reply.status, &reply.body) {
        return Ok(false);
    }
    accepted(reply).map(|_| true)
}

fn read<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|cause| nonsense(what, cause))
}

fn written(value: &impl Serialize) -> Result<Bytes> {
    let body = serde_json::to_vec(value);
    body.map(Bytes::from).map_err(|cause| {
        error(ErrorKind::Internal, "a request can't be written").with_source(cause)
    })
}

/// Adds `&name=value`, percent-encoded.
fn parameter(query: &mut String, name: &str, value: &str) {
    let _ = write!(query, "&{name}=");
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            let _ = write!(query, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded() {
        let mut query = String::from("/v1/x?");
        parameter(&mut query, "filter", "ID == \"a:b\"");
        assert_eq!(query, "/v1/x?&filter=ID%20%3D%3D%20%22a%3Ab%22");
    }

    #[test]
    fn a_query_that_returns_early_and_unchanged_was_abandoned() {
        let wait = Duration::from_secs(60);
        let position = Position { index: 7, wait };
        assert!(position.is_abandoned(7, wait / 2));
        assert!(!position.is_abandoned(7, wait));
        assert!(!position.is_abandoned(8, wait / 2));
        assert!(!Position { index: 0, wait }.is_abandoned(0, wait / 2));
        let wait = Duration::from_micros(53_456_900);
        let as_sent = Duration::from_millis(53_456);
        let position = Position { index: 7, wait };
        assert!(!position.is_abandoned(7, as_sent + Duration::from_micros(500)));
    }

    #[test]
    fn what_the_token_may_not_see_is_not_empty() {
        let answer = |body: &str, withheld: bool| {
            let mut headers = http::HeaderMap::new();
            if withheld {
                let name = "x-consul-results-filtered-by-acls";
                headers.insert(name, http::HeaderValue::from_static("true"));
            }
            let reply = Reply {
                status: http::StatusCode::OK,
                headers,
                body: Bytes::copy_from_slice(body.as_bytes()),
            };
            let answer: Answer<Vec<u8>> = Answer::read(&reply).unwrap();
            answer.seen(Vec::is_empty)
        };
        assert_eq!(answer("[]", true).unwrap_err().kind(), ErrorKind::Denied);
        assert!(answer("[]", false).unwrap().value.is_empty());
        assert_eq!(answer("[1]", true).unwrap().value, [1]);
    }

    #[test]
    fn a_query_carries_scope_consistency_and_position() {
        let config = ConsulConfig {
            consul_namespace: Some("team".into()),
            datacenter: Some("dc2".into()),
            consistency: Consistency::Stale,
            ..ConsulConfig::default()
        };
        let api = Api::new(&config).unwrap();
        let position = |index| Position {
            index,
            wait: Duration::from_secs(60),
        };
        assert_eq!(
            api.query(Catalog::Watched, "/v1/a", position(0)),
            "/v1/a?&ns=team&dc=dc2&stale"
        );
        assert_eq!(
            api.query(Catalog::Own, "/v1/a", position(7)),
            "/v1/a?&ns=team&index=7&wait=60000ms"
        );
    }
}
