//! Network address translation, as home routers and carriers do it (RFC 4787).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// How a host's port looks from outside (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// The same to all.
    Independent,
    /// To each address and port another ("symmetric").
    Dependent,
}

/// Who may send to it (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Everybody, once it has sent anything ("full cone").
    Any,
    /// Whose address it has sent to ("restricted cone").
    Address,
    /// Whose address and port it has sent to ("port-restricted cone").
    Port,
}

/// A kind of NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// See there.
    pub mapping: Mapping,
    /// See there.
    pub filter: Filter,
    /// The outer port is the inner one, where that is free.
    pub keeps_ports: bool,
    /// Hosts behind it reach each other by its own address.
    pub hairpin: bool,
}

impl Kind {
    /// As most home routers are.
    pub const HOME: Self = Self {
        mapping: Mapping::Independent,
        filter: Filter::Port,
        keeps_ports: true,
        hairpin: false,
    };
    /// As carriers' often are: many hosts, ports shifted.
    pub const CARRIER: Self = Self {
        mapping: Mapping::Independent,
        filter: Filter::Address,
        keeps_ports: false,
        hairpin: true,
    };
    /// As offices' firewalls are.
    pub const SYMMETRIC: Self = Self {
        mapping: Mapping::Dependent,
        filter: Filter::Port,
        keeps_ports: false,
        hairpin: false,
    };
}

/// The first outer port that is given.
const FIRST_PORT: u16 = 40_000;

/// See the module.
#[derive(Debug)]
pub struct Nat {
    kind: Kind,
    outside: IpAddr,
    ports: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    /// By outer port: whose it is, and whom that one has sent to by it.
    holes: HashMap<u16, (SocketAddr, HashSet<SocketAddr>)>,
    next: u16,
}

impl Nat {
    /// One that is seen from outside at this address.
    pub fn new(kind: Kind, outside: IpAddr) -> Self {
        Self {
            kind,
            outside,
            ports: HashMap::new(),
            holes: HashMap::new(),
            next: FIRST_PORT,
        }
    }

    /// Its address.
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// Whether hosts behind it reach each other by that.
    pub fn hairpins(&self) -> bool {
        self.kind.hairpin
    }

    /// A packet goes out: where it comes from, as seen from outside.
    pub fn out(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let which = match self.kind.mapping {
            Mapping::Independent => None,
            Mapping::Dependent => Some(to),
        };
        let port = match self.ports.get(&(from, which)) {
            Some(port) => *port,
            None => {
                let same = self.kind.keeps_ports && !self.holes.contains_key(&from.port());
                let port = if same { from.port() } else { self.free() };
                self.ports.insert((from, which), port);
                self.holes.insert(port, (from, HashSet::new()));
                port
            }
        };
        if let Some((_, sent)) = self.holes.get_mut(&port) {
            sent.insert(to);
        }
        SocketAddr::new(self.outside, port)
    }

    fn free(&mut self) -> u16 {
        while self.holes.contains_key(&self.next) {
            self.next += 1;
        }
        self.next
    }

    /// Whose an outer port is.
    pub fn whose(&self, port: u16) -> Option<SocketAddr> {
        self.holes.get(&port).map(|(whose, _)| *whose)
    }

    /// Whether a packet from there is let in.
    pub fn lets_in(&self, port: u16, from: SocketAddr) -> bool {
        self.holes
            .get(&port)
            .is_some_and(|(_, sent)| match self.kind.filter {
                Filter::Any => true,
                Filter::Address => sent.iter().any(|to| to.ip() == from.ip()),
                Filter::Port => sent.contains(&from),
            })
    }

    /// All is forgotten, as when the router begins anew: the next packets come from other ports.
    pub fn forget(&mut self) {
        self.next = self.holes.keys().max().map_or(FIRST_PORT, |most| most + 1);
        self.kind.keeps_ports = false;
        self.ports.clear();
        self.holes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_port_is_to_others_and_who_comes_in_are_as_its_kind_says() {
        let inner = at("192.168.1.2:7423");
        let (seed, peer, moved) = (
            at("203.0.113.1:1"),
            at("203.0.113.2:1"),
            at("203.0.113.2:9"),
        );
        for kind in [Kind::HOME, Kind::CARRIER, Kind::SYMMETRIC] {
            let mut nat = Nat::new(kind, "198.51.100.1".parse().unwrap());
            let shown = nat.out(inner, seed);
            assert_eq!(nat.whose(shown.port()), Some(inner));
            assert_eq!(shown.port() == 7423, kind.keeps_ports);
            assert!(nat.lets_in(shown.port(), seed) && !nat.lets_in(shown.port(), peer));
            let again = nat.out(inner, peer);
            assert_eq!(again == shown, kind.mapping == Mapping::Independent);
            assert!(nat.lets_in(again.port(), peer));
            let address = kind.filter == Filter::Address;
            assert_eq!(nat.lets_in(again.port(), moved), address);
            nat.forget();
            assert!(!nat.lets_in(shown.port(), seed));
            assert_ne!(nat.out(inner, seed), shown);
        }
    }

    #[test]
    fn two_hosts_with_one_port_are_told_apart() {
        let mut nat = Nat::new(Kind::HOME, "198.51.100.1".parse().unwrap());
        let seed = at("203.0.113.1:1");
        let one = nat.out(at("192.168.1.2:7423"), seed);
        let two = nat.out(at("192.168.1.3:7423"), seed);
        assert_ne!(one, two);
    }
}
