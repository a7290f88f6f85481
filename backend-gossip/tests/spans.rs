//! Whose a line of the log is, and when: the spans in which members work.

#![allow(clippy::unwrap_used, reason = "a test ends where a step fails")]

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidings_api::{Discovery, DiscoveryExt};
use tidings_gossip::{GossipConfig, GossipDiscovery};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// How long anything may take before the test fails; far above what it takes.
const LONG: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A subscriber of one thread sees what the members on it say.
#[tokio::test(flavor = "current_thread")]
async fn several_members_in_one_process_can_be_told_apart() {
    let (seen, guard) = Seen::up_to(LevelFilter::TRACE);
    let a = member("a", &[]).await;
    let b = member("b", &[a.local_addr()]).await;
    b.register_at("web", "10.0.0.7:80").await.unwrap();
    a.wait_for("web", 1).await.unwrap();
    b.close().await.unwrap();
    until("a hears it", || {
        seen.said(&["member cluster=tidings name=a"], "member has left")
    })
    .await;
    a.close().await.unwrap();

    let (of_a, of_b) = (
        "member cluster=tidings name=a",
        "member cluster=tidings name=b",
    );
    for line in seen.lines() {
        let owners = line
            .spans
            .iter()
            .filter(|span| **span == of_a || **span == of_b);
        assert_eq!(owners.count(), 1, "whose is {line:?}?");
    }
    assert!(seen.said(&[of_a], "member is alive name=b"));
    assert!(seen.said(&[of_b], "member is alive name=a"));
    assert!(!seen.said(&[of_a], "member is alive name=a"));
    for span in ["join seeds=1", "leave"] {
        assert!(seen.closed(&[of_b, span]), "{span}: {:?}", seen.closed);
    }
    assert!(seen.closed(&[of_a, "join seeds=0"]), "{:?}", seen.closed);
    // The link by which one has joined through the other, seen from both ends.
    let opened = format!("opened=true peer={}", a.local_addr());
    assert!(seen.said(&[of_b, "link id=1", &opened], "link carries frames"));
    assert!(seen.said(
        &[of_a, "link id=1", "opened=false peer=127.0.0.1"],
        "link carries frames"
    ));
    assert!(seen.closed(&[of_b, "link id=1"]) && seen.closed(&[of_a, "link id=1"]));
    drop(guard);
}

#[tokio::test(flavor = "current_thread")]
async fn a_warning_says_whose_it_is_where_nothing_else_is_let_through() {
    let (seen, guard) = Seen::up_to(LevelFilter::WARN);
    let seed = member("seed", &[]).await;
    let a = member("same", &[seed.local_addr()]).await;
    // Later, and under the same name: the first one gives way.
    let b = member("same", &[seed.local_addr()]).await;
    let taken = "another member has this name";
    until("it is said", || {
        seen.said(&["member cluster=tidings name=same"], taken)
    })
    .await;
    assert!(seen.lines().iter().all(|line| line.spans.len() == 1));
    drop((seed, a, b, guard));
}

async fn member(name: &str, join: &[SocketAddr]) -> GossipDiscovery {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.name = Some(name.to_owned());
    config.join = join.iter().map(ToString::to_string).collect();
    config.join_wait = LONG;
    // Whatever the application is doing when it starts one is over long before the member is.
    let request = tracing::error_span!("request");
    let _entered = request.enter();
    GossipDiscovery::start(config).await.unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(POLL).await;
    }
}

/// What was said, and in which spans; the spans that have ended, with those around them.
#[derive(Clone, Debug, Default)]
struct Seen {
    lines: Arc<Mutex<Vec<Line>>>,
    closed: Arc<Mutex<Vec<Vec<String>>>>,
}

#[derive(Clone, Debug)]
struct Line {
    /// The outermost first; each with its fields.
    spans: Vec<String>,
    /// The message and the fields.
    text: String,
}

impl Seen {
    fn up_to(level: LevelFilter) -> (Self, DefaultGuard) {
        let seen = Self::default();
        let subscriber = Registry::default().with(seen.clone().with_filter(level));
        (seen, set_default(subscriber))
    }

    fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// Whether something was said in these spans, among them at least.
    fn said(&self, spans: &[&str], text: &str) -> bool {
        let lines = self.lines();
        let mut of_it = lines.iter().filter(|line| line.text.starts_with(text));
        of_it.any(|line| are_in(spans, &line.spans))
    }

    fn closed(&self, spans: &[&str]) -> bool {
        let closed = self.closed.lock().unwrap();
        closed.iter().any(|around| are_in(spans, around))
    }
}

fn are_in(parts: &[&str], spans: &[String]) -> bool {
    parts
        .iter()
        .all(|part| spans.iter().any(|span| span.contains(part)))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut text = Text(attributes.metadata().name().to_owned());
        attributes.record(&mut text);
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(text);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !event.metadata().target().starts_with("tidings") {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let scope = context.event_scope(event).into_iter();
        let spans = scope.flat_map(|scope| scope.from_root());
        let spans = spans.map(|span| span.extensions().get::<Text>().unwrap().0.clone());
        let (spans, text) = (spans.collect(), text.0.trim_start().to_owned());
        self.lines.lock().unwrap().push(Line { spans, text });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let scope = context.span_scope(&id).unwrap().from_root();
        let spans = scope.map(|span| span.extensions().get::<Text>().unwrap().0.clone());
        self.closed.lock().unwrap().push(spans.collect());
    }
}

/// Name and fields, in the order in which they come; the message first.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = &mut self.0;
        match field.name() {
            "message" => *text = format!("{value:?}{text}"),
            name => *text = format!("{text} {name}={value:?}"),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
