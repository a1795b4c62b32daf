//! What the broadcaster signs beside the pieces: stream headers, tickets, beacons.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cutter::Format;
use crate::ids::{Epoch, NodeId, SenderTime, Seq};
use crate::trust::{Context, SIGNATURE_BYTES, Sign, Verify};

/// Something that the broadcaster signs for one purpose.
pub trait Record: Serialize + DeserializeOwned {
    /// The purpose.
    const CONTEXT: Context;
}

/// A record as it travels: encoded, with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    body: Bytes,
    signature: Bytes,
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

impl<T: Record> Signed<T> {
    /// Signs a record.
    pub fn sign(record: &T, signer: &dyn Sign) -> Self {
        let body = Bytes::from(postcard::to_stdvec(record).unwrap_or_default());
        let signature = Bytes::copy_from_slice(&signer.sign(T::CONTEXT, &body));
        Self {
            body,
            signature,
            kind: PhantomData,
        }
    }

    /// Of record and signature.
    pub fn bytes(&self) -> usize {
        self.body.len() + self.signature.len()
    }

    /// The record, if the broadcaster signed it.
    pub fn open(&self, verifier: &dyn Verify) -> Option<T> {
        let signature: &[u8; SIGNATURE_BYTES] = self.signature[..].try_into().ok()?;
        if !verifier.verify(T::CONTEXT, &self.body, signature) {
            return None;
        }
        postcard::from_bytes(&self.body).ok()
    }
}

/// What holds for all pieces that name its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHeader {
    /// The seed's life.
    pub epoch: Epoch,
    /// Counts up from 1, through all epochs of a broadcaster's run.
    pub version: u32,
    /// Number of stripes; the same in all versions of an epoch.
    pub stripes: u8,
    /// Nominal duration of a piece, in microseconds; the same in all versions of an epoch.
    pub piece_us: u32,
    /// Mean rate of the stream when this was made, in bytes per second.
    pub bytes_per_second: u32,
    /// The container has a timeline of its own, so that a joiner should get the newest join
    /// point, not one whose picture is due at once (Matroska, WebM, FLV, Ogg).
    pub own_timeline: bool,
    /// What the media layer keeps here: caps, tags, the anchor of time. Opaque to the grid.
    pub media: Bytes,
}

impl StreamHeader {
    /// Largest `media` that a seed accepts.
    pub const MAX_MEDIA_BYTES: usize = 192 * 1024;

    /// Stripes and piece duration.
    pub fn format(&self) -> Format {
        Format {
            stripes: self.stripes.clamp(1, 64),
            piece: Duration::from_micros(u64::from(self.piece_us.max(1000))),
        }
    }
}

impl Record for StreamHeader {
    const CONTEXT: Context = Context::Header;
}

/// The seed's admission of one viewer, which it shows to other viewers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The seed's life.
    pub epoch: Epoch,
    /// The endpoint key that it is bound to.
    pub node: NodeId,
    /// Where the seed saw it.
    pub addr: SocketAddr,
    /// Good until the stream has come this far: stream time stands still with the seed.
    pub expires: SenderTime,
}

impl Record for Ticket {
    const CONTEXT: Context = Context::Ticket;
}

/// The seed's sign of life, once a second; shows replay, withholding and eclipse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The seed's life.
    pub epoch: Epoch,
    /// The newest piece.
    pub head: Seq,
    /// When this was signed.
    pub time: SenderTime,
    /// Mean rate of the stream, in bytes per second: the size of pieces follows it.
    pub bytes_per_second: u32,
    /// Viewers that were admitted and are there: see [`contact`].
    pub viewers: u32,
    /// The newest [`Bans`] of this epoch; zero for none.
    pub bans: u32,
}

/// From one report of a viewer to the next, in a grid of so many viewers (and, of a grid of twice as many,
/// from one of its pings to the next): what they all say together shall not grow with their number (notes on the
/// algorithm: reports every clamp(N/500, 1, 30) s).
pub fn contact(viewers: usize) -> Duration {
    Duration::from_secs_f64((viewers as f64 / 500.0).clamp(1.0, 30.0))
}

impl Record for Beacon {
    const CONTEXT: Context = Context::Beacon;
}

/// Viewers that the broadcaster excludes although their tickets may hold. The newest list of the newest
/// epoch counts, and it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bans {
    /// The seed's life.
    pub epoch: Epoch,
    /// Counts up.
    pub version: u32,
    /// Their endpoint keys, at most [`MAX_BANS`].
    pub nodes: Vec<NodeId>,
}

/// Nodes in [`Bans`]: a list of so many has the size of a piece.
pub const MAX_BANS: usize = 128;

impl Record for Bans {
    const CONTEXT: Context = Context::Bans;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{Ed25519Signer, Ed25519Verifier};
    use ed25519_dalek::SigningKey;

    #[test]
    fn many_viewers_report_less_often() {
        let seconds = [1, 500, 1000, 10_000, 1_000_000].map(|n| contact(n).as_secs());
        assert_eq!(seconds, [1, 1, 2, 20, 30]);
    }

    #[test]
    fn a_record_opens_only_unchanged_and_for_its_purpose() {
        let signer = Ed25519Signer::new(SigningKey::from_bytes(&[1; 32]));
        let verifier = Ed25519Verifier::new(signer.key()).unwrap();
        let ticket = Ticket {
            epoch: Epoch(1),
            node: NodeId([2; 32]),
            addr: ([192, 0, 2, 1], 7423).into(),
            expires: SenderTime(3),
        };
        let signed = Signed::sign(&ticket, &signer);
        let wire = postcard::to_stdvec(&signed).unwrap();
        let back: Signed<Ticket> = postcard::from_bytes(&wire).unwrap();
        assert_eq!(back.open(&verifier), Some(ticket));
        let beacon: Signed<Beacon> = postcard::from_bytes(&wire).unwrap();
        assert_eq!(beacon.open(&verifier), None);
        let mut forged = wire;
        forged[3] ^= 1;
        let forged: Signed<Ticket> = postcard::from_bytes(&forged).unwrap();
        assert_eq!(forged.open(&verifier), None);
    }
}
