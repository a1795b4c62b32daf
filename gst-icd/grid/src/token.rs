//! The secret that viewers of a private stream share with the broadcaster.
//!
//! It is never sent. A viewer proves that it knows it by a code over what both ends of its connection to
//! the seed derived from their handshake (RFC 8446, 7.5: exporters): the proof holds for this connection
//! alone, and is worth nothing to who overhears or stands between.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::StreamKey;

/// Bytes of what the two ends of a connection derive from its handshake.
pub const BINDING_BYTES: usize = 32;
/// What both ends of a connection know, and nobody else.
pub type Binding = [u8; BINDING_BYTES];
/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 256;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

const CONTEXT: &[u8] = b"icd/1 token\0";

/// An access token. What it is stands in no log: its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// This is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an access token has from 1 to {MAX_TOKEN_BYTES} bytes")]
pub struct BadToken;

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Takes a text as a token.
    ///
    /// # Errors
    ///
    /// It is empty or longer than [`MAX_TOKEN_BYTES`].
    pub fn new(text: &str) -> Result<Self, BadToken> {
        match (1..=MAX_TOKEN_BYTES).contains(&text.len()) {
            true => Ok(Self(text.into())),
            false => Err(BadToken),
        }
    }

    fn code(&self, stream: StreamKey, binding: &Binding) -> Option<Hmac<Sha256>> {
        // A key of any length is taken (RFC 2104).
        let mut code = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        code.update(CONTEXT);
        code.update(&stream.0);
        code.update(binding);
        Some(code)
    }

    /// That this side knows it, for one stream and one connection.
    pub fn prove(&self, stream: StreamKey, binding: &Binding) -> [u8; PROOF_BYTES] {
        let code = self.code(stream, binding);
        code.map_or([0; PROOF_BYTES], |code| code.finalize().into_bytes().into())
    }

    /// Whether the other side knows it; takes as long for every wrong proof.
    pub fn is_proven_by(&self, proof: &[u8], stream: StreamKey, binding: &Binding) -> bool {
        let code = self.code(stream, binding);
        code.is_some_and(|code| code.verify_slice(proof).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamKey = StreamKey([3; 32]);

    fn token(text: &str) -> Token {
        Token::new(text).expect("a token")
    }

    #[test]
    fn a_proof_holds_for_one_token_one_stream_and_one_connection() {
        let proof = token("secret").prove(STREAM, &[7; 32]);
        let proven = |t: &str, stream, binding| token(t).is_proven_by(&proof, stream, &binding);
        assert!(proven("secret", STREAM, [7; 32]));
        assert!(!proven("Secret", STREAM, [7; 32]));
        assert!(!proven("secret", StreamKey([4; 32]), [7; 32]));
        assert!(!proven("secret", STREAM, [8; 32]), "replayed elsewhere");
        for wrong in [&[][..], &proof[..31], &[0; 64]] {
            assert!(!token("secret").is_proven_by(wrong, STREAM, &[7; 32]));
        }
    }

    #[test]
    fn it_is_neither_empty_nor_long_nor_shown() {
        assert_eq!(Token::new(""), Err(BadToken));
        assert_eq!(Token::new(&"a".repeat(257)), Err(BadToken));
        let long = token(&"a".repeat(256));
        assert!(!format!("{long:?}").contains('a'));
    }
}
