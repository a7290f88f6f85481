//! Every change a watch reports, and waiting for conditions with a generous limit.

use std::sync::{Arc, Mutex};

use tidings_api::{Change, Discovery, DiscoveryExt, Health, Instance, InstanceKey, View, Watch};
use tokio::task::JoinHandle;

use crate::support::DEADLINE;
pub(crate) use crate::support::eventually;

/// What one handle's watch has shown of a service.
pub(crate) struct Recorder {
    watch: Watch,
    views: Arc<Mutex<Vec<View>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub(crate) async fn start(discovery: &dyn Discovery, service: &str) -> Self {
        let watch = discovery.watch_service(service).await.unwrap();
        let views = Arc::new(Mutex::new(vec![watch.view()]));
        let (mut reader, history) = (watch.clone(), views.clone());
        let task = tokio::spawn(async move {
            while let Ok(view) = reader.changed().await {
                history.lock().unwrap().push(view);
            }
        });
        Self { watch, views, task }
    }

    pub(crate) fn view(&self) -> View {
        self.watch.view()
    }

    /// Waits for a view.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut(&View) -> bool + Send) {
        let met = self.watch.clone();
        let mut met = met;
        let waited = tokio::time::timeout(DEADLINE, met.wait_until(condition)).await;
        assert!(
            matches!(waited, Ok(Ok(_))),
            "not seen in time: {what}; the view is {:?}",
            self.view()
        );
    }

    pub(crate) async fn until_live(&self) {
        self.until("a live view", View::is_live).await;
    }

    pub(crate) async fn until_stale(&self) {
        self.until("a stale view", |view| !view.is_live()).await;
    }

    /// Waits until the number in an instance's metadata is this one.
    pub(crate) async fn until_number(&self, id: &str, expected: u32) {
        let what = format!("{id} at {expected}");
        self.until(&what, |view| number(view, id) == Some(expected))
            .await;
    }

    /// Whether any view so far was stale: that an outage was noticed.
    pub(crate) fn was_stale(&self) -> bool {
        let views = self.views.lock().unwrap();
        views.iter().skip(1).any(|view| !view.is_live())
    }

    /// The changes so far of one instance: `+` added, `~` updated, `-` removed.
    pub(crate) fn changes_of(&self, id: &str) -> String {
        let views = self.views.lock().unwrap();
        let changes = views.windows(2).flat_map(|step| step[1].since(&step[0]));
        let of_id = changes.filter(|change| change.key().id().as_str() == id);
        of_id.map(|change| sign(&change)).collect()
    }

    /// Forgets what was recorded but for the newest view.
    pub(crate) fn restart(&self) {
        let mut views = self.views.lock().unwrap();
        let newest = views.len() - 1;
        views.drain(..newest);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn sign(change: &Change) -> char {
    match change {
        Change::Added(_) => '+',
        Change::Removed(_) => '-',
        _ => '~',
    }
}

/// An instance of `web` with a number by which its content is told.
pub(crate) fn web(id: &str, number: u32) -> Instance {
    instance("web", id, number)
}

pub(crate) fn instance(service: &str, id: &str, number: u32) -> Instance {
    Instance::new(service, "192.0.2.1:8080")
        .and_then(|instance| instance.with_id(id))
        .and_then(|instance| instance.with_metadata("n", number.to_string()))
        .unwrap()
}

pub(crate) fn key(id: &str) -> InstanceKey {
    web(id, 0).key().clone()
}

pub(crate) fn number(view: &View, id: &str) -> Option<u32> {
    view.get(&key(id))?.metadata().get("n")?.parse().ok()
}

/// Registers with a health, so that what comes back can be told to have kept it.
pub(crate) async fn register_sick(discovery: &dyn Discovery, id: &str, number: u32) {
    let key = discovery.register(web(id, number)).await.unwrap();
    discovery
        .health(&key, Health::warning("sick"))
        .await
        .unwrap();
}

pub(crate) fn is_sick(view: &View, id: &str) -> bool {
    view.get(&key(id))
        .is_some_and(|found| found.health() == &Health::warning("sick"))
}

pub(crate) async fn is_registered(discovery: &dyn Discovery, id: &str) {
    let key = key(id);
    eventually("the status says registered", async || {
        let status = discovery.status();
        status.registration(&key).is_some_and(|r| r.is_registered())
    })
    .await;
}

pub(crate) async fn is_superseded(discovery: &dyn Discovery, id: &str) {
    let key = key(id);
    eventually("the status says superseded", async || {
        let status = discovery.status();
        status.registration(&key).is_some_and(|r| r.is_superseded())
    })
    .await;
}
