//! Names of things: newtypes, so that a stripe is never taken for a sequence number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's Ed25519 public key; TLS proves that the node holds the private half.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The first eight bytes, which name a node in the paths of stripes.
    ///
    /// Two nodes that collide would only avoid each other as parents.
    pub fn short(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().unwrap_or_default())
    }
}

impl NodeId {
    /// The whole of it, as 52 letters of lower-case base32.
    pub fn whole(&self) -> String {
        StreamKey(self.0).to_string()
    }
}

/// The first eight letters of [`NodeId::whole`], for logs.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = data_encoding::BASE32_NOPAD
            .encode(&self.0[..5])
            .to_lowercase();
        f.write_str(&text)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The public half of the broadcaster's Ed25519 key pair. It names the stream.
///
/// Written as 52 letters of lower-case base32 (RFC 4648, no padding).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamKey(pub [u8; 32]);

/// A text is not the 52 base32 letters of a stream key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stream key has 52 letters out of a-z and 2-7, the last an a or a q; copy it whole from the URI that the broadcaster's icdsink shows"
)]
pub struct BadStreamKey;

impl FromStr for StreamKey {
    type Err = BadStreamKey;

    fn from_str(text: &str) -> Result<Self, BadStreamKey> {
        let bytes = data_encoding::BASE32_NOPAD
            .decode(text.to_uppercase().as_bytes())
            .map_err(|_| BadStreamKey)?;
        bytes.try_into().map(Self).map_err(|_| BadStreamKey)
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_lowercase())
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey({self})")
    }
}

/// One connection to another node. The driver of a node never reuses one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0 & !Self::DIALED)
    }
}

impl PeerId {
    /// Connections that a node dials have this bit; those that come in do not.
    pub const DIALED: u64 = 1 << 63;
}

/// Names one try of two nodes to reach each other. Both show it in their probes, and nobody else knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Meeting(pub [u8; 8]);

/// Number of a piece within an epoch, without gaps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    /// The stripe that this piece travels on, among `stripes` of them.
    pub fn stripe(self, stripes: u8) -> StripeId {
        StripeId((self.0 % u64::from(stripes.max(1))) as u8)
    }

    /// The piece `n` later; saturates.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All pieces with equal `seq mod K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StripeId(pub u8);

impl StripeId {
    /// As an index into a table of stripes.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One life of a seed; grows with every restart. In milliseconds of UTC at its start.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// Nanoseconds of the seed's monotonic clock since it started.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct SenderTime(pub u64);

impl SenderTime {
    /// How much later `self` is than `earlier`; zero if it is not.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Bitrate(pub u64);

impl Bitrate {
    /// The same in bytes per second.
    pub fn bytes_per_second(self) -> f64 {
        self.0 as f64 / 8.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_key_survives_its_text_in_either_case() {
        let key = StreamKey([7; 32]);
        let text = key.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().parse(), Ok(key));
        assert_eq!(text[1..].parse::<StreamKey>(), Err(BadStreamKey));
        assert_eq!("".parse::<StreamKey>(), Err(BadStreamKey));
    }

    #[test]
    fn neighbouring_pieces_lie_on_neighbouring_stripes() {
        assert_eq!(Seq(16).stripe(8), StripeId(0));
        assert_eq!(Seq(17).stripe(8), StripeId(1));
        assert_eq!(Seq(17).stripe(0), StripeId(0));
    }
}
