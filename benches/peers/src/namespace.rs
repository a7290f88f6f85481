//! A network and a process namespace for each run, and loss of packets in it.
//!
//! Made by `unshare`, `ip` and `iptables-legacy`, as root or in a user namespace of one's own.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::subjects::SPARED_PORTS;

const FIREWALL: &str = "iptables-legacy";

/// How runs are kept apart from the machine and from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Namespaces, as root.
    Root,
    /// Namespaces within a user namespace.
    User,
    /// Not permitted here: traffic of other programs is counted as well, and nothing is lost.
    None,
}

/// What brings the loopback device up and raises the limit of open files before the run.
const PREPARE: &str = r#"ip link set lo up && ulimit -n "$(ulimit -Hn)" && exec "$0" "$@""#;
const PREPARE_FILES: &str = r#"ulimit -n "$(ulimit -Hn)" && exec "$0" "$@""#;

impl Isolation {
    /// The best that works here.
    pub(crate) async fn available() -> Self {
        for isolation in [Self::Root, Self::User] {
            let probe = isolation.command(Path::new("true")).output().await;
            if probe.is_ok_and(|output| output.status.success()) {
                return isolation;
            }
        }
        Self::None
    }

    /// A command that runs `program` in namespaces of its own; whoever ends it ends all in them.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Root | Self::User => {
                let mut command = Command::new("unshare");
                command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
                if self == Self::User {
                    command.arg("--map-root-user");
                }
                command.args(["sh", "-c", PREPARE]);
                command
            }
            Self::None => {
                let mut command = Command::new("sh");
                command.args(["-c", PREPARE_FILES]);
                command
            }
        };
        command.arg(program).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// Loses this share of all packets from now on, UDP and TCP alike.
///
/// Errors say why that is not possible here.
pub(crate) async fn lose(percent: u8) -> Result<(), String> {
    restore().await?;
    if percent == 0 {
        return Ok(());
    }
    for port in SPARED_PORTS {
        for side in ["--sport", "--dport"] {
            let port = port.to_string();
            firewall(&["-A", "INPUT", "-p", "tcp", side, &port, "-j", "ACCEPT"]).await?;
        }
    }
    let probability = format!("{:.2}", f64::from(percent) / 100.0);
    let statistic = ["-m", "statistic", "--mode", "random", "--probability"];
    let rule = [&["-A", "INPUT", "-i", "lo"][..], &statistic].concat();
    firewall(&[&rule[..], &[&probability, "-j", "DROP"]].concat())
        .await
        .map(drop)
}

/// Loses nothing any more, and answers how many packets were lost.
pub(crate) async fn restore() -> Result<u64, String> {
    let rules = firewall(&["-L", "INPUT", "-v", "-x", "-n"]).await?;
    firewall(&["-F", "INPUT"]).await?;
    Ok(rules.lines().filter_map(dropped).sum())
}

/// The first figure of a rule that drops: `  12  480 DROP  all …`
fn dropped(rule: &str) -> Option<u64> {
    let mut fields = rule.split_whitespace();
    let packets = fields.next()?.parse().ok()?;
    (fields.nth(1) == Some("DROP")).then_some(packets)
}

/// Rules are added in a network namespace of our own or not at all.
async fn firewall(arguments: &[&str]) -> Result<String, String> {
    if std::env::var_os(ISOLATED).is_none() {
        return Err("not in a network namespace of its own".to_owned());
    }
    let output = Command::new(FIREWALL).args(arguments).output().await;
    let output = output.map_err(|error| format!("{FIREWALL}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{FIREWALL}: {}", reason.trim()))
}

/// Set for runs that have a network namespace of their own.
pub(crate) const ISOLATED: &str = "PEERS_ISOLATED";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_packets_are_read_from_the_rules() {
        let rule = "      12      480 DROP       all  --  lo     *       0.0.0.0/0  statistic mode";
        assert_eq!(dropped(rule), Some(12));
        assert_eq!(
            dropped("       7      300 ACCEPT     tcp  --  *      *"),
            None
        );
        assert_eq!(
            dropped("Chain INPUT (policy ACCEPT 5 packets, 200 bytes)"),
            None
        );
    }
}
