//! What is done to twelve members, and what has to be true afterwards.

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::lab::{Lab, MEMBERS, name, offer};
use crate::network::{Direction, FOLDER};
use crate::sandbox::is_long;

/// All scenarios, as tests are named.
pub(crate) const SCENARIOS: [(&str, fn()); 8] = [
    ("a_lossy_network_loses_nobody", lossy),
    ("a_partition_heals", || partition(Direction::Both)),
    ("members_that_hear_nobody_come_back", || {
        partition(Direction::In);
    }),
    ("members_that_nobody_hears_come_back", || {
        partition(Direction::Out);
    }),
    ("a_stopped_process_comes_back_and_accuses_nobody", stopped),
    (
        "a_killed_process_is_gone_at_once_and_its_restart_is_newer",
        killed,
    ),
    (
        "a_partition_heals_although_all_addresses_have_changed",
        moved,
    ),
    (
        "a_member_whose_network_comes_up_late_or_changes_is_found",
        late_network,
    ),
];

/// The larger and the smaller side of a partition.
const MOST: Range<usize> = 0..8;
const FEW: Range<usize> = 8..MEMBERS;

/// Share of packets lost each way.
const LOSS: f64 = 0.3;

/// How long what was dead is watched for coming back: some rounds of looking for lost members.
const WATCH: Duration = Duration::from_secs(6);

/// How long a fault lasts: at least until all its effects are there.
fn lasting(short: u64, long: u64) -> Duration {
    Duration::from_secs(if is_long() { long } else { short })
}

fn lossy() {
    let mut lab = Lab::start();
    lab.network.lose(LOSS);
    let begin = Instant::now();
    let mut gone = Vec::new();
    // While instances come and go.
    while begin.elapsed() < lasting(15, 120) {
        let (member, key) = (gone.len() % MEMBERS, format!("job/{}", gone.len()));
        lab.ask(member, &format!("register {key}"));
        lab.until("all show it", |lab| all(lab, |shows| shows(&key)));
        lab.ask(member, &format!("deregister {key}"));
        lab.until("nobody shows it", |lab| all(lab, |shows| !shows(&key)));
        gone.push((key, Instant::now()));
    }
    lab.repair(0..MEMBERS);
    lab.until_agreed(&lab.offers());
    assert!(gone.len() > 3, "{} changes", gone.len());
    lab.say(&format!("{} instances came and went", gone.len()));
    for (key, since) in gone {
        lab.assert_stayed_gone(0..MEMBERS, since, &key);
    }
    lab.assert_no_flap(begin, |_, _| false);
}

fn partition(direction: Direction) {
    let mut lab = Lab::start();
    lab.ask(1, "register db/of-most");
    lab.ask(9, "register db/of-few");
    let mut keys = lab.offers();
    keys.extend(["db/of-most", "db/of-few"].map(str::to_owned));
    lab.until_agreed(&keys);

    let begin = Instant::now();
    lab.cut(&FEW.collect::<Vec<_>>(), direction);
    lab.until("the larger side goes on without the smaller one", |lab| {
        MOST.clone().all(|observer| {
            FEW.clone()
                .all(|owner| !shows(lab, observer, &offer(owner)))
        })
    });
    lab.until("the smaller side knows that it is cut off", |lab| {
        FEW.clone().all(|observer| !lab.record(observer).is_live)
    });
    lab.say("the larger side goes on, the smaller one is stale");
    lab.ask(1, "deregister db/of-most");
    lab.ask(9, "deregister db/of-few");
    lab.ask(2, "register db/of-most-later");
    lab.ask(10, "register db/of-few-later");
    lab.pass(lasting(10, 120).saturating_sub(begin.elapsed()));
    for observer in MOST {
        let record = lab.record(observer);
        assert!(record.is_live && !record.shows.contains("db/of-few-later"));
        assert!(MOST.map(offer).all(|key| record.shows.contains(&key)));
    }
    for observer in FEW {
        let record = lab.record(observer);
        assert!(
            !record.is_live
                && (0..MEMBERS)
                    .map(offer)
                    .all(|key| record.shows.contains(&key))
        );
    }

    lab.assert_no_flap(begin, |observer, owner| {
        // Who hears the larger side without being heard is told there that its neighbours are dead.
        FEW.contains(&owner) && (MOST.contains(&observer) || direction == Direction::Out)
    });

    let healed = Instant::now();
    lab.repair(match direction {
        Direction::Both => 0..MEMBERS,
        Direction::In => FEW,
        Direction::Out => MOST,
    });
    let mut keys = lab.offers();
    keys.extend(["db/of-most-later", "db/of-few-later"].map(str::to_owned));
    lab.until_agreed(&keys);
    let agreed = Instant::now();
    lab.pass(WATCH);
    lab.until_agreed(&keys);
    lab.assert_stayed_gone(0..MEMBERS, healed, "db/of-most");
    // The others lost it with its owner, and may show it until they hear what was withdrawn since.
    lab.assert_stayed_gone(FEW, healed, "db/of-few");
    lab.assert_stayed_gone(MOST, agreed, "db/of-few");
    // When the sides meet, the smaller one hears that it is dead, and refutes.
    lab.assert_no_flap(begin, |_, owner| FEW.contains(&owner));
}

fn stopped() {
    const STOPPED: usize = 6;
    let mut lab = Lab::start();
    lab.ask(2, "register db/gone");
    lab.ask(STOPPED, "register db/kept");
    let mut keys = lab.offers();
    keys.extend(["db/gone", "db/kept"].map(str::to_owned));
    lab.until_agreed(&keys);

    let begin = Instant::now();
    lab.process(STOPPED).stop();
    lab.until("the process has stopped", |lab| {
        lab.process(STOPPED).is_stopped()
    });
    let others = || (0..MEMBERS).filter(|member| *member != STOPPED);
    lab.until("the others are without it", |lab| {
        others().all(|observer| !shows(lab, observer, &offer(STOPPED)))
    });
    lab.say(&format!(
        "the others are without {} after {:.1?}",
        name(STOPPED),
        begin.elapsed()
    ));
    lab.ask(2, "deregister db/gone");
    lab.pass(lasting(10, 30).saturating_sub(begin.elapsed()));
    assert!(lab.process(STOPPED).is_stopped());

    let resumed = Instant::now();
    lab.process(STOPPED).resume();
    keys.remove("db/gone");
    lab.until_agreed(&keys);
    lab.pass(WATCH);
    lab.until_agreed(&keys);
    lab.assert_stayed_gone(0..MEMBERS, resumed, "db/gone");
    lab.assert_no_flap(begin, |observer, owner| {
        owner == STOPPED && observer != STOPPED
    });
}

fn killed() {
    const KILLED: usize = 4;
    const REPLACED: usize = 7;
    let mut lab = Lab::start();
    let all = lab.offers();
    lab.ask(KILLED, "register db/of-the-dead");
    let mut keys = all.clone();
    keys.insert("db/of-the-dead".to_owned());
    lab.until_agreed(&keys);
    lab.until("it has written whom it knows", |_| {
        has_written_members(KILLED)
    });
    let generations = [KILLED, REPLACED].map(|member| lab.record(member).generation);

    let begin = Instant::now();
    lab.kill(KILLED);
    let killed = Instant::now();
    lab.until_agreed(&lab.offers());
    let last = |member| {
        lab.record(member)
            .last(&format!("- {}", offer(KILLED)))
            .unwrap()
    };
    let worst = lab.running().into_iter().map(last).max().unwrap() - killed;
    lab.say(&format!("gone everywhere {worst:.1?} after its end"));
    let gone = Instant::now();
    lab.pass(WATCH);
    lab.assert_stayed_gone(0..MEMBERS, gone, &offer(KILLED));
    lab.assert_stayed_gone(0..MEMBERS, gone, "db/of-the-dead");

    // Without seeds: it has kept whom it knew.
    lab.start_with(KILLED, &format!("state={FOLDER}"));
    lab.kill(REPLACED);
    lab.start_member(REPLACED);
    lab.until_agreed(&all);
    lab.pass(WATCH);
    lab.until_agreed(&all);
    lab.assert_stayed_gone(0..MEMBERS, gone, "db/of-the-dead");
    for (member, before) in [KILLED, REPLACED].into_iter().zip(generations) {
        assert!(lab.record(member).generation > before);
    }
    lab.assert_no_flap(begin, |_, owner| [KILLED, REPLACED].contains(&owner));
}

fn moved() {
    // A seed on each side.
    let inside: Vec<_> = (0..MEMBERS).step_by(2).collect();
    let mut lab = Lab::start();
    lab.cut(&inside, Direction::Both);
    lab.pass(lasting(2, 60));
    for member in 0..MEMBERS {
        lab.kill(member);
    }
    lab.repair(0..MEMBERS);
    lab.network.move_all();
    lab.cut(&inside, Direction::Both);
    // The seeds' names still lead to where nobody is.
    let (seeds, others) = ([0, 1], 2..MEMBERS);
    for member in others.clone() {
        lab.start_with(member, "join=seed-1.lab,seed-2.lab");
    }
    lab.until("they have started", |lab| {
        others
            .clone()
            .all(|member| !lab.record(member).shows.is_empty())
    });
    assert!(
        others.clone().all(|member| !lab.record(member).is_live),
        "whom have they joined?"
    );
    lab.name_seeds();
    for member in seeds {
        lab.start_with(member, "join=seed-1.lab,seed-2.lab");
    }
    let side = |member: usize| (0..MEMBERS).filter(move |other| other % 2 == member % 2);
    lab.until("each side has found itself", |lab| {
        (0..MEMBERS).all(|member| {
            let record = lab.record(member);
            record.is_live && record.shows == side(member).map(offer).collect()
        })
    });
    lab.say("each side has found itself");
    lab.pass(lasting(2, 60));
    // Nobody but the seeds is known to the other side.
    lab.repair(seeds);
    lab.until_agreed(&lab.offers());
}

fn late_network() {
    const LATE: usize = 9;
    let mut lab = Lab::start();
    let all = lab.offers();
    lab.kill(LATE);
    lab.until_agreed(&lab.offers());
    let begin = Instant::now();
    lab.network.unplug(LATE);
    lab.start_anywhere(LATE);
    lab.until("it has started", |lab| !lab.record(LATE).shows.is_empty());
    assert!(!lab.record(LATE).is_live, "whom has it joined?");
    lab.network.plug(LATE);
    lab.until_agreed(&all);
    // Its host gets another address. The old one is nobody's from then on.
    lab.network.unplug(LATE);
    lab.network.move_host(LATE);
    lab.until("it is found missing", |lab| {
        (0..LATE).all(|observer| !shows(lab, observer, &offer(LATE)))
    });
    lab.until_agreed(&all);
    lab.pass(WATCH);
    lab.until_agreed(&all);
    lab.assert_no_flap(begin, |observer, owner| owner == LATE || observer == LATE);
}

fn shows(lab: &Lab, observer: usize, key: &str) -> bool {
    lab.record(observer).shows.contains(key)
}

/// Whether something holds for what each member shows.
fn all(lab: &Lab, holds: impl Fn(&dyn Fn(&str) -> bool) -> bool) -> bool {
    lab.running()
        .into_iter()
        .all(|observer| holds(&|key| shows(lab, observer, key)))
}

fn has_written_members(member: usize) -> bool {
    let files = fs::read_dir(FOLDER).unwrap();
    let texts = files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok());
    let own = format!("\nname {}\n", name(member));
    texts
        .into_iter()
        .any(|text| text.contains(&own) && text.contains("\nmember "))
}
