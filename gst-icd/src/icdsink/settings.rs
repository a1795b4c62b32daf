//! What the user sets on an `icdsink`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use icd_grid::{Bitrate, StreamKey};

use crate::access::Access;
use crate::uri::{IcdUri, bind, number, unknown};

/// Range of `buffer-time`.
pub(crate) const BUFFER_TIME_MS: RangeInclusive<u64> = 500..=600_000;
/// Range of `max-buffer-bytes`.
pub(crate) const BUFFER_BYTES: RangeInclusive<u64> = 1024 * 1024..=u64::MAX;

/// Properties that parameters of a URI set; its address sets `address` and `port`.
pub(crate) const PARAMETERS: [&str; 9] = [
    "buffer-time",
    "max-upload-bitrate",
    "max-viewers",
    "max-viewers-per-address",
    "max-buffer-bytes",
    "key-file",
    "token-file",
    "stream-name",
    "announce-address",
];

/// All addresses, IPv4 and IPv6.
const ALL: &str = "::";

/// Defaults stand here and nowhere else.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) access: Access,
    /// As it was set.
    pub(crate) uri: Option<String>,
    /// From a URI; must be the key's.
    pub(crate) expected_key: Option<StreamKey>,
    pub(crate) announce_address: Option<String>,
    pub(crate) stream_name: String,
    pub(crate) buffer_time: Duration,
    pub(crate) max_buffer_bytes: u64,
    pub(crate) max_upload: u64,
    pub(crate) max_viewers: u32,
    pub(crate) per_address: u32,
    pub(crate) show_addresses: bool,
    /// Why the URI that was set last is none; nothing starts with it.
    pub(crate) wrong: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: ALL.into(),
            port: icd_net::DEFAULT_PORT,
            key_file: None,
            access: Access::default(),
            uri: None,
            expected_key: None,
            announce_address: None,
            stream_name: String::new(),
            buffer_time: Duration::from_millis(10_000),
            max_buffer_bytes: 256 * 1024 * 1024,
            max_upload: 0,
            max_viewers: 0,
            per_address: 256,
            show_addresses: false,
            wrong: None,
        }
    }
}

impl Settings {
    /// The address to bind; none is all, dual stack.
    pub(crate) fn bind(&self) -> Result<Option<IpAddr>, String> {
        bind("address", &self.address)
    }

    pub(crate) fn upload(&self) -> Option<Bitrate> {
        (self.max_upload > 0).then_some(Bitrate(self.max_upload))
    }

    pub(crate) fn viewers(&self) -> Option<usize> {
        (self.max_viewers > 0).then_some(self.max_viewers as usize)
    }

    pub(crate) fn viewers_per_address(&self) -> Option<usize> {
        (self.per_address > 0).then_some(self.per_address as usize)
    }

    /// Takes over what a URI says; nothing is changed if any of it is wrong.
    pub(crate) fn apply(&mut self, text: &str) -> Result<(), String> {
        let uri = IcdUri::parse(text).map_err(|e| e.to_string())?;
        let mut new = self.clone();
        let [(host, port)] = &uri.hosts[..] else {
            return Err("icdsink listens at one address, the URI names several".into());
        };
        new.address = match host.as_str() {
            "" => ALL.into(),
            host => host.into(),
        };
        new.bind()?;
        new.port = *port;
        new.expected_key = uri.key;
        for (name, value) in &uri.parameters {
            let number = |range| number(name, value, range);
            match name.as_str() {
                "buffer-time" => new.buffer_time = Duration::from_millis(number(BUFFER_TIME_MS)?),
                "max-upload-bitrate" => new.max_upload = number(0..=u64::MAX)?,
                "max-viewers" => new.max_viewers = number(0..=u64::from(u32::MAX))? as u32,
                "max-viewers-per-address" => {
                    new.per_address = number(0..=u64::from(u32::MAX))? as u32;
                }
                "max-buffer-bytes" => new.max_buffer_bytes = number(BUFFER_BYTES)?,
                "key-file" => new.key_file = Some(value.into()),
                "token-file" => new.access.file = Some(value.into()),
                "stream-name" => new.stream_name.clone_from(value),
                "announce-address" => new.announce_address = Some(value.clone()),
                _ => return Err(unknown("icdsink", name, &PARAMETERS)),
            }
        }
        new.uri = Some(text.into());
        new.wrong = None;
        *self = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_sets_properties_or_nothing() {
        let mut settings = Settings::default();
        settings
            .apply("icd://[::1]:9000?max-viewers=5&buffer-time=3000")
            .unwrap();
        assert_eq!((settings.port, settings.max_viewers), (9000, 5));
        assert_eq!(settings.bind(), Ok(Some("::1".parse().unwrap())));
        assert!(settings.apply("icd://127.0.0.1:1?latency=3").is_err());
        let low = settings.apply("icd://127.0.0.1:1?buffer-time=3");
        assert!(low.unwrap_err().contains("from 500 to 600000"));
        assert_eq!(settings.port, 9000);
        settings.apply("icd://?buffer-time=1000").unwrap();
        let all = (icd_net::DEFAULT_PORT, Ok(None));
        assert_eq!((settings.port, settings.bind()), all);
        settings.apply("icd://:9001").unwrap();
        assert_eq!((settings.port, settings.bind()), (9001, Ok(None)));
        assert!(
            settings
                .apply("icd://somewhere")
                .unwrap_err()
                .contains("IP address")
        );
    }
}
