//! A bridge as a process: mirrors one backend into another, for processes that can't be redeployed.
//!
//! ```text
//! cargo run --example bridge --features etcd -- \
//!     --from 'gossip://0.0.0.0:7947?join=seed.internal&keys_file=/etc/web/gossip.key' --to 'etcd://127.0.0.1:2379/prod'
//! ```
//!
//! Run two of them, each with a name of its own: they share the work, and one takes over when the
//! other ends. For the other direction run a bridge with `--from` and `--to` exchanged. Ctrl-C or
//! SIGTERM closes it: what no other bridge takes over is withdrawn.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tidings::{Bridge, BridgeOptions, Discovery, Error, ErrorKind, Result};

/// How often it is looked whether the report has changed.
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// Mirrors the instances of one backend into another until Ctrl-C
#[derive(Parser)]
#[command(
    after_help = "Backends: memory, and those whose feature is on, such as \
    gossip://0.0.0.0:7946?join=SEED, etcd://HOST:2379/PREFIX, zk://HOST:2181/PATH, \
    consul://HOST:8500."
)]
struct Args {
    /// URL of the backend whose instances are mirrored
    #[arg(long, value_name = "URL")]
    from: String,
    /// URL of the backend that they are mirrored into
    #[arg(long, value_name = "URL")]
    to: String,
    /// Service to mirror; can be given several times [default: all]
    #[arg(long = "service", value_name = "NAME")]
    services: Vec<String>,
    /// Name of this bridge, different from all others; one that stays the same over restarts is
    /// best [default: a generated one]
    #[arg(long)]
    name: Option<String>,
    /// Name of what is mirrored; bridges with the same one share the work [default: the backend's
    /// name]
    #[arg(long)]
    origin: Option<String>,
    /// How long mirrors are kept while the backend they are from can't be heard, such as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    hold: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let options = options(&args)?;
    let from = connect("--from", &args.from).await?;
    let to = connect("--to", &args.to).await?;
    let bridge = Bridge::start(from.clone(), to.clone(), options).await?;

    let (start, mut last) = (Instant::now(), String::new());
    let mut interrupted = std::pin::pin!(interrupted());
    let closed = loop {
        let report = bridge.report();
        let text = format!("{report}");
        // Times in it change at every look.
        let unchanged = same_but_for_numbers(&text, &last);
        if !unchanged {
            println!("{:>9.3} s  {text}", start.elapsed().as_secs_f64());
            last = text;
        }
        tokio::select! {
            () = tokio::time::sleep(REPORT_PAUSE) => {}
            () = &mut interrupted => break bridge.close().await,
            () = bridge.ended() => {
                let message = format!("the bridge ended by itself: {}", bridge.report());
                break Err(Error::new(ErrorKind::Closed, message));
            }
        }
    };
    println!(
        "{:>9.3} s  {}",
        start.elapsed().as_secs_f64(),
        bridge.report()
    );
    closed.and(to.close().await).and(from.close().await)
}

fn options(args: &Args) -> Result<BridgeOptions> {
    if args.from == args.to {
        let message = "--from and --to are the same: accepted are two different backends";
        return Err(Error::invalid_config(message));
    }
    let mut options = BridgeOptions::new().with_hold(args.hold);
    for service in &args.services {
        options = options.with_service(service)?;
    }
    if let Some(name) = &args.name {
        options = options.with_name(name)?;
    }
    if let Some(origin) = &args.origin {
        options = options.with_origin(origin)?;
    }
    Ok(options)
}

async fn connect(option: &str, url: &str) -> Result<Arc<dyn Discovery>> {
    let connected = tidings::connect(url).await;
    connected.map_err(|error| Error::new(error.kind(), format!("{option}: {error}")))
}

fn same_but_for_numbers(text: &str, last: &str) -> bool {
    let stale = |text: &str| text.contains("stale") || text.contains("unverified");
    let without = |text: &str| -> String { text.chars().filter(|c| !c.is_ascii_digit()).collect() };
    text == last || (stale(text) && without(text) == without(last))
}

/// Waits for Ctrl-C or, where there is such a thing, SIGTERM.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
