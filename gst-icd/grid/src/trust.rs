//! Who may speak for the stream: signatures with one context string a purpose.
//!
//! A signature made for one purpose never passes for another (a ticket is not a piece), and each
//! covers the stream's key, so that one broadcaster's two streams can't be mixed either.

use std::fmt::Debug;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::ids::StreamKey;

/// Bytes of a signature on the wire.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of what stands for a payload in what is signed.
pub const DIGEST_BYTES: usize = 32;

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// A piece of the stream.
    Piece,
    /// What a decoder must know before its first piece.
    Header,
    /// The admission of a viewer.
    Ticket,
    /// The seed's sign of life.
    Beacon,
    /// The exclusion of viewers.
    Bans,
}

impl Context {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Piece => b"icd/1 piece",
            Self::Header => b"icd/1 header",
            Self::Ticket => b"icd/1 ticket",
            Self::Beacon => b"icd/1 beacon",
            Self::Bans => b"icd/1 bans",
        }
    }
}

/// Signs in the name of the stream. Only seeds have one.
pub trait Sign: Debug + Send {
    /// The key that verifies what this signs.
    fn key(&self) -> StreamKey;
    /// What stands for a payload in what is signed: its BLAKE3 hash, but in simulations.
    fn digest(&self, payload: &[u8]) -> [u8; DIGEST_BYTES] {
        *blake3::hash(payload).as_bytes()
    }
    /// Signs `message` for one purpose.
    fn sign(&self, context: Context, message: &[u8]) -> [u8; SIGNATURE_BYTES];
}

/// Verifies what the stream's broadcaster signed. A parameter of a node, so that a simulation of
/// thousands can charge the time instead of spending it.
pub trait Verify: Debug + Send {
    /// The stream that this verifies for.
    fn key(&self) -> StreamKey;
    /// As [`Sign::digest`].
    fn digest(&self, payload: &[u8]) -> [u8; DIGEST_BYTES] {
        *blake3::hash(payload).as_bytes()
    }
    /// Whether the broadcaster signed `message` for this purpose.
    fn verify(&self, context: Context, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool;
}

fn framed(context: Context, key: &StreamKey, message: &[u8]) -> Vec<u8> {
    let text = context.text();
    let mut bytes = Vec::with_capacity(text.len() + 1 + 32 + message.len());
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes.extend_from_slice(&key.0);
    bytes.extend_from_slice(message);
    bytes
}

/// The broadcaster's real key pair (RFC 8032).
#[derive(Debug)]
pub struct Ed25519Signer(SigningKey);

impl Ed25519Signer {
    /// Wraps a key pair.
    pub fn new(key: SigningKey) -> Self {
        Self(key)
    }
}

impl Sign for Ed25519Signer {
    fn key(&self) -> StreamKey {
        StreamKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, context: Context, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0
            .sign(&framed(context, &self.key(), message))
            .to_bytes()
    }
}

/// Verifies Ed25519 strictly: small-order keys and malleable signatures are refused.
#[derive(Debug)]
pub struct Ed25519Verifier(VerifyingKey);

/// The 32 bytes of a stream key are no point on the curve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream key is not a valid Ed25519 public key; copy the URI again from the broadcaster"
)]
pub struct NotAKey;

impl Ed25519Verifier {
    /// A verifier for one stream.
    pub fn new(key: StreamKey) -> Result<Self, NotAKey> {
        VerifyingKey::from_bytes(&key.0)
            .map(Self)
            .map_err(|_| NotAKey)
    }
}

impl Verify for Ed25519Verifier {
    fn key(&self) -> StreamKey {
        StreamKey(self.0.to_bytes())
    }

    fn verify(&self, context: Context, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.0
            .verify_strict(
                &framed(context, &self.key(), message),
                &Signature::from_bytes(signature),
            )
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_for_one_purpose_fails_for_another() {
        let signer = Ed25519Signer::new(SigningKey::from_bytes(&[3; 32]));
        let verifier = Ed25519Verifier::new(signer.key()).unwrap();
        let signature = signer.sign(Context::Ticket, b"hello");
        assert!(verifier.verify(Context::Ticket, b"hello", &signature));
        assert!(!verifier.verify(Context::Piece, b"hello", &signature));
        assert!(!verifier.verify(Context::Ticket, b"hellO", &signature));
    }
}
