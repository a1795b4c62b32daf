//! How often something may happen: so many times at once, so many a second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// A token bucket, full at first.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// One that holds `burst`.
    pub fn new(burst: u32, now: Instant) -> Self {
        Self {
            left: f64::from(burst),
            at: now,
        }
    }

    /// Takes one, if there is one; it fills by `rate` a second, to `burst` at most.
    pub fn take(&mut self, rate: f64, burst: u32, now: Instant) -> bool {
        self.spend(1.0, rate, f64::from(burst), now)
    }

    /// Takes so much, if it holds as much; it fills by `rate` a second, to `burst` at most.
    pub fn spend(&mut self, amount: f64, rate: f64, burst: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * rate).min(burst);
        if self.left < amount {
            return false;
        }
        self.left -= amount;
        true
    }
}

/// Addresses that are told apart; those that come beyond share one bucket.
const MAX_SOURCES: usize = 4096;

/// Where somebody comes from, as far as it costs something to come from elsewhere: an IPv4 address, or the
/// network of an IPv6 one, of which a host has as many addresses as it likes (RFC 4291, section 2.5.4).
pub fn source(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) if !addr.is_loopback() => {
            Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX)).into()
        }
        other => other,
    }
}

/// How often something may happen from each address. The own machine is no stranger.
#[derive(Debug)]
pub struct Sources {
    burst: u32,
    rate: f64,
    buckets: HashMap<IpAddr, Bucket>,
    others: Bucket,
}

impl Sources {
    /// From each address so often at once, and so often a second.
    pub fn new(burst: u32, rate: f64, now: Instant) -> Self {
        Self {
            burst,
            rate,
            buckets: HashMap::new(),
            others: Bucket::new(burst, now),
        }
    }

    /// It happens from there once more, if it may.
    pub fn take(&mut self, addr: IpAddr, now: Instant) -> bool {
        let addr = source(addr);
        let (burst, rate) = (self.burst, self.rate);
        addr.is_loopback() || self.bucket(addr, now).take(rate, burst, now)
    }

    /// Whether it may, without that it does.
    pub fn may(&mut self, addr: IpAddr, now: Instant) -> bool {
        let addr = source(addr);
        let (burst, rate) = (self.burst, self.rate);
        let mut there = *self.bucket(addr, now);
        addr.is_loopback() || there.take(rate, burst, now)
    }

    fn bucket(&mut self, addr: IpAddr, now: Instant) -> &mut Bucket {
        let (burst, rate) = (self.burst, self.rate);
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&addr) {
            // Who has been quiet for long is as one who never came.
            let burst = f64::from(burst);
            let whole = |mut bucket: Bucket| bucket.spend(burst, rate, burst, now);
            self.buckets.retain(|_, bucket| !whole(*bucket));
        }
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&addr) {
            return &mut self.others;
        }
        self.buckets
            .entry(addr)
            .or_insert_with(|| Bucket::new(burst, now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(3, now);
        let mut take = |ms| bucket.take(2.0, 3, now + Duration::from_millis(ms));
        assert!(take(0) && take(0) && take(0) && !take(0));
        assert!(!take(400) && take(600));
        assert!(take(60_000) && take(60_000) && take(60_000) && !take(60_000));
    }

    #[test]
    fn each_address_has_its_own_and_a_network_of_ipv6_is_one() {
        let now = Instant::now();
        let mut sources = Sources::new(2, 0.5, now);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let [a, b] = [ip("192.0.2.1"), ip("::ffff:192.0.2.2")];
        assert!(sources.take(a, now) && sources.take(a, now) && !sources.take(a, now));
        assert!(!sources.may(a, now) && sources.may(b, now) && sources.take(b, now));
        let later = now + Duration::from_secs(2);
        assert!(sources.may(a, later) && sources.take(a, later) && !sources.take(a, later));
        let host = |n: u64| ip(&format!("2001:db8::{n}"));
        assert!(sources.take(host(1), now) && sources.take(host(2), now));
        assert!(!sources.take(host(3), now) && sources.take(ip("2001:db8:0:1::1"), now));
        for own in ["127.0.0.1", "::1"] {
            assert!((0..10).all(|_| sources.take(ip(own), now)), "{own}");
        }
    }

    #[test]
    fn those_beyond_the_bound_share_one_and_the_quiet_are_forgotten() {
        let now = Instant::now();
        let mut sources = Sources::new(2, 1.0, now);
        let ip = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        let most = MAX_SOURCES as u32;
        assert!((0..most).all(|n| sources.take(ip(n), now)));
        let beyond = (most..most + 5)
            .filter(|n| sources.take(ip(*n), now))
            .count();
        assert_eq!(beyond, 2);
        let later = now + Duration::from_secs(9);
        assert!((most..most + 5).all(|n| sources.take(ip(n), later)));
        assert_eq!(sources.buckets.len(), 5);
    }
}
