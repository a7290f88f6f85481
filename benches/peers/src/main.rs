//! The same work on gossip libraries, and one table of it: see README.md.

use anyhow::Result;
use clap::Parser as _;

mod board;
mod cluster;
mod collect;
mod measures;
mod namespace;
mod options;
mod peer;
mod record;
mod run;
mod stats;
mod subjects;
mod table;
mod usage;

use options::{Command, Options};

/// Threads that run the nodes of a library, however many the machine has.
const WORKERS: usize = 2;

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        if let Some(Command::Run(options)) = &options.command {
            return run::run(options).await;
        }
        let runs = if options.from.is_empty() {
            collect::measure(&options).await?
        } else {
            collect::read(&options.from)?
        };
        print!("{}", table::tables(&runs, options.markdown));
        Ok(())
    });
    // Nodes that still run end with the process; nothing of them is waited for.
    runtime.shutdown_background();
    done
}
