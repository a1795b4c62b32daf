//! Hosts far apart: network namespaces, and a switch between them with delay, loss and rates.
//!
//! Every host has a TUN device; what it sends goes through its uplink (a queue that drains at its
//! rate and drops what does not fit), may be lost, takes its time, and arrives. Hosts may sit behind
//! NATs, which the switch is, too. Everything is made in namespaces of the test's own, which go with it.

use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::nat::{Kind, Nat};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::packet::{ends, readdress};

/// A packet that would wait longer in the uplink's queue is dropped, as in a modem.
const QUEUE: Duration = Duration::from_millis(150);
/// Milliseconds that a packet can wait there.
const WAITS: usize = QUEUE.as_millis() as usize + 1;
const INSIDE: &str = "ICD_LAB";

/// Runs the calling test again in namespaces of its own: false there, true (and the test is
/// over) in the process that `./icd test` started.
///
/// # Panics
///
/// If the test fails there, or if namespaces are not to be had.
pub fn outside(test: &str) -> bool {
    let Some(mut command) = unshared(&["--exact", test, "--nocapture"]) else {
        return false;
    };
    let output = command.output().expect("unshare (util-linux) runs");
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

/// This program again with these arguments, in namespaces of its own; none if it is there already.
///
/// # Panics
///
/// If the program does not know where it is.
pub fn unshared(arguments: &[&str]) -> Option<Command> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
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
    command
        .args([
            "--net",
            "--mount",
            "--mount-proc",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
        ])
        .args(["sh", "-c", "mount -t tmpfs none /run && exec \"$0\" \"$@\""])
        .arg(me)
        .args(arguments)
        .env(INSIDE, "1");
    Some(command)
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
    /// Its line's rate at present.
    up: AtomicU64,
    address: Ipv4Addr,
    home: Option<usize>,
    device: SyncDevice,
    sent: AtomicU64,
    dropped: AtomicU64,
    /// Packets that waited for so many milliseconds in its uplink's queue.
    waited: [AtomicU64; WAITS],
    /// Nothing passes its line.
    cut: AtomicBool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({:?})", self.line)
    }
}

/// All hosts, and the NATs that some are behind.
#[derive(Debug)]
struct Net {
    hosts: Vec<Host>,
    homes: Vec<Mutex<Nat>>,
}

/// See the module.
#[derive(Debug)]
pub struct Lab {
    net: Arc<Net>,
}

/// A NAT that a packet has to pass at the end.
type Door = (usize, SocketAddr);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: std::cmp::Reverse<Instant>,
    to: usize,
    door: Option<Door>,
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

/// The address of a host that all reach.
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host as u8 + 1)
}

/// That of a NAT.
fn outside_of(home: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, home as u8 + 1)
}

/// What stays within a home: in all of them it is the same network, as it is in homes.
fn is_inner(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[..3] == [192, 168, 1])
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
        let lines: Vec<_> = lines.iter().map(|line| (*line, None)).collect();
        Self::with_homes(&lines, &[])
    }

    /// Builds hosts of which some are in homes, by their numbers, and the homes' NATs.
    ///
    /// # Panics
    ///
    /// Without the right to make TUN devices.
    pub fn with_homes(lines: &[(Line, Option<usize>)], homes: &[Kind]) -> Self {
        let hosts = lines.iter().enumerate().map(|(n, (line, home))| {
            let name = format!("icd{n}");
            let device = DeviceBuilder::new().name(&name).build_sync();
            let device = device.expect("a TUN device (needs /dev/net/tun)");
            ip(&format!("netns add host{n}"));
            ip(&format!("link set {name} netns host{n}"));
            ip(&format!("-n host{n} link set lo up"));
            let (address, bits) = match home {
                Some(_) => (Ipv4Addr::new(192, 168, 1, n as u8 + 1), 24),
                None => (address(n), 16),
            };
            ip(&format!(
                "-n host{n} address add {address}/{bits} dev {name}"
            ));
            ip(&format!("-n host{n} link set {name} up"));
            if home.is_some() {
                ip(&format!("-n host{n} route add default dev {name}"));
            }
            Host {
                line: *line,
                up: AtomicU64::new(line.up),
                address,
                home: *home,
                device,
                sent: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                waited: std::array::from_fn(|_| AtomicU64::new(0)),
                cut: AtomicBool::new(false),
            }
        });
        let nats = homes.iter().enumerate();
        let nats = nats.map(|(n, kind)| Mutex::new(Nat::new(*kind, outside_of(n).into())));
        let net = Arc::new(Net {
            hosts: hosts.collect(),
            homes: nats.collect(),
        });
        let air = Arc::new(Air::default());
        for n in 0..net.hosts.len() {
            let (net, air) = (net.clone(), air.clone());
            std::thread::spawn(move || uplink(n, &net, &air));
        }
        let (flown, air) = (net.clone(), air);
        std::thread::spawn(move || land(&flown, &air));
        Self { net }
    }

    /// What left a host's uplink, in bytes of IP packets, and packets that its queue dropped.
    pub fn sent(&self, host: usize) -> (u64, u64) {
        let host = &self.net.hosts[host];
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&host.sent), read(&host.dropped))
    }

    /// A host's line carries so many bits per second from now on.
    pub fn carry(&self, host: usize, up: u64) {
        self.net.hosts[host].up.store(up, Ordering::Relaxed);
    }

    /// How long each packet waited in a host's uplink since this was asked last, shortest first: what a ping
    /// beside them would have waited.
    pub fn waited(&self, host: usize) -> Vec<Duration> {
        let waited = self.net.hosts[host].waited.iter().enumerate();
        let all = waited.flat_map(|(ms, count)| {
            let count = count.swap(0, Ordering::Relaxed) as usize;
            std::iter::repeat_n(Duration::from_millis(ms as u64), count)
        });
        all.collect()
    }

    /// Cuts a host's line in both directions, or mends it.
    pub fn cut(&self, host: usize, cut: bool) {
        self.net.hosts[host].cut.store(cut, Ordering::Relaxed);
    }
}

impl Net {
    fn nat(&self, home: usize) -> MutexGuard<'_, Nat> {
        self.homes[home].lock().expect("no panic elsewhere")
    }

    fn host(&self, home: Option<usize>, ip: IpAddr) -> Option<usize> {
        let is = |host: &Host| host.home == home && IpAddr::from(host.address) == ip;
        self.hosts.iter().position(is)
    }

    /// To which host a packet goes, and the NAT that it has to pass there. On its way out it passes its own.
    fn route(&self, n: usize, packet: &mut [u8]) -> Option<(usize, Option<Door>)> {
        let (from, to) = ends(packet)?;
        let home = self.hosts[n].home;
        if is_inner(to.ip()) {
            let other = home.and_then(|home| self.host(Some(home), to.ip()));
            return other.map(|other| (other, None));
        }
        let from = match home {
            Some(home) => self.nat(home).out(from, to),
            None => from,
        };
        readdress(packet, from, to);
        if let Some(other) = self.host(None, to.ip()) {
            return Some((other, None));
        }
        let door = (0..self.homes.len()).find(|n| IpAddr::from(outside_of(*n)) == to.ip())?;
        let nat = self.nat(door);
        if home == Some(door) && !nat.hairpins() {
            return None;
        }
        let inner = nat.whose(to.port())?;
        let other = self.host(Some(door), inner.ip())?;
        Some((other, Some((door, inner))))
    }

    /// Whether a packet is let in at the end, and its last address then.
    fn passes(&self, packet: &mut [u8], door: Option<Door>) -> bool {
        let (Some((home, inner)), Some((from, to))) = (door, ends(packet)) else {
            return true;
        };
        if !self.nat(home).lets_in(to.port(), from) {
            return false;
        }
        readdress(packet, from, inner);
        true
    }
}

fn uplink(n: usize, net: &Net, air: &Air) {
    let me = &net.hosts[n];
    let mut rng = fastrand::Rng::with_seed(n as u64);
    let mut free_at = Instant::now();
    let mut buffer = [0; 2048];
    // Until the device goes with the process.
    while let Ok(len) = me.device.recv(&mut buffer) {
        let packet = &mut buffer[..len];
        // UDP over IPv4 only.
        let Some((to, door)) = net.route(n, packet) else {
            continue;
        };
        let now = Instant::now();
        free_at = free_at.max(now);
        if free_at - now > QUEUE {
            me.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let wait = (free_at - now).as_millis() as usize;
        me.waited[wait.min(WAITS - 1)].fetch_add(1, Ordering::Relaxed);
        free_at += Duration::from_secs_f64(len as f64 * 8.0 / me.up.load(Ordering::Relaxed) as f64);
        me.sent.fetch_add(len as u64, Ordering::Relaxed);
        let cut = |host: &Host| host.cut.load(Ordering::Relaxed);
        if rng.f64() < me.line.loss || cut(me) || cut(&net.hosts[to]) {
            continue;
        }
        let delay = me.line.delay + net.hosts[to].line.delay;
        let at = std::cmp::Reverse(free_at + delay);
        let packet = packet.to_vec();
        let mut flying = air.flying.lock().expect("no panic elsewhere");
        flying.push(Flying {
            at,
            to,
            door,
            packet,
        });
        air.more.notify_one();
    }
}

fn land(net: &Net, air: &Air) {
    let mut flying = air.flying.lock().expect("no panic elsewhere");
    loop {
        let now = Instant::now();
        let wait = match flying.peek() {
            Some(first) if first.at.0 <= now => {
                let mut first = flying.pop().expect("it was there");
                drop(flying);
                if net.passes(&mut first.packet, first.door) {
                    // A host whose device is gone takes nothing.
                    let _ = net.hosts[first.to].device.send(&first.packet);
                }
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
