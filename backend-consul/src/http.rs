//! HTTP to one agent: requests with a token, answers with a limit.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tidings_api::{Error, ErrorKind, Result};
use tokio::time::timeout;

use crate::error::{error, late, unreachable};
use crate::{BACKEND, ConsulConfig};

mod connector;
use connector::Connector;

mod token;
use token::Token;

/// Longest answer that is read: some 40,000 instances with much metadata.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a connection may be idle before it is closed; below the two minutes or so after which
/// agents and what is between forget it.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long connecting may take, where the time limit of the request isn't shorter.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// The HTTP side of a handle.
pub(crate) struct Http {
    /// `None` once the handle is closed: dropping the client ends its connections and their tasks.
    client: RwLock<Option<Client<Connector, Full<Bytes>>>>,
    origin: String,
    agent: String,
    token: Token,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Http {
    pub(crate) fn new(config: &ConsulConfig) -> Result<Self> {
        let agent = config
            .agent_address()
            .map_err(|error| error.with_backend(BACKEND))?
            .to_string();
        let scheme = if config.uses_tls() { "https" } else { "http" };
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new());
        let client = builder.build(connector::build(config, CONNECT_TIME_MAX)?);
        Ok(Self {
            client: RwLock::new(Some(client)),
            origin: format!("{scheme}://{agent}"),
            agent,
            token: Token::new(config)?,
        })
    }

    /// Sends a request to `path_and_query` and reads the answer, all within `limit`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Reply> {
        let client = {
            let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
            client.clone().ok_or_else(Error::closed)?
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path_and_query}", self.origin));
        if let Some(token) = self.token.value() {
            request = request.header("x-consul-token", token);
        }
        let request = request
            .header("content-type", HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(|cause| {
                error(ErrorKind::Internal, "a request could not be made").with_source(cause)
            })?;
        let exchange = async {
            let answer = client
                .request(request)
                .await
                .map_err(|cause| unreachable(&self.agent, cause))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|cause| {
                    let message = format!("the answer of the agent at {} broke off", self.agent);
                    error(ErrorKind::Unavailable, format!("{message}: {cause}"))
                })?;
            Ok(Reply {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(late(&self.agent, limit)))
    }

    /// Reads the token's file again if it has changed. True if the token is another one now.
    pub(crate) fn reload_token(&self) -> bool {
        self.token.reload()
    }

    /// Ends all connections; every later request is an error.
    pub(crate) fn close(&self) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
