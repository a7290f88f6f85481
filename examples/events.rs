//! Three members of one process: one sends an event to all, and asks all a question.
//!
//! ```text
//! cargo run --example events
//! ```

use std::time::Duration;

use tidings::Discovery;
use tidings::gossip::{GossipConfig, GossipDiscovery, Heard, QueryOptions, QueryUpdate};

#[tokio::main]
async fn main() -> tidings::Result<()> {
    let first = member("web-1", &[]).await?;
    let seed = [first.local_addr().to_string()];
    let others = [member("web-2", &seed).await?, member("web-3", &seed).await?];

    // Each of the others prints the events it hears, and says how busy it is when it is asked.
    for (load, other) in others.iter().enumerate() {
        let (mut events, mut queries) = (other.events().await?, other.queries().await?);
        let name = other.identity().name;
        tokio::spawn(async move {
            while let Ok(heard) = events.next().await {
                if let Heard::Event(event) = heard {
                    let payload = String::from_utf8_lossy(&event.payload);
                    println!(
                        "{name} hears from {}: {} {payload}",
                        event.sender, event.name
                    );
                }
            }
        });
        tokio::spawn(async move {
            while let Ok(query) = queries.next().await {
                let _ = query.answer(format!("{load} requests").into_bytes()).await;
            }
        });
    }

    first.send_event("deploy", *b"1.4.2").await?;

    // The first one itself has nobody who answers, and says so.
    let options = QueryOptions::default().timeout(Duration::from_secs(2));
    let mut answers = first.query("load", *b"", options).await?;
    while let Some(update) = answers.next().await {
        if let QueryUpdate::Answered { member, payload } = update {
            println!("{member} answers {}", String::from_utf8_lossy(&payload));
        }
    }
    println!("{:?}", answers.report().await?.outcomes);
    first.close().await
}

async fn member(name: &str, join: &[String]) -> tidings::Result<GossipDiscovery> {
    let mut config = GossipConfig::default();
    config.name = Some(name.to_owned());
    config.bind = ([127, 0, 0, 1], 0).into();
    config.join = join.to_vec();
    GossipDiscovery::start(config).await
}
