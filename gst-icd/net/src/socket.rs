//! The UDP socket of a node.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

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
}
