//! The UDP socket of a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// quinn leaves the system's 208 KiB, which loses packets at a burst (notes on transport:
/// 3 to 5 % at full speed).
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has the port.
    #[error("UDP port {0} is in use; choose another, or 0 for a free one")]
    InUse(SocketAddr),
    /// The address is not one of this machine's.
    #[error("{0} is not an address of this machine; name one that is, or :: for all")]
    NotOurs(SocketAddr),
    /// The system keeps low ports to itself.
    #[error("UDP port {0} takes privileges; choose one from 1024 on")]
    Forbidden(SocketAddr),
    /// Anything else.
    #[error("cannot open a UDP socket at {0}: {1}")]
    Other(SocketAddr, std::io::Error),
}

fn open(addr: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The system may grant less; that is no reason to fail.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Binds a socket. Without an address: dual stack, or IPv4 where there is no IPv6.
pub(crate) fn bind(addr: Option<std::net::IpAddr>, port: u16) -> Result<UdpSocket, BindError> {
    let explain = |addr: SocketAddr, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => BindError::InUse(addr),
        std::io::ErrorKind::AddrNotAvailable => BindError::NotOurs(addr),
        std::io::ErrorKind::PermissionDenied if (1..1024).contains(&addr.port()) => {
            BindError::Forbidden(addr)
        }
        _ => BindError::Other(addr, error),
    };
    if let Some(ip) = addr {
        let addr = SocketAddr::new(ip, port);
        return open(addr).map_err(|error| explain(addr, error));
    }
    let six = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match open(six) {
        Ok(socket) => Ok(socket),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(explain(six, error)),
        Err(_) => {
            let four = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            open(four).map_err(|error| explain(four, error))
        }
    }
}

/// Where a socket is in its own network, for others there: where that network's addresses are private ones.
pub(crate) fn in_own_network(bound: SocketAddr) -> Option<SocketAddr> {
    let ip = match bound.ip().to_canonical() {
        ip if ip.is_unspecified() => sends_from().ok()?,
        ip => ip,
    };
    let private = matches!(ip, IpAddr::V4(ip) if ip.is_private() || ip.is_link_local());
    private.then(|| SocketAddr::new(ip, bound.port()))
}

/// What the system would send from to anybody outside (an address of RFC 5737). Nothing is sent.
fn sends_from() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_called_so() {
        let first = bind(None, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        assert!(matches!(bind(None, port), Err(BindError::InUse(_))));
        let foreign = Some([192, 0, 2, 1].into());
        assert!(matches!(bind(foreign, 0), Err(BindError::NotOurs(_))));
    }

    #[test]
    fn only_a_private_address_is_one_of_an_own_network() {
        let own = |addr: &str| in_own_network(addr.parse().unwrap());
        let private = "192.168.7.9:7423";
        assert_eq!(own(private), Some(private.parse().unwrap()));
        assert_eq!(own("203.0.113.5:1"), None);
        assert_eq!(own("127.0.0.1:1"), None);
        assert_eq!(own("[2001:db8::1]:1"), None);
    }
}
