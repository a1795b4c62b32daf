//! The stream's headers that a node knows: one for each change of what holds for the pieces.

use std::collections::BTreeMap;

use crate::record::{Signed, StreamHeader};

/// Versions that are kept, of at most 256 KiB each: those that the window's pieces name,
/// as long as there are no more. Caps and tags change seldom.
pub(super) const MAX_HEADERS: usize = 64;

/// As the broadcaster signed it, and what it says.
pub(super) type Header = (Signed<StreamHeader>, StreamHeader);

/// By their versions.
#[derive(Debug, Default)]
pub(super) struct Headers(BTreeMap<u32, Header>);

impl Headers {
    /// Takes one, and puts away those that no piece names from `oldest` on. True if it is newer than all that
    /// are known: the others want it, too. An older one is passed on to nobody: it may be one that was put
    /// away, and go round for ever.
    pub(super) fn learn(&mut self, header: Header, oldest: u32) -> bool {
        let version = header.1.version;
        let newest = self.newest().map(|(_, header)| header.version);
        if self.has(version) || (version < oldest && newest.is_some()) {
            return false;
        }
        self.0.insert(version, header);
        let newest = newest.map_or(version, |newest| newest.max(version));
        self.0.retain(|v, _| *v >= oldest || *v == newest);
        while self.0.len() > MAX_HEADERS {
            self.0.pop_first();
        }
        version == newest
    }

    /// Whether this very version is here.
    pub(super) fn has(&self, version: u32) -> bool {
        self.0.contains_key(&version)
    }

    /// What holds for pieces that name this version, or, where it is gone, the next one: each
    /// says everything, so that only the place of a change is lost.
    pub(super) fn get(&self, version: u32) -> Option<&Header> {
        self.after(version).next()
    }

    /// This version and the later ones.
    pub(super) fn after(&self, version: u32) -> impl Iterator<Item = &Header> {
        self.0.range(version..).map(|(_, header)| header)
    }

    /// What holds for what is made now.
    pub(super) fn newest(&self) -> Option<&Header> {
        self.0.last_key_value().map(|(_, header)| header)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::ids::Epoch;
    use crate::trust::Ed25519Signer;

    fn header(version: u32) -> Header {
        let header = StreamHeader {
            epoch: Epoch(1),
            version,
            stripes: 8,
            piece_us: 20_000,
            bytes_per_second: 1000,
            own_timeline: false,
            media: Bytes::new(),
        };
        let signer = Ed25519Signer::new(SigningKey::from_bytes(&[1; 32]));
        (Signed::sign(&header, &signer), header)
    }

    #[test]
    fn only_what_is_new_to_the_stream_is_passed_on() {
        let mut headers = Headers::default();
        assert!(headers.learn(header(1), 0) && !headers.learn(header(1), 0));
        assert!(headers.learn(header(4), 1));
        assert!(!headers.learn(header(3), 1), "it came late, and is kept");
        assert!(headers.has(3) && headers.get(2).is_some_and(|h| h.1.version == 3));
        assert!(headers.learn(header(5), 4));
        assert!(!headers.has(1) && !headers.has(3), "no piece names them");
        assert!(
            !headers.learn(header(3), 4) && !headers.has(3),
            "said again"
        );
    }

    #[test]
    fn no_more_are_kept_than_the_bound_and_the_newest_are() {
        let mut headers = Headers::default();
        for version in 1..=200 {
            headers.learn(header(version), 0);
        }
        assert_eq!(headers.after(0).count(), MAX_HEADERS);
        assert_eq!(headers.newest().map(|h| h.1.version), Some(200));
    }
}
