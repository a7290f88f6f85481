//! A fleet that moves from one backend to another while a client looks it up all the time.
//!
//! Without a server, from one gossip cluster to another:
//!
//! ```text
//! cargo run --example move_fleet
//! ```
//!
//! Any other end is a URL away; the program is the same:
//!
//! ```text
//! cargo run --example move_fleet --features etcd -- --to 'etcd://127.0.0.1:2379/prod'
//! cargo run --example move_fleet --features etcd,zk -- --from 'zk://127.0.0.1:2181/services' --to 'etcd://127.0.0.1:2379/prod'
//! ```

use std::time::{Duration, Instant};

use clap::Parser;
use tidings::{Config, Discovery, DiscoveryExt, Instance, Migration, Phase, Watch};

/// Moves a fleet of three services and a client, in one process
#[derive(Parser)]
struct Args {
    /// Where the fleet is
    #[arg(
        long,
        default_value = "gossip://127.0.0.1:0?cluster=here&join=127.0.0.1:17946"
    )]
    from: String,
    /// Where it goes
    #[arg(
        long,
        default_value = "gossip://127.0.0.1:0?cluster=there&join=127.0.0.1:17947"
    )]
    to: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let start = Instant::now();

    let mut fleet = Vec::new();
    for number in 0..3 {
        let process = member(&args, &format!("web-{number}"), number == 0).await?;
        let instance = Instance::new("web", format!("10.0.0.{number}:80"))?;
        process
            .register(instance.with_id(format!("web-{number}"))?)
            .await?;
        fleet.push(process);
    }
    let client = member(&args, "client", false).await?;
    client.wait_for("web", 3).await?;
    let lookups = tokio::spawn(look_up(client.watch_service("web").await?));
    fleet.push(client);

    while fleet.iter().any(|process| process.plan().all != Phase::New) {
        for process in &fleet {
            let next = process.plan().all.toward(Phase::New);
            if process.set_phase(next).await.is_ok() {
                let name = process.status().registrations().keys().next().cloned();
                let who = name.map_or("client".to_owned(), |key| key.to_string());
                println!("{:>7.3} s  {who:<10} {next}", start.elapsed().as_secs_f64());
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("\n{}", fleet[3].report());
    lookups.abort();
    match lookups.await {
        Ok(missed) => println!("the client missed somebody: {missed}"),
        Err(_) => println!("the client saw all three, at every lookup"),
    }
    for process in &fleet {
        process.close().await?;
    }
    Ok(())
}

/// A process of the fleet, in the first phase. The first one is where the others join.
async fn member(args: &Args, name: &str, first: bool) -> tidings::Result<Migration> {
    let here = |url: &str, port: &str| match first {
        true => url.replace("127.0.0.1:0?", &format!("127.0.0.1:{port}?")),
        false => url.to_owned(),
    };
    let (from, to) = (here(&args.from, "17946"), here(&args.to, "17947"));
    let config = Config::from_toml(&format!(
        "[discovery.migration]\nfrom = '{from}'\nto = '{to}'\nname = '{name}'\nsteady = '2s'"
    ))?;
    tidings::connect_migration(config).await
}

/// Looks up until somebody is missing.
async fn look_up(watch: Watch) -> usize {
    while watch.view().healthy().count() == 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    watch.view().len()
}
