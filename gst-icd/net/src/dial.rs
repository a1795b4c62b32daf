//! Reaching the seed or another viewer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use icd_grid::{Lost, NodeId};
use quinn::{Connection, Endpoint};
use tokio::task::JoinSet;

use crate::identity::Identity;

/// Attempts begin this far apart (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// A round of attempts; then the node decides anew.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_ADDRESSES: usize = 8;

/// One dial: all addresses, one after the other, the first that answers.
pub(crate) async fn dial(
    endpoint: Endpoint,
    identity: Arc<Identity>,
    transport: Arc<quinn::TransportConfig>,
    hosts: Vec<(String, u16)>,
    expected: Option<NodeId>,
) -> Result<Connection, Lost> {
    let tls = identity
        .client(expected)
        .map_err(|e| Lost::Other(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport);
    let mut why = Lost::from("nobody answers");
    let last = &mut why;
    let attempts = async move {
        let (mut addrs, found) = resolve(&hosts).await;
        if addrs.is_empty() {
            return Err(found);
        }
        if let Ok(local) = endpoint.local_addr() {
            addrs.retain(|a| reaches(local.ip(), a.ip()));
            if addrs.is_empty() {
                return Err(Lost::Bound(local.ip()));
            }
        }
        let mut running = JoinSet::new();
        let mut next = addrs.iter().cycle();
        let mut started = 0;
        let mut wrong = 0;
        loop {
            // A packet to a port where nobody listens yet is lost, so the same address is tried
            // again while earlier attempts still run.
            if (started < addrs.len() || started % 2 == 0)
                && let Some(addr) = next.next()
            {
                match endpoint.connect_with(config.clone(), *addr, "icd") {
                    Ok(connecting) => {
                        running.spawn(connecting);
                    }
                    Err(error) => *last = Lost::Other(error.to_string()),
                }
            }
            started += 1;
            let pause = tokio::time::sleep(STAGGER);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(done) = running.join_next() => match done {
                        Ok(Ok(connection)) => return Ok(connection),
                        Ok(Err(error)) => {
                            let error = error.to_string();
                            *last = match error.contains(crate::identity::WRONG_KEY) {
                                true => Lost::WrongKey,
                                false => Lost::Other(error),
                            };
                            if *last == Lost::WrongKey {
                                wrong += 1;
                                // Another of them may hold the right one.
                                if wrong >= addrs.len() {
                                    return Err(Lost::WrongKey);
                                }
                            }
                        }
                        Err(_) => {}
                    },
                }
            }
        }
    };
    match tokio::time::timeout(PATIENCE, attempts).await {
        Ok(done) => done,
        Err(_) => Err(why),
    }
}

/// Whether packets from one address find their way to the other, as far as their kinds go.
fn reaches(from: IpAddr, to: IpAddr) -> bool {
    match from {
        IpAddr::V4(_) => to.is_ipv4(),
        // All addresses, dual stack.
        IpAddr::V6(from) => from.is_unspecified() || to.is_ipv6(),
    }
}

async fn resolve(hosts: &[(String, u16)]) -> (Vec<SocketAddr>, Lost) {
    let mut addrs = Vec::new();
    let mut why = Lost::from("no address");
    for (host, port) in hosts {
        match tokio::net::lookup_host((host.as_str(), *port)).await {
            Ok(found) => addrs.extend(found),
            Err(error) => why = Lost::NoHost(format!("{host:?}: {error}")),
        }
    }
    addrs.dedup();
    addrs.truncate(MAX_ADDRESSES);
    (addrs, why)
}
