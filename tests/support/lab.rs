//! Hosts far apart: network namespaces, and a switch between them with delay, loss and rates.
//!
//! Every host has a TUN device; what it sends goes through its uplink (a queue that drains at its
//! rate and drops what does not fit), may be lost, takes its time, and arrives. Everything is
//! made in namespaces of the test's own, which go with it.

use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, SyncDevice};

/// A packet that would wait longer in the uplink's queue is dropped, as in a modem.
const QUEUE: Duration = Duration::from_millis(150);
const INSIDE: &str = "ICD_LAB";

/// Runs the calling test again in namespaces of its own: false there, true (and the test is
/// over) in the process that `./icd test` started.
///
/// # Panics
///
/// If the test fails there, or if namespaces are not to be had.
pub fn outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let me = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    // Root makes namespaces as it is; others are root in a namespace of users.
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| {
        use std::os::unix::fs::MetadataExt;
        m.uid() == 0
    });
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--"])
        .args(["sh", "-c", "mount -t tmpfs none /run && exec \"$0\" \"$@\""])
        .arg(me)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    let status = output.status;
    assert!(
        status.success() && said.contains("1 passed"),
        "in its namespaces the test failed, or they can't be made: {status:?} {:?}",
        status.signal()
    );
    true
}

/// The line of a host.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Bits per second, counted as IP packets.
    pub up: u64,
    /// One way, to the middle of the network.
    pub delay: Duration,
    /// Share of what it sends.
    pub loss: f64,
}

struct Host {
    line: Line,
    device: SyncDevice,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({:?})", self.line)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lab {
    hosts: Arc<Vec<Host>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: std::cmp::Reverse<Instant>,
    to: usize,
    packet: Vec<u8>,
}

#[derive(Debug, Default)]
struct Air {
    flying: Mutex<BinaryHeap<Flying>>,
    more: Condvar,
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    let status = status.expect("ip (iproute2) runs");
    assert!(status.success(), "ip {arguments}");
}

/// The address of a host.
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host as u8 + 1)
}

/// A command in a host's namespace.
pub fn command(host: usize, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("host{host}"), program]);
    command
}

impl Lab {
    /// Builds the hosts.
    ///
    /// # Panics
    ///
    /// Without the right to make TUN devices.
    pub fn new(lines: &[Line]) -> Self {
        let hosts = lines.iter().enumerate().map(|(n, line)| {
            let name = format!("icd{n}");
            let device = DeviceBuilder::new().name(&name).build_sync();
            let device = device.expect("a TUN device (needs /dev/net/tun)");
            ip(&format!("netns add host{n}"));
            ip(&format!("link set {name} netns host{n}"));
            ip(&format!("-n host{n} link set lo up"));
            ip(&format!(
                "-n host{n} address add {}/24 dev {name}",
                address(n)
            ));
            ip(&format!("-n host{n} link set {name} up"));
            Host {
                line: *line,
                device,
                sent: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            }
        });
        let hosts: Arc<Vec<_>> = Arc::new(hosts.collect());
        let air = Arc::new(Air::default());
        for n in 0..hosts.len() {
            let (hosts, air) = (hosts.clone(), air.clone());
            std::thread::spawn(move || uplink(n, &hosts, &air));
        }
        let (flown, air) = (hosts.clone(), air);
        std::thread::spawn(move || land(&flown, &air));
        Self { hosts }
    }

    /// What left a host's uplink, in bytes of IP packets, and packets that its queue dropped.
    pub fn sent(&self, host: usize) -> (u64, u64) {
        let host = &self.hosts[host];
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&host.sent), read(&host.dropped))
    }
}

fn uplink(n: usize, hosts: &[Host], air: &Air) {
    let me = &hosts[n];
    let mut rng = fastrand::Rng::with_seed(n as u64);
    let mut free_at = Instant::now();
    let mut buffer = [0; 2048];
    // Until the device goes with the process.
    while let Ok(len) = me.device.recv(&mut buffer) {
        let packet = &buffer[..len];
        // IPv4 only; the destination's last byte names the host.
        let Some(to) = packet
            .get(19)
            .filter(|_| packet[0] >> 4 == 4 && packet[16..19] == [10, 77, 0])
            .and_then(|last| usize::from(*last).checked_sub(1))
            .filter(|to| *to < hosts.len())
        else {
            continue;
        };
        let now = Instant::now();
        free_at = free_at.max(now);
        if free_at - now > QUEUE {
            me.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        free_at += Duration::from_secs_f64(len as f64 * 8.0 / me.line.up as f64);
        me.sent.fetch_add(len as u64, Ordering::Relaxed);
        if rng.f64() < me.line.loss {
            continue;
        }
        let at = std::cmp::Reverse(free_at + me.line.delay + hosts[to].line.delay);
        let packet = packet.to_vec();
        let mut flying = air.flying.lock().expect("no panic elsewhere");
        flying.push(Flying { at, to, packet });
        air.more.notify_one();
    }
}

fn land(hosts: &[Host], air: &Air) {
    let mut flying = air.flying.lock().expect("no panic elsewhere");
    loop {
        let now = Instant::now();
        let wait = match flying.peek() {
            Some(first) if first.at.0 <= now => {
                let first = flying.pop().expect("it was there");
                drop(flying);
                // A host whose device is gone takes nothing.
                let _ = hosts[first.to].device.send(&first.packet);
                flying = air.flying.lock().expect("no panic elsewhere");
                continue;
            }
            Some(first) => first.at.0 - now,
            None => Duration::from_secs(1),
        };
        flying = air
            .more
            .wait_timeout(flying, wait)
            .expect("no panic elsewhere")
            .0;
    }
}
