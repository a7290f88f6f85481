//! A process that may open less than a member accepts.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tidings_api::{Discovery, DiscoveryExt, Instance};
use tidings_gossip::{GossipConfig, GossipDiscovery};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const TEST: &str = "descriptors::silent_connections_leave_some";
/// Set where this binary is the member.
const MEMBER: &str = "TIDINGS_FLOOD_MEMBER";
const DESCRIPTORS: usize = 256;
const LONG: Duration = Duration::from_secs(30);

#[test]
fn silent_connections_leave_some() {
    if std::env::var_os(MEMBER).is_some() {
        return be_the_member();
    }
    let mut member = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(MEMBER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Member)
        .unwrap();
    let mut said = BufReader::new(member.0.stdout.take().unwrap()).lines();
    let target = said.find_map(|line| Some(line.unwrap().strip_prefix("member at ")?.to_owned()));
    let target: SocketAddr = target.unwrap().parse().unwrap();

    let silent: Vec<_> = (0..2 * DESCRIPTORS)
        .map(|_| TcpStream::connect_timeout(&target, LONG).unwrap())
        .collect();
    Runtime::new().unwrap().block_on(async {
        // What is offered there it is told over a link alone.
        let honest = start(vec![target.to_string()]).await;
        let told = timeout(LONG, honest.wait_for("web", 1)).await;
        told.expect("no link gets in").unwrap();
        honest.close().await.unwrap();
    });
    drop(member.0.stdin.take());
    let opened = said.any(|line| line.unwrap() == "a file was opened");
    assert!(opened, "nothing is left to the application");
    drop(silent);
}

fn be_the_member() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(DESCRIPTORS as u64);
    setrlimit(Resource::Nofile, limit).unwrap();
    Runtime::new().unwrap().block_on(async {
        let member = start(Vec::new()).await;
        let web = Instance::new("web", "10.0.0.7:1").unwrap();
        member.register(web).await.unwrap();
        println!("\nmember at {}", member.local_addr());
        let end = tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new()));
        end.await.unwrap().unwrap();
        File::open(std::env::current_exe().unwrap()).unwrap();
        println!("\na file was opened");
        member.close().await.unwrap();
    });
}

async fn start(join: Vec<String>) -> GossipDiscovery {
    let mut config = GossipConfig::default();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.join = join;
    config.join_wait = LONG;
    GossipDiscovery::start(config).await.unwrap()
}

struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
