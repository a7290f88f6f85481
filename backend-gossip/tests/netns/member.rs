//! A member's process: offers `web/NAME`, does what its standard input says, and prints all that it
//! sees, a line each:
//!
//! | line | means |
//! |---|---|
//! | `start 17` | its generation |
//! | `+ web/m1`, `~ web/m1`, `- web/m1` | an instance has come, changed, gone |
//! | `live`, `stale no other member is heard` | how far its view can be trusted |
//! | `m1 dead` | a member is in another state, in its table |
//! | `done` | the last command was carried out |

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tidings_api::{Change, Discovery, DiscoveryExt, Instance, Result, View};
use tidings_gossip::{GossipConfig, GossipDiscovery, MemberState};
use tokio::sync::mpsc;
use tokio::time::interval;

/// Time between two looks at the table of members; every state is there for longer, but for
/// suspicions refuted at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    if let Err(error) = runtime.unwrap().block_on(live(url)) {
        eprintln!("{error}");
        process::exit(1);
    }
}

async fn live(url: &str) -> Result<()> {
    let mut commands = commands();
    let member = GossipDiscovery::start(GossipConfig::from_url(&url.parse()?)?).await?;
    let identity = member.identity();
    println!("start {}", identity.generation.number());
    member
        .register(instance(&format!("web/{}", identity.name))?)
        .await?;
    let mut everything = member.watch_all().await?;
    let mut shown = View::unknown("nothing was seen yet");
    let mut table = BTreeMap::new();
    let mut looks = interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            view = everything.changed() => {
                let view = view?;
                print_difference(&shown, &view);
                shown = view;
            }
            _ = looks.tick() => {
                for info in member.members().await? {
                    print_state(&mut table, &info.identity.name, info.state);
                }
            }
            Some(command) = commands.recv() => {
                obey(&member, &command).await?;
                println!("done");
            }
        }
    }
}

/// Lines of the standard input. Where it ends, so does the process: who started it is gone.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(|line| line.ok()) {
            if sender.send(line).is_err() {
                break;
            }
        }
        process::exit(1);
    });
    receiver
}

async fn obey(member: &GossipDiscovery, command: &str) -> Result<()> {
    match command.split_once(' ') {
        Some(("register", key)) => {
            member.register(instance(key)?).await?;
        }
        Some(("deregister", key)) => {
            member.deregister(&key.parse()?).await?;
        }
        _ => panic!("not a command: {command}"),
    }
    Ok(())
}

fn instance(key: &str) -> Result<Instance> {
    let (service, id) = key.split_once('/').unwrap();
    Instance::new(service, "10.77.0.1:80")?.with_id(id)
}

fn print_difference(last: &View, view: &View) {
    for change in view.since(last) {
        let mark = match change {
            Change::Added(_) => '+',
            Change::Removed(_) => '-',
            _ => '~',
        };
        println!("{mark} {}", change.instance().key());
    }
    if view.is_live() && !last.is_live() {
        println!("live");
    } else if last.is_live() && !view.is_live() {
        println!("stale {}", view.freshness());
    }
}

fn print_state(table: &mut BTreeMap<Arc<str>, MemberState>, name: &Arc<str>, state: MemberState) {
    if table.insert(name.clone(), state) != Some(state) {
        let state = match state {
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Dead => "dead",
            MemberState::Left => "left",
        };
        println!("{name} {state}");
    }
}
