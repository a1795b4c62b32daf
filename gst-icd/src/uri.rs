//! `icd://KEY@host:port[,host:port…][?name=value&…]`

use std::ops::RangeInclusive;

use icd_grid::StreamKey;
use icd_net::DEFAULT_PORT;

/// A parsed URI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct IcdUri {
    pub(crate) key: Option<StreamKey>,
    /// Host names or addresses (IPv6 without brackets), each with its port.
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) parameters: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadUri {
    #[error(
        "an icd URI looks like icd://KEY@host:port?latency=2000, this does not begin with icd://"
    )]
    Scheme,
    #[error("the URI names no host: icd://KEY@host:port")]
    NoHost,
    #[error("the URI names a key and no host: icd://KEY@host:port")]
    OnlyKey,
    #[error(
        "{0:?} is no port: a number from 1 to 65535 (0 at icdsink: a free one) follows the last colon of the host"
    )]
    Port(String),
    #[error("{0:?} is no host: a name or an IP address stands there, and after it at most :port")]
    Host(String),
    #[error("an IPv6 address stands in brackets: icd://KEY@[2001:db8::1]:port")]
    Brackets,
    #[error("{0:?} has a zone, which is not understood: use an address that is valid everywhere")]
    Zone(String),
    #[error("{0}")]
    Key(#[from] icd_grid::ids::BadStreamKey),
    #[error("{0:?} is no parameter: write name=value")]
    Parameter(String),
}

impl IcdUri {
    pub(crate) fn parse(text: &str) -> Result<Self, BadUri> {
        let rest = match text.get(..6) {
            Some(scheme) if scheme.eq_ignore_ascii_case("icd://") => &text[6..],
            _ => return Err(BadUri::Scheme),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = authority.trim_end_matches('/');
        let (key, hosts) = match authority.rsplit_once('@') {
            Some((key, hosts)) => (Some(key.parse()?), hosts),
            None => (None, authority),
        };
        let mut uri = Self {
            key,
            ..Self::default()
        };
        for host in hosts.split(',') {
            let (host, port) = split_host(host)?;
            if uri.key.is_none() && host.parse::<StreamKey>().is_ok() {
                return Err(BadUri::OnlyKey);
            }
            uri.hosts.push((host, port.unwrap_or(DEFAULT_PORT)));
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                // What may be a secret is not said again.
                .ok_or_else(|| BadUri::Parameter(pair.split('%').next().unwrap_or(pair).into()))?;
            uri.parameters.push((unescape(name), unescape(value)));
        }
        Ok(uri)
    }

    /// For viewers that can reach `host`.
    pub(crate) fn for_viewers(key: StreamKey, host: &str, port: u16) -> String {
        let host = bracketed(host);
        match port {
            DEFAULT_PORT => format!("icd://{key}@{host}"),
            port => format!("icd://{key}@{host}:{port}"),
        }
    }
}

/// A host as it stands in a URI, where a port may follow.
pub(crate) fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_string(),
    }
}

/// Refuses what is no host name or address, as with a port.
pub(crate) fn host_alone(name: &str, value: &str) -> Result<(), String> {
    let bare = value.trim_matches(['[', ']']);
    let address = bare.parse::<std::net::IpAddr>().is_ok();
    if address || (!bare.is_empty() && bare.chars().all(of_a_name)) {
        return Ok(());
    }
    Err(format!(
        "{name} {value:?} is neither a host name nor an IP address; the port is a property of its own"
    ))
}

/// The address to bind that a property names; none is all, dual stack.
pub(crate) fn bind(name: &str, value: &str) -> Result<Option<std::net::IpAddr>, String> {
    match value.trim_matches(['[', ']']) {
        "" | "::" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!("{name} {text:?} is no IP address; use :: for all, or one of this machine's")
        }),
    }
}

/// The value of a parameter that sets a property with this range.
pub(crate) fn number(name: &str, value: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        format!("{name}={value}: a whole number from {least} to {most} is expected")
    })
}

/// The value of a parameter that sets a property to true or false.
pub(crate) fn flag(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("{name}={value}: true or false is expected")),
    }
}

/// What is said of a parameter that is none of `known`.
pub(crate) fn unknown(element: &str, name: &str, known: &[&str]) -> String {
    let known = known.join(", ");
    format!("{element} has no URI parameter {name:?}, but these: {known}")
}

/// A URI without one of its parameters, and without what follows a `#`.
pub(crate) fn without(text: &str, parameter: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let Some((base, query)) = text.split_once('?') else {
        return text.into();
    };
    let is_it = |pair: &&str| unescape(pair.split('=').next().unwrap_or_default()) == parameter;
    let kept: Vec<_> = query.split('&').filter(|pair| !is_it(pair)).collect();
    match kept.is_empty() {
        true => base.into(),
        false => format!("{base}?{}", kept.join("&")),
    }
}

fn split_host(text: &str) -> Result<(String, Option<u16>), BadUri> {
    let port = |text: &str| match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| BadUri::Port(text.into())),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(BadUri::Brackets)?;
        if host.contains('%') {
            return Err(BadUri::Zone(host.into()));
        }
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| BadUri::Brackets)?;
        return match rest.strip_prefix(':') {
            Some(number) => Ok((host.into(), port(number)?)),
            None if rest.is_empty() => Ok((host.into(), None)),
            None => Err(BadUri::Brackets),
        };
    }
    let (host, number) = text.split_once(':').unwrap_or((text, ""));
    if number.contains(':') {
        return Err(BadUri::Brackets);
    }
    let port = port(number)?;
    if !host.chars().all(of_a_name) {
        return Err(BadUri::Host(host.into()));
    }
    Ok((host.into(), port))
}

/// In international names, too.
fn of_a_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '.' | '_')
}

/// Undoes percent-encoding; what is not well-formed stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StreamKey {
        StreamKey([5; 32])
    }

    #[test]
    fn what_viewers_are_given_is_what_they_parse() {
        for (host, port) in [
            ("example.org", 9000),
            ("::1", DEFAULT_PORT),
            ("10.0.0.1", 1),
        ] {
            let text = IcdUri::for_viewers(key(), host, port);
            let uri = IcdUri::parse(&text).unwrap();
            assert_eq!(uri.key, Some(key()));
            assert_eq!(uri.hosts, [(host.to_string(), port)]);
        }
        let text = IcdUri::for_viewers(key(), "example.org", DEFAULT_PORT);
        assert!(
            text.ends_with("@example.org"),
            "the default port is left out"
        );
    }

    #[test]
    fn parameters_and_several_hosts_are_understood() {
        let uri = IcdUri::parse("ICD://a:1,[::1]:2,b?latency=500&name=a%20b").unwrap();
        let hosts = [
            ("a".into(), 1),
            ("::1".into(), 2),
            ("b".into(), DEFAULT_PORT),
        ];
        assert_eq!(uri.hosts, hosts);
        let parameters = [("latency", "500"), ("name", "a b")];
        assert_eq!(
            uri.parameters,
            parameters.map(|(n, v)| (n.into(), v.into()))
        );
    }

    #[test]
    fn a_parameter_is_left_out_however_it_is_written() {
        for (text, rest) in [
            ("icd://a?token=x", "icd://a"),
            (
                "icd://a?latency=5&token=x&relay=no#f",
                "icd://a?latency=5&relay=no",
            ),
            ("icd://a?%74oken=x&latency=5", "icd://a?latency=5"),
            ("icd://a?tokens=1", "icd://a?tokens=1"),
            ("icd://a#?token=x", "icd://a"),
            ("icd://a", "icd://a"),
        ] {
            assert_eq!(without(text, "token"), rest);
        }
    }

    #[test]
    fn nonsense_is_told_what_is_wrong() {
        let said = |text: &str| IcdUri::parse(text).unwrap_err();
        assert_eq!(said("http://a"), BadUri::Scheme);
        assert_eq!(said("icd"), BadUri::Scheme);
        assert_eq!(said("icd://a:70000"), BadUri::Port("70000".into()));
        assert_eq!(said("icd://a/b"), BadUri::Host("a/b".into()));
        assert_eq!(said("icd://a b"), BadUri::Host("a b".into()));
        assert_eq!(said("icd://::1"), BadUri::Brackets);
        assert_eq!(said("icd://[::1"), BadUri::Brackets);
        assert_eq!(
            said("icd://[fe80::1%eth0]"),
            BadUri::Zone("fe80::1%eth0".into())
        );
        assert!(matches!(said("icd://short@a"), BadUri::Key(_)));
        assert_eq!(said("icd://a?latency"), BadUri::Parameter("latency".into()));
        let odd = said("icd://a?token%3Dsecret");
        assert_eq!(odd, BadUri::Parameter("token".into()));
    }
}
