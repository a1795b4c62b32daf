//! IPv4 packets with UDP in them, as a NAT changes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An IPv4 header without options; then comes UDP's.
const IP: usize = 20;
const UDP: u8 = 17;

/// From where to where, of a packet with UDP in it.
pub fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let header = packet.get(..IP + 8)?;
    if header[0] != 0x45 || header[9] != UDP {
        return None;
    }
    let end = |ip: usize, port: usize| {
        let ip: [u8; 4] = header[ip..ip + 4].try_into().ok()?;
        let port = u16::from_be_bytes([header[port], header[port + 1]]);
        Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
    };
    Some((end(12, IP)?, end(16, IP + 2)?))
}

/// The same packet with other ends.
pub fn readdress(packet: &mut [u8], from: SocketAddr, to: SocketAddr) {
    for (addr, ip, port) in [(from, 12, IP), (to, 16, IP + 2)] {
        if let IpAddr::V4(four) = addr.ip() {
            packet[ip..ip + 4].copy_from_slice(&four.octets());
            packet[port..port + 2].copy_from_slice(&addr.port().to_be_bytes());
        }
    }
    // UDP needs none over IPv4 (RFC 768); the header's own is that of RFC 791.
    packet[IP + 6..IP + 8].fill(0);
    packet[10..12].fill(0);
    let words = packet[..IP].chunks(2);
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_gets_other_ends_and_a_sum_that_is_right() {
        let mut packet = [0_u8; 40];
        packet[0] = 0x45;
        packet[8] = 64;
        packet[9] = UDP;
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let ends_now = (at("192.168.1.2:7423"), at("10.77.0.1:1"));
        readdress(&mut packet, ends_now.0, ends_now.1);
        assert_eq!(ends(&packet), Some(ends_now));
        let words = packet[..IP].chunks(2);
        let sum: u32 = words
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        packet[9] = 6;
        assert_eq!(ends(&packet), None, "that is TCP");
    }
}
