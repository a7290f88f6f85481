//! Keys change, and sealing begins and ends, while the cluster runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::tempdir;
use tidings_api::{Change, Changes, Discovery, DiscoveryExt, ErrorKind, Instance};
use tidings_gossip::{Gate, GossipDiscovery, KeyId, SealKey, SealMode};
use tokio::time::{interval, timeout};

use super::{LONG, assert_nobody_accused, cluster, config, instance, key, sealed, stats, until};

/// Does a step on all members, each as soon as the others are known to be ready for it.
async fn everywhere(
    members: &[Arc<GossipDiscovery>],
    step: impl AsyncFn(&GossipDiscovery) -> tidings_api::Result<()>,
) {
    for member in members {
        until("the step is allowed", async || match step(member).await {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::Denied => false,
            Err(error) => panic!("{error}"),
        })
        .await;
    }
}

async fn add(members: &[Arc<GossipDiscovery>], key: &SealKey) {
    everywhere(members, async |member| {
        member.keyring().add(key.clone()).await.map(drop)
    })
    .await;
}

async fn use_key(members: &[Arc<GossipDiscovery>], id: KeyId) {
    everywhere(members, async |member| {
        member.keyring().use_key(id, Gate::Check).await
    })
    .await;
}

async fn retire(members: &[Arc<GossipDiscovery>], id: KeyId) {
    everywhere(members, async |member| {
        member.keyring().retire(id, Gate::Check).await
    })
    .await;
}

async fn set_mode(members: &[Arc<GossipDiscovery>], mode: SealMode) {
    everywhere(members, async |member| {
        member.keyring().set_mode(mode, Gate::Check).await
    })
    .await;
}

async fn shared(members: Vec<GossipDiscovery>) -> Vec<Arc<GossipDiscovery>> {
    members.into_iter().map(Arc::new).collect()
}

/// Changes of the members in turn, 100 a second, each of which everybody has to see in the end.
struct Storm {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<u64>,
}

impl Storm {
    fn start(members: &[Arc<GossipDiscovery>]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let made = Arc::<AtomicU64>::default();
        let (members, stopped, count) = (members.to_vec(), stop.clone(), made.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(10));
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                number += 1;
                let member = &members[number as usize % members.len()];
                let name = member.identity().name;
                let changed = instance(&name).with_metadata("number", number.to_string());
                member.register(changed.unwrap()).await.unwrap();
                count.store(number, Ordering::Relaxed);
            }
            number
        });
        Self { stop, made, task }
    }

    /// Waits for so many more changes; a hundred take a second.
    async fn until_more(&self, more: u64) {
        let enough = self.made.load(Ordering::Relaxed) + more;
        until("there are more changes", async || {
            self.made.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// Ends it, and answers how many changes there were.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// What a watch saw from its start on: an instance that is removed was lost on the way.
async fn watched(members: &[Arc<GossipDiscovery>]) -> Vec<Changes> {
    let mut watched = Vec::new();
    for member in members {
        timeout(LONG, member.wait_for("web", members.len()))
            .await
            .unwrap()
            .unwrap();
        watched.push(member.watch_service("web").await.unwrap().into_changes());
    }
    watched
}

async fn assert_all_seen(members: &[Arc<GossipDiscovery>], last: u64, watched: Vec<Changes>) {
    let numbers = |view: &tidings_api::View| -> Vec<u64> {
        let number = |instance: &Arc<Instance>| instance.metadata()["number"].parse().unwrap();
        let mut numbers: Vec<_> = view.iter().map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    let expected: Vec<_> = (last + 1 - members.len() as u64..=last).collect();
    for member in members {
        until("everybody has the last of everybody", async || {
            let view = member.resolve("web").await.unwrap();
            view.is_live() && numbers(&view) == expected
        })
        .await;
    }
    for mut changes in watched {
        while let Ok(Some(change)) = timeout(Duration::ZERO, changes.next()).await {
            assert!(!matches!(change, Change::Removed(_)), "{change:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_100_changes_a_second_and_nothing_is_lost_and_nobody_accused() {
    const ROTATIONS: u8 = 5;
    const CHANGES_PER_STEP: u64 = 20;
    let members = shared(cluster(5, sealed).await).await;
    for member in &members {
        let name = member.identity().name;
        let first = instance(&name).with_metadata("number", "0").unwrap();
        member.register(first).await.unwrap();
    }
    let watched = watched(&members).await;
    let storm = Storm::start(&members);
    let started = std::time::Instant::now();
    for number in 1..=ROTATIONS {
        let (old, new) = (key(number), key(number + 1));
        // Under changes, each step: what is sealed with the old key is on its way when it is taken.
        add(&members, &new).await;
        storm.until_more(CHANGES_PER_STEP).await;
        use_key(&members, new.id()).await;
        storm.until_more(CHANGES_PER_STEP).await;
        retire(&members, old.id()).await;
        storm.until_more(CHANGES_PER_STEP).await;
    }
    let last = storm.stop().await;
    assert!(
        last >= 3 * u64::from(ROTATIONS) * CHANGES_PER_STEP,
        "{last} changes"
    );
    println!(
        "{ROTATIONS} rotations, {last} changes, {:?}",
        started.elapsed()
    );
    assert_all_seen(&members, last, watched).await;
    for member in &members {
        let engine = member.stats().await.unwrap();
        let seal = engine.seal;
        assert_eq!((engine.engine.suspicions, engine.engine.deaths), (0, 0));
        let dropped = [
            seal.unknown_key,
            seal.forged,
            seal.replayed,
            seal.late,
            seal.unsealed,
        ];
        assert_eq!(dropped, [0; 5], "{seal:?}");
        let report = member.keyring().report().await.unwrap();
        assert_eq!(report.using(key(ROTATIONS + 1).id()).count(), 5, "{report}");
        assert_eq!(report.lacking(key(1).id()).count(), 5, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_cluster_is_sealed_and_rekeyed_and_opened_again_without_downtime() {
    let members = shared(cluster(4, config).await).await;
    for member in &members {
        let name = member.identity().name;
        let first = instance(&name).with_metadata("number", "0").unwrap();
        member.register(first).await.unwrap();
    }
    let watched = watched(&members).await;
    let storm = Storm::start(&members);

    add(&members, &key(1)).await;
    assert_eq!(
        stats(&members[0]).await.sealed,
        0,
        "accepting seals nothing yet"
    );
    set_mode(&members, SealMode::Send).await;
    set_mode(&members, SealMode::Required).await;
    let sealed = stats(&members[0]).await;
    until("what is sealed is opened", async || {
        let now = stats(&members[0]).await;
        now.opened > sealed.opened + 50 && now.sealed > sealed.sealed + 50
    })
    .await;

    add(&members, &key(2)).await;
    use_key(&members, key(2).id()).await;
    retire(&members, key(1).id()).await;

    set_mode(&members, SealMode::Send).await;
    set_mode(&members, SealMode::Accept).await;
    set_mode(&members, SealMode::Off).await;
    let last = storm.stop().await;
    assert_all_seen(&members, last, watched).await;
    for member in &members {
        let stats = member.stats().await.unwrap();
        assert_eq!(
            (stats.engine.suspicions, stats.engine.deaths),
            (0, 0),
            "{stats:?}"
        );
        let report = member.keyring().report().await.unwrap();
        assert!(
            report.members().iter().all(|keys| keys.holds.is_empty()),
            "{report}"
        );
    }
}

#[tokio::test]
async fn steps_that_would_part_members_are_refused_with_their_names() {
    let members = cluster(3, |join| {
        let mut config = sealed(join);
        config.seal = Some(SealMode::Send);
        config
    })
    .await;
    let (first, second) = (members[0].keyring(), members[1].keyring());
    let name = |at: usize| members[at].identity().name.to_string();
    let new = first.add(key(2)).await.unwrap();
    second.add(key(2)).await.unwrap();
    until("the others are heard of", async || {
        let report = first.report().await.unwrap();
        report.lacking(new).count() == 1
    })
    .await;
    let error = first.use_key(new, Gate::Check).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let text = error.to_string();
    assert_eq!(
        text,
        format!(
            "gossip: use key {new}: 1 of 3 members don't have the key: {}",
            name(2)
        )
    );

    members[2].keyring().add(key(2)).await.unwrap();
    until("it is allowed", async || {
        first.use_key(new, Gate::Check).await.is_ok()
    })
    .await;
    let error = first.retire(key(1).id(), Gate::Check).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("2 of 3 members still seal with it"),
        "{error}"
    );
    let error = first.retire(new, Gate::Override).await.unwrap_err();
    assert!(error.to_string().contains("use another first"), "{error}");
    let error = second.set_mode(SealMode::Accept, Gate::Check).await;
    error.expect("all hear unsealed frames");
    until("it is heard of", async || {
        let error = first.set_mode(SealMode::Required, Gate::Check).await;
        error.is_err_and(|error| error.to_string().contains("1 of 3 members don't seal yet"))
    })
    .await;
    assert_nobody_accused(&members).await;
    println!("{}", first.report().await.unwrap());
}

#[tokio::test]
async fn a_changed_key_file_is_followed_without_a_restart() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("keys");
    let write = |keys: &[SealKey]| {
        let lines: String = keys
            .iter()
            .map(|key| format!("{}\n", *key.expose()))
            .collect();
        // Replaced as a whole, as secrets that are mounted are.
        let new = folder.path().join("new");
        std::fs::write(&new, lines).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    write(&[key(1)]);
    let members = cluster(3, |join| {
        let mut config = config(join);
        config.keys_file = Some(path.clone());
        config
    })
    .await;
    for keys in [&[key(1), key(2)][..], &[key(2), key(1)], &[key(2)]] {
        write(keys);
        let ids: Vec<_> = keys.iter().map(SealKey::id).collect();
        // One is told, the others look for themselves.
        members[0].keyring().reload().await.unwrap();
        for member in &members {
            until("everybody has the keys of the file", async || {
                let report = member.keyring().report().await.unwrap();
                report.members().iter().all(|keys| keys.holds == ids)
            })
            .await;
        }
    }
    let error = members[0].keyring().add(key(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        error
            .to_string()
            .contains("the keys are those of keys_file"),
        "{error}"
    );
    std::fs::write(&path, "no key").unwrap();
    members[0].keyring().reload().await.unwrap_err();
    assert_nobody_accused(&members).await;
    members[1].register(instance("a")).await.unwrap();
    timeout(LONG, members[0].wait_for("web", 1))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_a_member_holds_is_reported_by_all_also_by_who_joins_later() {
    let members = cluster(2, sealed).await;
    members[0].keyring().add(key(2)).await.unwrap();
    let late = GossipDiscovery::start(sealed(&[members[1].local_addr()]))
        .await
        .unwrap();
    let name = members[0].identity().name;
    until("it is reported", async || {
        let report = late.keyring().report().await.unwrap();
        let of_first = report.members().iter().find(|keys| keys.name == name);
        of_first.is_some_and(|keys| {
            keys.uses == Some(key(1).id())
                && keys.holds == [key(1).id(), key(2).id()]
                && keys.mode == SealMode::Required
        })
    })
    .await;
}
