//! What the nodes use: traffic of the namespace, processor time and memory.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Length of the ticks in which the kernel shows processor time (`USER_HZ`, 100 on Linux).
const TICK: Duration = Duration::from_millis(10);

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    /// Packets through the loopback device, each counted once.
    pub(crate) packets: u64,
    /// Their bytes, with IP and link headers.
    pub(crate) bytes: u64,
    pub(crate) cpu: Duration,
}

impl Usage {
    /// Of the namespace, and of these processes, or of this one where there are none.
    pub(crate) fn now(pids: &[u32]) -> Result<Self> {
        let (packets, bytes) = loopback(&fs::read_to_string("/proc/self/net/dev")?)?;
        let mut ticks = 0;
        for process in processes(pids) {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            ticks += cpu_ticks(&stat).with_context(|| format!("/proc/{process}/stat: {stat}"))?;
        }
        Ok(Self {
            at: Instant::now(),
            packets,
            bytes,
            cpu: TICK * ticks,
        })
    }
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) all: f64,
    /// Heap and stacks: without the program's own code, which is paged in as it runs.
    pub(crate) anonymous: f64,
}

impl Memory {
    /// Of these processes, or of this one where there are none.
    pub(crate) fn now(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for process in processes(pids) {
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            sum.all += kib(&status, "VmRSS:")?;
            sum.anonymous += kib(&status, "RssAnon:")?;
        }
        Ok(sum)
    }
}

fn kib(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.with_context(|| format!("no {field}"))?.parse()?)
}

fn processes(pids: &[u32]) -> Vec<String> {
    if pids.is_empty() {
        return vec!["self".to_owned()];
    }
    pids.iter().map(ToString::to_string).collect()
}

/// Packets and bytes of `lo`; it receives all that it sends.
fn loopback(devices: &str) -> Result<(u64, u64)> {
    let mut lines = devices.lines().map(str::trim_start);
    let line = lines
        .find_map(|line| line.strip_prefix("lo:"))
        .context("no loopback device")?;
    let mut received = line.split_whitespace().map(str::parse::<u64>);
    let bytes = received.next().context("no counter of bytes")??;
    let packets = received.next().context("no counter of packets")??;
    Ok((packets, bytes))
}

/// User and system time, the 14th and 15th field; the second may contain spaces.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_files_are_understood() {
        let devices = "Inter-|   Receive\n face |bytes\n    lo:  1234  5  0 0 0 0 0 0 1234 5 0\n";
        assert_eq!(loopback(devices).unwrap(), (5, 1234));
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 3 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(42));
        let status = "Name:\ta\nVmRSS:\t    1500 kB\nRssAnon:\t     300 kB\n";
        assert_eq!(kib(status, "RssAnon:").unwrap(), 300.0);
        assert!(Memory::now(&[]).unwrap().all > 100.0);
    }
}
