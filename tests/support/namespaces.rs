//! Hosts in network namespaces that a test makes itself, on one switch, with delay and loss.

use std::process::{Command, Stdio};

/// Hosts on a switch. Goes with the test.
#[derive(Debug)]
pub struct Lan {
    name: String,
    hosts: usize,
}

fn done(command: &str) -> bool {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap_or_default())
        .args(words)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn must(command: &str) {
    assert!(done(command), "failed: {command}");
}

impl Lan {
    /// Makes `hosts` hosts; none, with a word on standard output, where that is not allowed.
    pub fn new(hosts: usize) -> Option<Self> {
        let name = format!("icd{}", std::process::id());
        let switch = format!("{name}-sw");
        let lan = Self { name, hosts };
        if !done(&format!("ip netns add {switch}")) {
            println!("SKIPPED: network namespaces need root and iproute2");
            return None;
        }
        must(&format!("ip -n {switch} link add br0 type bridge"));
        must(&format!("ip -n {switch} link set br0 up"));
        for n in 0..hosts {
            let host = lan.host(n);
            must(&format!("ip netns add {host}"));
            must(&format!("ip -n {host} link set lo up"));
            must(&format!(
                "ip -n {switch} link add p{n} type veth peer name eth0 netns {host}"
            ));
            must(&format!("ip -n {switch} link set p{n} master br0 up"));
            must(&format!(
                "ip -n {host} addr add {}/24 dev eth0",
                lan.address(n)
            ));
            must(&format!("ip -n {host} link set eth0 up"));
        }
        if !done(&format!(
            "tc -n {} qdisc add dev eth0 root netem delay 1ms",
            lan.host(0)
        )) {
            println!("SKIPPED: this kernel has no netem");
            return None;
        }
        Some(lan)
    }

    fn host(&self, n: usize) -> String {
        format!("{}-h{n}", self.name)
    }

    /// The address of a host.
    pub fn address(&self, n: usize) -> String {
        format!("10.77.0.{}", n + 1)
    }

    /// What runs a program on a host.
    pub fn prefix(&self, n: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.host(n)]
            .map(String::from)
            .into()
    }

    /// What a host sends is delayed, and lost in part.
    pub fn shape(&self, n: usize, delay_ms: u32, loss_percent: f64) {
        let host = self.host(n);
        must(&format!(
            "tc -n {host} qdisc replace dev eth0 root netem delay {delay_ms}ms loss {loss_percent}% limit 10000"
        ));
    }

    /// Bytes that a host has sent, with all headers.
    pub fn sent(&self, n: usize) -> u64 {
        let host = self.host(n);
        let out = Command::new("ip")
            .args([
                "netns",
                "exec",
                &host,
                "cat",
                "/sys/class/net/eth0/statistics/tx_bytes",
            ])
            .output()
            .expect("a counter");
        let text = String::from_utf8_lossy(&out.stdout).trim().to_string();
        text.parse().expect("a number")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for n in 0..self.hosts {
            done(&format!("ip netns del {}", self.host(n)));
        }
        done(&format!("ip netns del {}-sw", self.name));
    }
}
