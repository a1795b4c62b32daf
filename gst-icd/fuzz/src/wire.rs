//! The decoders of the grid: what they take they give back the same, and nothing makes them panic.

use bytes::Bytes;
use icd_grid::message::{BadMessage, Message};
use icd_grid::piece::{Hop, MAX_PAYLOAD_BYTES, PREFIX_BYTES, Piece, PieceInfo, claimed};
use icd_grid::record::{Bans, Beacon, Record, Signed, StreamHeader, Ticket};
use icd_grid::trust::{Context, SIGNATURE_BYTES, Verify};
use icd_grid::{Epoch, NodeId, SenderTime, Seq, StreamKey};
use icd_sim::seal::Seal;

pub(crate) const KEY: StreamKey = StreamKey([9; 32]);

/// Believes everything, so that what lies behind a signature is reached.
#[derive(Debug)]
struct Credulous;

impl Verify for Credulous {
    fn key(&self) -> StreamKey {
        KEY
    }

    fn verify(&self, _: Context, _: &[u8], _: &[u8; SIGNATURE_BYTES]) -> bool {
        true
    }
}

pub(crate) fn message(bytes: &[u8]) {
    match Message::decode(bytes) {
        Ok(message) => {
            let again = message.encode();
            let decoded = Message::decode(&again[4..]);
            assert_eq!(decoded, Ok(message), "it does not survive the wire");
        }
        Err(BadMessage::Unknown | BadMessage::Malformed) => {}
    }
}

pub(crate) fn piece(bytes: &[u8]) {
    if let Some((hop, body)) = bytes.split_first_chunk::<{ Hop::BYTES }>() {
        let decoded = Hop::decode(hop);
        assert_eq!(Hop::decode(&decoded.encode()), decoded);
        let body = Bytes::copy_from_slice(body);
        let claims = claimed(&body);
        let sealed = Piece::verify(body.clone(), &Seal(KEY)).is_ok();
        match Piece::verify(body.clone(), &Credulous) {
            Ok(piece) => {
                assert_eq!(Some(*piece.info()), claims);
                assert_eq!(piece.payload(), body[PREFIX_BYTES..]);
                assert_eq!(*piece.body(), body, "it travels unchanged");
                let again = Piece::sign(*piece.info(), &piece.payload(), &Seal(KEY));
                assert_eq!(again.info(), piece.info());
                assert!(Piece::verify(again.body().clone(), &Seal(KEY)).is_ok());
                // All that is signed is there again; only bits of the flags mean nothing yet.
                assert!(!sealed || again.payload() == piece.payload());
            }
            Err(_) => {
                let outside = PREFIX_BYTES..=PREFIX_BYTES + MAX_PAYLOAD_BYTES;
                assert!(!outside.contains(&body.len()) && !sealed);
            }
        }
    }
}

pub(crate) fn piece_seeds() -> Vec<Vec<u8>> {
    let info = |n: u64| PieceInfo {
        epoch: Epoch(2),
        seq: Seq(n),
        time: SenderTime(n * 20_000_000),
        header: 1,
        first_item: n.is_multiple_of(2).then_some(n as u32),
        join: n == 4,
        end: n == 5,
    };
    let piece = |n: u64| Piece::sign(info(n), &vec![n as u8; n as usize * 40], &Seal(KEY));
    let hop = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1];
    (0..6)
        .map(|n| [&hop[..], piece(n).body()].concat())
        .collect()
}

/// The record after the byte that says which.
pub(crate) fn record(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    match which % 4 {
        0 => drop(open::<Ticket>(rest)),
        1 => drop(open::<Beacon>(rest)),
        2 => drop(open::<Bans>(rest)),
        _ => {
            if let Some(header) = open::<StreamHeader>(rest) {
                let format = header.format();
                assert!(format.stripes > 0 && !format.round().is_zero());
            }
        }
    }
}

/// What was signed, if that can be read.
fn open<T: Record + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let signed: Signed<T> = postcard::from_bytes(bytes).ok()?;
    let record = signed.open(&Credulous)?;
    let again = Signed::sign(&record, &Seal(KEY));
    assert_eq!(again.open(&Seal(KEY)).as_ref(), Some(&record));
    Some(record)
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    fn seed<T: Record>(which: u8, record: &T) -> Vec<u8> {
        let signed = postcard::to_stdvec(&Signed::sign(record, &Seal(KEY)));
        [&[which][..], &signed.unwrap_or_default()].concat()
    }
    let epoch = Epoch(2);
    let node = NodeId([7; 32]);
    vec![
        seed(0, &ticket(node, SenderTime(1 << 40))),
        seed(
            1,
            &Beacon {
                epoch,
                head: Seq(900),
                time: SenderTime(1 << 30),
                bytes_per_second: 500_000,
                viewers: 20,
                bans: 1,
            },
        ),
        seed(
            2,
            &Bans {
                epoch,
                version: 1,
                nodes: vec![node, NodeId([8; 32])],
            },
        ),
        seed(
            3,
            &StreamHeader {
                epoch,
                version: 1,
                stripes: 8,
                piece_us: 20_000,
                bytes_per_second: 500_000,
                own_timeline: true,
                media: Bytes::from_static(b"media"),
            },
        ),
    ]
}

pub(crate) fn ticket(node: NodeId, expires: SenderTime) -> Ticket {
    Ticket {
        epoch: Epoch(2),
        node,
        addr: ([192, 0, 2, 1], 7423).into(),
        expires,
    }
}
