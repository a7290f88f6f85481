//! What is said about honest members and isn't so.

use std::time::Duration;

use tidings_gossip::Identity;
use tidings_gossip::wire::Message;
use tidings_gossip::wire::message::{Accuse, Verdict};

use crate::cluster::{Cluster, alive, frame, hostile_address, id, name};

/// The largest counters that are heard.
const COUNTER_MAX: u64 = 1 << 60;

fn accuse(cluster: &Cluster, member: usize, verdict: Verdict, above: u64) -> Message {
    let engine = &cluster.engines[member];
    Message::Accuse(Accuse {
        member: tidings_gossip::wire::member_hash(&engine.identity().name),
        generation: engine.identity().generation.number(),
        incarnation: engine.incarnation() + above,
        verdict,
        accusers: vec![1, 2, 3, 4, 5, 6, 7, 8],
        refused: 8,
    })
}

/// Says something of everybody to everybody, ten times a second for ten seconds; answers how often, of
/// looks in between, somebody was missing somewhere.
fn for_ten_seconds(
    cluster: &mut Cluster,
    say: impl Fn(&Cluster, usize) -> Message,
) -> (usize, usize) {
    let (mut missing, mut looks) = (0, 0);
    for _ in 0..100 {
        let said: Vec<_> = (0..6).map(|member| say(cluster, member)).collect();
        cluster.link_all(&frame(&said));
        for _ in 0..10 {
            cluster.run(Duration::from_millis(10));
            looks += 1;
            missing += usize::from(!cluster.all_show_all());
        }
    }
    (missing, looks)
}

#[test]
fn forged_deaths_of_everybody_are_refuted_at_once() {
    for verdict in [Verdict::Suspect, Verdict::Dead, Verdict::Left] {
        let mut cluster = Cluster::new(6);
        let say = |cluster: &Cluster, member| accuse(cluster, member, verdict, 0);
        let (missing, looks) = for_ten_seconds(&mut cluster, say);
        println!("{verdict:?} ten times a second: somebody missing in {missing} of {looks} looks");
        let took = cluster.run_until(
            Duration::from_secs(2),
            "all are back",
            Cluster::all_show_all,
        );
        println!("… and back {took:?} later");
        for member in 0..6 {
            assert_eq!(cluster.alive_at(member), 6, "m{member}");
        }
        cluster.register(3, "late", 7);
        cluster.run_until(
            Duration::from_secs(1),
            "a change gets everywhere",
            |cluster| cluster.all_show("late", 7),
        );
    }
}

#[test]
fn absurd_counters_end_nobody() {
    for above in [1, 1_000, COUNTER_MAX - 10, COUNTER_MAX, u64::MAX - 10] {
        let mut cluster = Cluster::new(6);
        let said: Vec<_> = (0..6)
            .map(|member| accuse(&cluster, member, Verdict::Left, above))
            .collect();
        cluster.link_all(&frame(&said));
        cluster.run(Duration::from_millis(100));
        let took = cluster.run_until(
            Duration::from_secs(5),
            "all are back",
            Cluster::all_show_all,
        );
        println!("incarnation + {above}: back after {took:?} more");
        cluster.run(Duration::from_secs(30));
        assert!(cluster.all_show_all());
    }
}

#[test]
fn ever_rising_words_for_others_cost_a_bounded_storm() {
    let mut cluster = Cluster::new(6);
    let sent = |cluster: &Cluster| -> u64 {
        let stats = cluster.engines.iter().map(|engine| engine.stats());
        stats.map(|stats| stats.datagrams_out).sum()
    };
    let before = sent(&cluster);
    let say = |cluster: &Cluster, member: usize| {
        let engine = &cluster.engines[member];
        let Identity {
            name,
            generation,
            address,
        } = engine.identity();
        alive(
            name,
            generation.number(),
            engine.incarnation() + 1_000,
            *address,
        )
    };
    let (missing, looks) = for_ten_seconds(&mut cluster, say);
    let each = (sent(&cluster) - before) / 10 / 6;
    println!("missing in {missing} of {looks} looks; {each} datagrams/s of each member");
    assert_eq!(missing, 0);
    assert!(each < 1_000, "{each} datagrams a second");
}

#[test]
fn stolen_names_are_given_up_a_bounded_number_of_times() {
    let mut cluster = Cluster::new(6);
    let say = |cluster: &Cluster, member: usize| {
        let identity = cluster.engines[member].identity();
        let newer = identity.generation.number() + 1;
        alive(&identity.name, newer, 0, hostile_address())
    };
    let (missing, looks) = for_ten_seconds(&mut cluster, say);
    println!(
        "{} renamed; missing in {missing} of {looks} looks",
        cluster.renamed
    );
    assert!(cluster.renamed <= 6 * 12, "{} times", cluster.renamed);
    // The thief falls silent; whoever has no name of its own left takes another.
    let took = cluster.run_until(
        Duration::from_secs(60),
        "all are back",
        Cluster::all_show_all,
    );
    println!("all are back {took:?} after the last theft");
    cluster.register(3, "late", 7);
    cluster.run_until(
        Duration::from_secs(2),
        "a change gets everywhere",
        |cluster| cluster.all_show("late", 7),
    );
    assert_ne!(id(0), id(1));
    assert!(cluster.engines[0].identity().name.starts_with(&name(0)));
}
