//! The smallest unit that is numbered, signed, buffered and relayed.
//!
//! On the wire a piece is a [`Hop`], which each node writes anew, and a body, which travels from
//! the seed to the last viewer unchanged:
//!
//! ```text
//! signature 64 | epoch 8 | seq 8 | time 8 | header 4 | first_item 4 | flags 1 | payload
//! ```
//!
//! All integers are little-endian. The signature covers everything but the payload, and the
//! payload's BLAKE3 hash.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{Epoch, SenderTime, Seq};
use crate::trust::{Context, DIGEST_BYTES, SIGNATURE_BYTES, Sign, Verify};

/// Bytes of a body before its payload.
pub const PREFIX_BYTES: usize = SIGNATURE_BYTES + INFO_BYTES;
const INFO_BYTES: usize = 8 + 8 + 8 + 4 + 4 + 1;
const SIGNED_BYTES: usize = INFO_BYTES + DIGEST_BYTES;

/// Largest payload of a piece. At 20 ms a piece this is 100 Mbit/s; faster streams have
/// shorter pieces.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

const FLAG_JOIN: u8 = 1;
const FLAG_END: u8 = 2;

/// The signed facts about a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceInfo {
    /// The seed's life that it belongs to.
    pub epoch: Epoch,
    /// Its number.
    pub seq: Seq,
    /// When its first byte entered the seed.
    pub time: SenderTime,
    /// Version of the stream header that holds at its first item.
    pub header: u32,
    /// Where in the payload the first item begins that did not begin in an earlier piece.
    pub first_item: Option<u32>,
    /// A decoder can start here.
    pub join: bool,
    /// The broadcaster ended the stream with this piece.
    pub end: bool,
}

impl PieceInfo {
    fn encode(&self) -> [u8; INFO_BYTES] {
        let mut bytes = [0; INFO_BYTES];
        bytes[0..8].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.header.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.first_item.unwrap_or(u32::MAX).to_le_bytes());
        bytes[32] = u8::from(self.join) * FLAG_JOIN + u8::from(self.end) * FLAG_END;
        bytes
    }

    fn decode(bytes: &[u8; INFO_BYTES]) -> Self {
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let u32_at = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        Self {
            epoch: Epoch(u64_at(0)),
            seq: Seq(u64_at(8)),
            time: SenderTime(u64_at(16)),
            header: u32_at(24),
            first_item: Some(u32_at(28)).filter(|at| *at != u32::MAX),
            join: bytes[32] & FLAG_JOIN != 0,
            end: bytes[32] & FLAG_END != 0,
        }
    }
}

/// Why bytes are no piece of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// Shorter than the fixed part.
    #[error("the piece is cut off")]
    Truncated,
    /// More payload than any seed sends.
    #[error("the piece is larger than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// Not signed by the broadcaster.
    #[error("the broadcaster did not sign this piece")]
    Forged,
}

/// A verified (or self-made) piece. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Piece {
    info: PieceInfo,
    body: Bytes,
}

fn signed_part(info: &[u8; INFO_BYTES], digest: &[u8; DIGEST_BYTES]) -> [u8; SIGNED_BYTES] {
    let mut message = [0; SIGNED_BYTES];
    message[..INFO_BYTES].copy_from_slice(info);
    message[INFO_BYTES..].copy_from_slice(digest);
    message
}

impl Piece {
    /// Numbers and signs a payload. What exceeds [`MAX_PAYLOAD_BYTES`] is the caller's mistake.
    pub fn sign(info: PieceInfo, payload: &[u8], signer: &dyn Sign) -> Self {
        debug_assert!(payload.len() <= MAX_PAYLOAD_BYTES);
        let encoded = info.encode();
        let signature = signer.sign(
            Context::Piece,
            &signed_part(&encoded, &signer.digest(payload)),
        );
        let mut body = BytesMut::with_capacity(PREFIX_BYTES + payload.len());
        body.put_slice(&signature);
        body.put_slice(&encoded);
        body.put_slice(payload);
        Self {
            info,
            body: body.freeze(),
        }
    }

    /// Verifies a body that came off the wire.
    pub fn verify(body: Bytes, verifier: &dyn Verify) -> Result<Self, PieceError> {
        let Some((signature, rest)) = body.split_first_chunk::<SIGNATURE_BYTES>() else {
            return Err(PieceError::Truncated);
        };
        let Some((encoded, payload)) = rest.split_first_chunk::<INFO_BYTES>() else {
            return Err(PieceError::Truncated);
        };
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PieceError::TooLarge);
        }
        let message = signed_part(encoded, &verifier.digest(payload));
        if !verifier.verify(Context::Piece, &message, signature) {
            return Err(PieceError::Forged);
        }
        Ok(Self {
            info: PieceInfo::decode(encoded),
            body,
        })
    }

    /// The signed facts.
    pub fn info(&self) -> &PieceInfo {
        &self.info
    }

    /// What travels from node to node.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The bytes of the stream; shared, not copied.
    pub fn payload(&self) -> Bytes {
        self.body.slice(PREFIX_BYTES..)
    }
}

/// What a body claims, before it is verified; to drop a duplicate cheaply.
pub fn claimed(body: &[u8]) -> Option<PieceInfo> {
    let info = body.get(SIGNATURE_BYTES..)?;
    info.first_chunk::<INFO_BYTES>().map(PieceInfo::decode)
}

/// Why a piece was sent to this neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It was subscribed.
    Push,
    /// It belongs to the recent past that a new subscriber asked for.
    Backlog,
    /// It was pulled.
    Pull,
}

/// What one node tells the next about the passage of a piece. Not signed: it speaks of this
/// hop alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Microseconds of the sending node's own clock, for one-way delay variation.
    pub sent_us: u64,
    /// Microseconds that the piece waited in the sending node's uplink queue.
    pub queued_us: u32,
    /// Why it was sent.
    pub why: Why,
}

impl Hop {
    /// Bytes on the wire.
    pub const BYTES: usize = 13;

    /// For the wire.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.sent_us.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.queued_us.to_le_bytes());
        bytes[12] = self.why as u8;
        bytes
    }

    /// From the wire.
    pub fn decode(hop: &[u8; Self::BYTES]) -> Self {
        let mut sent = [0; 8];
        sent.copy_from_slice(&hop[..8]);
        let mut queued = [0; 4];
        queued.copy_from_slice(&hop[8..12]);
        let why = match hop[12] {
            0 => Why::Push,
            1 => Why::Backlog,
            _ => Why::Pull,
        };
        Self {
            sent_us: u64::from_le_bytes(sent),
            queued_us: u32::from_le_bytes(queued),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{Ed25519Signer, Ed25519Verifier};
    use ed25519_dalek::SigningKey;

    fn signed(payload: &[u8]) -> (Piece, Ed25519Verifier) {
        let signer = Ed25519Signer::new(SigningKey::from_bytes(&[1; 32]));
        let info = PieceInfo {
            epoch: Epoch(5),
            seq: Seq(77),
            time: SenderTime(123_456),
            header: 2,
            first_item: Some(3),
            join: true,
            end: false,
        };
        let piece = Piece::sign(info, payload, &signer);
        (piece, Ed25519Verifier::new(signer.key()).unwrap())
    }

    #[test]
    fn a_piece_survives_the_wire() {
        let (piece, verifier) = signed(b"payload");
        let back = Piece::verify(piece.body().clone(), &verifier).unwrap();
        assert_eq!(back.info(), piece.info());
        assert_eq!(&back.payload()[..], b"payload");
        assert_eq!(claimed(piece.body()), Some(*piece.info()));
    }

    #[test]
    fn no_single_changed_bit_passes() {
        let (piece, verifier) = signed(b"payload");
        for at in 0..piece.body().len() {
            let mut body = piece.body().to_vec();
            body[at] ^= 1;
            let found = Piece::verify(body.into(), &verifier).map(|_| ());
            assert_eq!(found, Err(PieceError::Forged), "byte {at}");
        }
    }

    #[test]
    fn cut_and_extended_pieces_are_refused() {
        let (piece, verifier) = signed(b"payload");
        for len in 0..piece.body().len() {
            assert!(Piece::verify(piece.body().slice(..len), &verifier).is_err());
        }
        let mut longer = piece.body().to_vec();
        longer.push(0);
        assert!(Piece::verify(longer.into(), &verifier).is_err());
        let huge = vec![0; PREFIX_BYTES + MAX_PAYLOAD_BYTES + 1];
        let found = Piece::verify(huge.into(), &verifier).map(|_| ());
        assert_eq!(found, Err(PieceError::TooLarge));
    }

    #[test]
    fn a_hop_survives_the_wire() {
        let hop = Hop {
            sent_us: 1 << 40,
            queued_us: 9,
            why: Why::Pull,
        };
        assert_eq!(Hop::decode(&hop.encode()), hop);
    }
}
