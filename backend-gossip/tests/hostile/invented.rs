//! Members that don't exist.

use std::time::{Duration, Instant};

use tidings_gossip::wire::Message;

use crate::cluster::{Cluster, alive, frame, hostile_address, name};

const INVENTED: usize = 5_000;

/// Tells everybody of members at addresses where nothing answers.
fn invent(cluster: &mut Cluster, count: usize, at: impl Fn(usize) -> std::net::SocketAddr) {
    let invented: Vec<Message> = (0..count)
        .map(|number| alive(&format!("invented-{number}"), 1, 0, at(number)))
        .collect();
    for some in invented.chunks(500) {
        cluster.link_all(&frame(some));
    }
}

fn silent(number: usize) -> std::net::SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    ([10, 99, high, low], 7946).into()
}

#[test]
fn invented_members_keep_no_change_from_anybody() {
    let mut cluster = Cluster::new(6);
    let begin = Instant::now();
    invent(&mut cluster, INVENTED, silent);
    cluster.run(Duration::from_secs(1));
    let known = cluster.engines[1].members().count();
    assert!(known > INVENTED, "only {known} are known");
    for number in 0..20 {
        let owner = number % 6;
        cluster.register(owner, &format!("late-{number}"), 7);
        let id = format!("late-{number}");
        let took = cluster.run_until(Duration::from_secs(1), "everybody sees it", |cluster| {
            cluster.all_show(&id, 7)
        });
        assert!(took < Duration::from_millis(500), "{took:?}");
        cluster.run(Duration::from_secs(1));
        assert!(cluster.all_show_all(), "somebody has vanished");
    }
    for member in 0..6 {
        let freshness = cluster.engines[member].freshness();
        assert!(freshness.is_live(), "m{member}: {freshness}");
        assert_eq!(cluster.alive_at(member), 6, "m{member}");
    }
    println!(
        "{INVENTED} invented, 6 honest, 21 s: {:?} of CPU",
        begin.elapsed()
    );
}

#[test]
fn a_lost_host_is_noticed_among_invented_members() {
    let mut cluster = Cluster::new(6);
    invent(&mut cluster, INVENTED, silent);
    cluster.run(Duration::from_secs(5));
    cluster.silent.push(4);
    let gone = |cluster: &Cluster| {
        let mut running = cluster.running().into_iter();
        running.all(|member| {
            !cluster
                .shown(member)
                .contains_key(&crate::cluster::key("m4"))
        })
    };
    let took = cluster.run_until(Duration::from_secs(40), "it is gone", gone);
    println!("gone after {took:?} among {INVENTED} invented members");
    assert!(cluster.all_show_all(), "somebody else has vanished");
}

#[test]
fn many_members_at_one_address_are_one_at_most() {
    let mut cluster = Cluster::new(6);
    // It answers for all of them, from the one address it has.
    invent(&mut cluster, 500, |_| hostile_address());
    cluster.run(Duration::from_secs(5));
    cluster.register(2, "late", 7);
    cluster.run_until(Duration::from_secs(1), "everybody sees it", |cluster| {
        cluster.all_show("late", 7)
    });
    cluster.run(Duration::from_secs(60));
    assert!(cluster.all_show_all());
}

#[test]
fn invented_members_draw_a_bounded_flood_to_a_victim() {
    let mut cluster = Cluster::new(6);
    cluster.run(Duration::from_secs(5));
    cluster.bytes_to_others = 0;
    invent(&mut cluster, INVENTED, silent);
    cluster.run(Duration::from_secs(60));
    let each = cluster.bytes_to_others / 60 / 6;
    println!("{each} bytes/s from each member to those who don't exist");
    assert!(each < 20_000, "{each} bytes/s");
    assert_eq!(cluster.engines[0].identity().name.as_ref(), name(0));
}
