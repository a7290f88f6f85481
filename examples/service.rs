//! A service that registers itself and prints what it sees until Ctrl-C.
//!
//! In three terminals:
//!
//! ```text
//! cargo run --example service -- --service web --name web-1
//! cargo run --example service -- --service web --name web-2 --bind 127.0.0.1:0 --join 127.0.0.1
//! cargo run --example service -- --service db  --name db-1  --bind 127.0.0.1:0 --join 127.0.0.1
//! ```
//!
//! Then end one with Ctrl-C, or kill one with `kill -9`, and watch the others.
//!
//! On another backend nothing changes but the configuration, here a URL; with the features of several
//! backends one binary runs on each of them:
//!
//! ```text
//! cargo run --example service --features etcd,zk,consul -- --name web-1 --url etcd://127.0.0.1:2379/prod
//! cargo run --example service --features etcd,zk,consul -- --name web-1 --url zk://127.0.0.1:2181/services
//! cargo run --example service --features etcd,zk,consul -- --name web-1 --url consul://127.0.0.1:8500
//! ```

use std::net::SocketAddr;
use std::time::Instant;

use clap::Parser;
use tidings::gossip::GossipConfig;
use tidings::{Change, Config, DiscoveryExt, Instance, View};
use tokio::net::TcpListener;

/// Registers a service and prints what it sees until Ctrl-C
#[derive(Parser)]
struct Args {
    /// What clients look up
    #[arg(long, default_value = "web")]
    service: String,
    /// Name of this instance and member; one that stays the same over restarts is best
    #[arg(long)]
    name: String,
    /// Where to gossip, UDP and TCP; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7946")]
    bind: SocketAddr,
    /// Members to join, `host` or `host:port`
    #[arg(long, value_delimiter = ',')]
    join: Vec<String>,
    /// Any backend that is compiled in, instead of gossip at --bind: such as etcd://127.0.0.1:2379/prod
    #[arg(long, conflicts_with_all = ["bind", "join"])]
    url: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let start = Instant::now();

    let discovery = tidings::connect(args.config()?).await?;

    // What the service is for; here it only holds the port that it registers.
    let listener = TcpListener::bind((args.bind.ip(), 0)).await?;
    let address = listener.local_addr()?.to_string();
    let instance = Instance::new(args.service, address)?.with_id(args.name)?;
    let key = discovery.register(instance).await?;
    print(start, '*', &format!("registered {key}, Ctrl-C to leave"));

    let mut everything = discovery.watch_all().await?;
    let mut last = View::unknown("nothing was seen yet");
    loop {
        tokio::select! {
            view = everything.changed() => {
                let view = view?;
                print_difference(start, &last, &view);
                last = view;
            }
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
        }
    }
    discovery.close().await?;
    print(start, '*', "left");
    Ok(())
}

impl Args {
    /// The one place that knows which backend it is.
    fn config(&self) -> tidings::Result<Config> {
        if let Some(url) = &self.url {
            return url.as_str().try_into();
        }
        let mut config = GossipConfig::default();
        config.bind = self.bind;
        config.join = self.join.clone();
        config.name = Some(self.name.clone());
        config.try_into()
    }
}

fn print_difference(start: Instant, last: &View, view: &View) {
    if view.is_live() != last.is_live() {
        print(start, '!', &view.freshness().to_string());
    }
    for change in view.since(last) {
        let instance = change.instance();
        let text = format!(
            "{:<30} {:<22} {}",
            instance.key().to_string(),
            instance.address().to_string(),
            instance.health()
        );
        let mark = match change {
            Change::Added(_) => '+',
            Change::Removed(_) => '-',
            _ => '~',
        };
        print(start, mark, &text);
    }
}

/// One line of the timeline: `+` joined, `~` updated, `-` left, `!` how fresh the view is.
fn print(start: Instant, mark: char, text: &str) {
    println!("{:>9.3} s  {mark} {text}", start.elapsed().as_secs_f64());
}
