//! A bridge and hosts on it, each a network namespace, with iptables to do damage.
//!
//! Everything is inside the namespaces of the sandbox: the bridge, the hosts' names, the lock of
//! iptables. Nothing of it can be seen from outside.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// The hosts' own `/etc/hosts`.
const HOSTS: &str = "/run/hosts";
/// Where members may keep files.
pub(crate) const FOLDER: &str = "/run/members";
pub(crate) const PORT: u16 = 7946;

/// Hosts `0` …, each at an address of the network that it can change.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: usize,
    /// How often everybody has moved: part of the addresses.
    moved: u8,
}

/// Which way a partition stops packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Nothing passes.
    Both,
    /// The inside hears nobody outside.
    In,
    /// The inside isn't heard outside.
    Out,
}

/// Puts what the tools below write where only this sandbox sees it.
pub(crate) fn make_private() {
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    fs::create_dir(FOLDER).unwrap();
    fs::write(HOSTS, "127.0.0.1 localhost\n").unwrap();
    run("mount", &["--bind", HOSTS, "/etc/hosts"]);
}

impl Network {
    pub(crate) fn build(hosts: usize) -> Self {
        let network = Self { hosts, moved: 0 };
        let mut batch = "link set lo up\nlink add br0 type bridge\nlink set br0 up\n".to_owned();
        for host in 0..hosts {
            let name = namespace(host);
            writeln!(
                batch,
                "netns add {name}\n\
                 link add eth0 netns {name} type veth peer name port{host}\n\
                 link set port{host} master br0 up"
            )
            .unwrap();
        }
        feed("ip", &["-batch", "-"], &batch);
        for host in 0..hosts {
            let batch = format!(
                "link set lo up\naddr add {}/16 dev eth0\nlink set eth0 up\n",
                network.address(host)
            );
            feed("ip", &["-n", &namespace(host), "-batch", "-"], &batch);
        }
        network
    }

    pub(crate) fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.moved, u8::try_from(host + 1).unwrap())
    }

    /// A command that will run on a host.
    pub(crate) fn command(&self, host: usize) -> Command {
        assert!(host < self.hosts);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(host)]);
        command
    }

    /// Makes names lead to hosts where they are now.
    pub(crate) fn name(&self, names: &[(&str, usize)]) {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for (name, host) in names {
            writeln!(text, "{} {name}", self.address(*host)).unwrap();
        }
        fs::write(HOSTS, text).unwrap();
    }

    /// Gives every host another address.
    pub(crate) fn move_all(&mut self) {
        let old: Vec<_> = (0..self.hosts).map(|host| self.address(host)).collect();
        self.moved += 1;
        for (host, old) in old.into_iter().enumerate() {
            let new = self.address(host);
            let batch = format!("addr del {old}/16 dev eth0\naddr add {new}/16 dev eth0\n");
            feed("ip", &["-n", &namespace(host), "-batch", "-"], &batch);
        }
    }

    /// Takes a host's address away, and with it its routes.
    pub(crate) fn unplug(&self, host: usize) {
        let batch = format!("addr del {}/16 dev eth0\n", self.address(host));
        feed("ip", &["-n", &namespace(host), "-batch", "-"], &batch);
    }

    /// Gives it back.
    pub(crate) fn plug(&self, host: usize) {
        let batch = format!("addr add {}/16 dev eth0\n", self.address(host));
        feed("ip", &["-n", &namespace(host), "-batch", "-"], &batch);
    }

    /// Gives a host that has none another address than it had.
    pub(crate) fn move_host(&self, host: usize) {
        let [a, b, _, d] = self.address(host).octets();
        let batch = format!("addr add {a}.{b}.200.{d}/16 dev eth0\n");
        feed("ip", &["-n", &namespace(host), "-batch", "-"], &batch);
    }

    /// Loses this share of all packets, both ways: each host of what comes in.
    pub(crate) fn lose(&mut self, share: f64) {
        let share = share.to_string();
        for host in 0..self.hosts {
            let statistic = [
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                &share,
            ];
            self.iptables(
                host,
                &[
                    &["-A", "INPUT", "-i", "eth0"],
                    &statistic[..],
                    &["-j", "DROP"],
                ],
            );
        }
    }

    /// Stops packets between hosts `inside` and all others.
    pub(crate) fn cut(&mut self, inside: &[usize], direction: Direction) {
        for host in 0..self.hosts {
            let is_inside = inside.contains(&host);
            if direction
                == if is_inside {
                    Direction::Out
                } else {
                    Direction::In
                }
            {
                continue;
            }
            let across = (0..self.hosts).filter(|other| inside.contains(other) != is_inside);
            let across: Vec<_> = across
                .map(|other| self.address(other).to_string())
                .collect();
            let across = across.join(",");
            self.iptables(host, &[&["-A", "INPUT", "-s", &across, "-j", "DROP"]]);
        }
    }

    /// Packets that each host has dropped since the damage began.
    pub(crate) fn dropped(&self) -> Vec<u64> {
        let of = |host| {
            let listing = self.iptables(host, &[&["-nvxL", "INPUT"]]);
            let fields = listing
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let drops = fields.filter(|fields| fields.get(2) == Some(&"DROP"));
            drops.map(|fields| fields[0].parse::<u64>().unwrap()).sum()
        };
        (0..self.hosts).map(of).collect()
    }

    /// Ends all damage; answers what [`dropped`](Self::dropped) did.
    pub(crate) fn repair(&mut self) -> Vec<u64> {
        let dropped = self.dropped();
        for host in 0..self.hosts {
            self.iptables(host, &[&["-F", "INPUT"]]);
        }
        dropped
    }

    fn iptables(&self, host: usize, args: &[&[&str]]) -> String {
        let mut command = self.command(host);
        command.args(["iptables", "-w"]).args(args.concat());
        output(&mut command)
    }
}

fn namespace(host: usize) -> String {
    format!("host-{host}")
}

fn run(program: &str, args: &[&str]) {
    output(Command::new(program).args(args));
}

fn feed(program: &str, args: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint} ({command:?})");
    String::from_utf8(output.stdout).unwrap()
}
