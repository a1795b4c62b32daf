//! What the user sets on an `icdsrc`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use icd_grid::{Bitrate, Policy, ViewerSettings};
use icd_net::ViewerConfig;

use crate::access::Access;
use crate::uri::{BadUri, IcdUri, bind, flag, number, unknown, without};

/// Range of `latency`.
pub(crate) const LATENCY_MS: RangeInclusive<u64> = 0..=600_000;
/// Range of `max-peers`.
pub(crate) const PEERS: RangeInclusive<u64> = 1..=1000;

/// Properties that parameters of a URI set.
pub(crate) const PARAMETERS: [&str; 9] = [
    "latency",
    "relay",
    "seed-only",
    "max-upload-bitrate",
    "max-upload-volume",
    "max-peers",
    "bind-address",
    "bind-port",
    "timeout",
];

/// The parameter of a URI that sets `access-token`, which nobody can read.
const TOKEN: &str = "token";

/// Defaults stand here and nowhere else.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// As the user wrote it, and understood.
    pub(crate) uri: Option<(String, IcdUri)>,
    pub(crate) latency: Duration,
    pub(crate) access: Access,
    pub(crate) relay: bool,
    pub(crate) seed_only: bool,
    pub(crate) show_addresses: bool,
    pub(crate) max_upload: u64,
    /// Zero is unlimited.
    pub(crate) max_volume: u64,
    pub(crate) max_peers: u32,
    pub(crate) bind_address: String,
    pub(crate) bind_port: u16,
    /// Zero keeps trying for ever.
    pub(crate) timeout: Duration,
    /// Why the URI that was set last is none; nothing starts with it.
    pub(crate) wrong: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            uri: None,
            latency: Duration::from_millis(2000),
            access: Access::default(),
            relay: true,
            seed_only: false,
            show_addresses: false,
            max_upload: 0,
            max_volume: 0,
            // A strong uplink feeds one stripe each to so many.
            max_peers: 100,
            bind_address: "::".into(),
            bind_port: 0,
            timeout: Duration::ZERO,
            wrong: None,
        }
    }
}

impl Settings {
    /// What the user says that the line carries; none: it is found out.
    pub(crate) fn upload(&self) -> Option<Bitrate> {
        (self.max_upload > 0).then_some(Bitrate(self.max_upload))
    }

    /// In bytes; none is unlimited.
    pub(crate) fn volume(&self) -> Option<u64> {
        (self.max_volume > 0).then_some(self.max_volume)
    }

    fn bind(&self) -> Result<Option<IpAddr>, String> {
        bind("bind-address", &self.bind_address)
    }

    /// Takes over what a URI says; nothing is changed if any of it is wrong. What is said then holds no
    /// token, wherever that stands.
    pub(crate) fn apply(&mut self, text: &str) -> Result<(), String> {
        let Err(why) = self.take_over(text) else {
            return Ok(());
        };
        let Some(at) = text.to_ascii_lowercase().find(TOKEN) else {
            return Err(why);
        };
        let before = text[..at].trim_end_matches(|c: char| !c.is_alphanumeric());
        let scheme = "icd://".len().min(at);
        Err(match self.clone().take_over(&text[..before.len().max(scheme)]) {
            Err(why) => why,
            Ok(()) => "the URI is not understood from its token on: parameters are written ?name=value&name=value, and &, # and % in a token %26, %23 and %25; token-file is a property, not a parameter".into(),
        })
    }

    fn take_over(&mut self, text: &str) -> Result<(), String> {
        let mut uri = IcdUri::parse(text).map_err(|e| e.to_string())?;
        if uri.hosts.iter().any(|(host, _)| host.is_empty()) {
            return Err(BadUri::NoHost.to_string());
        }
        if let Some((host, _)) = uri.hosts.iter().find(|(host, _)| is_nobody(host)) {
            return Err(format!(
                "{host} is the address of no single host; the URI names the broadcaster's"
            ));
        }
        let mut new = self.clone();
        new.access.leave_uri();
        for (name, value) in &uri.parameters {
            let number = |range| number(name, value, range);
            match name.as_str() {
                "latency" => new.latency = Duration::from_millis(number(LATENCY_MS)?),
                TOKEN => new.access.of_uri(value),
                "relay" => new.relay = flag(name, value)?,
                "seed-only" => new.seed_only = flag(name, value)?,
                "max-upload-bitrate" => new.max_upload = number(0..=u64::MAX)?,
                "max-upload-volume" => new.max_volume = number(0..=u64::MAX)?,
                "max-peers" => new.max_peers = number(PEERS)? as u32,
                "bind-address" => new.bind_address.clone_from(value),
                "bind-port" => {
                    new.bind_port = number(0..=u64::from(u16::MAX))? as u16;
                }
                "timeout" => new.timeout = Duration::from_millis(number(0..=u64::from(u32::MAX))?),
                _ => {
                    return Err(unknown(
                        "icdsrc",
                        name,
                        &[&PARAMETERS[..], &[TOKEN]].concat(),
                    ));
                }
            }
        }
        new.bind()?;
        uri.parameters.retain(|(name, _)| name != TOKEN);
        new.uri = Some((without(text, TOKEN), uri));
        new.wrong = None;
        *self = new;
        Ok(())
    }

    /// For the network; an error says what is missing or wrong.
    pub(crate) fn config(&self) -> Result<ViewerConfig, String> {
        if let Some(why) = &self.wrong {
            return Err(why.clone());
        }
        let Some((_, uri)) = &self.uri else {
            return Err(
                "set uri=icd://KEY@host:port, as the broadcaster's icdsink shows it".into(),
            );
        };
        if let Some((host, _)) = uri.hosts.iter().find(|(_, port)| *port == 0) {
            return Err(format!(
                "port 0 of {host} can't be dialed; copy the URI that icdsink shows"
            ));
        }
        let token = self.access.token()?;
        if token.is_some() && uri.key.is_none() {
            return Err(
                "a token is shown only to a broadcaster whose key is known; set uri=icd://KEY@host:port, as its icdsink shows it".into(),
            );
        }
        Ok(ViewerConfig {
            hosts: uri.hosts.clone(),
            address: self.bind()?,
            port: self.bind_port,
            node: ViewerSettings {
                latency: self.latency,
                upload: self.upload().unwrap_or(Bitrate(u64::MAX)),
                relay: self.relay,
                measure: self.upload().is_none(),
                volume: self.volume(),
                seed_only: self.seed_only,
                max_peers: self.max_peers as usize,
                lan: None,
                stream: uri.key,
                token,
                policy: Policy::default(),
            },
        })
    }
}

/// Whether this is an address at which nobody can be.
fn is_nobody(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    address.is_ok_and(|ip| {
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        ip.is_unspecified() || ip.is_multicast() || broadcast
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_sets_properties_or_nothing() {
        let mut settings = Settings::default();
        settings.apply("icd://host?latency=500&relay=no").unwrap();
        assert_eq!((settings.latency.as_millis(), settings.relay), (500, false));
        assert!(settings.apply("icd://host?latency=soon").is_err());
        assert!(settings.apply("icd://host?port=3").is_err());
        assert!(settings.apply("icd://:9000").is_err());
        assert!(settings.apply("icd://").unwrap_err().contains("no host"));
        assert!(settings.apply("icd://239.1.2.3").is_err());
        assert_eq!(settings.latency.as_millis(), 500);
        assert!(Settings::default().config().unwrap_err().contains("uri="));
    }
}
