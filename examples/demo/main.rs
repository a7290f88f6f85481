//! What Tidings is for, in a few seconds: service processes that find each other without a server,
//! one of them killed, one leaving politely, one coming back.
//!
//! ```text
//! cargo run --example demo
//! ```
//!
//! Every service is a process of its own (this program, started again), and the demo is one more
//! member of their cluster. Each step is timed until the last of all views shows it, and printed
//! next to the bound that `status().bounds()` promises. A step that takes longer, or doesn't happen
//! at all, makes the demo fail.

mod cluster;
mod service;

use std::error::Error;
use std::process::ExitCode;

use cluster::Cluster;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const SERVICES: usize = 5;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [] => demo().await,
        [mode, name, url] if mode == service::MODE => service::run(name, url).await,
        _ => Err("this program takes no arguments".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Outcome {
    println!("{SERVICES} services, each a process of its own; one cluster, no server");
    let mut cluster = Cluster::start().await?;
    let names: Vec<String> = (1..=SERVICES).map(|n| format!("payments-{n}")).collect();

    println!("\nThey start, one after the other, and find each other");
    for name in &names {
        cluster.spawn(name).await?;
    }

    println!("\nOne is killed: no goodbye, nobody to clean up after it");
    cluster.kill(&names[1]).await?;

    println!("\nOne leaves politely");
    cluster.ask_to_leave(&names[2]).await?;

    println!("\nThe killed one comes back under its name");
    cluster.spawn(&names[1]).await?;

    cluster.end().await?;
    println!("\nEvery step happened within its bound.");
    Ok(())
}
