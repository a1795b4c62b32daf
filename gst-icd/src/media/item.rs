//! The bytes of the stream: items, one after the other.
//!
//! ```text
//! length of the rest u32 LE | head (postcard) | data of a buffer
//! ```
//!
//! Times are running times of the sender in nanoseconds, signed: a DTS may lie before the
//! segment.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::media::text::is_plain;

/// Largest item; a raw 8K frame.
pub(crate) const MAX_ITEM_BYTES: usize = 256 * 1024 * 1024;

/// Flags that mean something at the other end.
pub(crate) const TRAVELLING: gst::BufferFlags = gst::BufferFlags::DISCONT
    .union(gst::BufferFlags::DELTA_UNIT)
    .union(gst::BufferFlags::HEADER)
    .union(gst::BufferFlags::MARKER)
    .union(gst::BufferFlags::GAP)
    .union(gst::BufferFlags::DROPPABLE)
    .union(gst::BufferFlags::CORRUPTED);

/// GST_BUFFER_OFFSET_NONE, which the bindings do not name.
pub(crate) const NO_OFFSET: u64 = u64::MAX;

/// What is known of an item beside its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Head {
    Buffer {
        pts: Option<i64>,
        dts: Option<i64>,
        duration: Option<u64>,
        offset: Option<u64>,
        offset_end: Option<u64>,
        flags: u32,
    },
    Gap {
        pts: i64,
        duration: Option<u64>,
    },
    /// A serialised custom downstream event.
    Event {
        structure: String,
        /// It travels upstream, too, where it comes from: CUSTOM_BOTH.
        both: bool,
    },
}

/// What holds for the items that follow; travels in the signed stream header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(crate) struct State {
    pub(crate) caps: String,
    /// Of the stream and of the container.
    pub(crate) tags: Vec<String>,
    /// Sticky custom events.
    pub(crate) sticky: Vec<String>,
    /// Sender time minus running time, in nanoseconds.
    pub(crate) anchor: i64,
    /// Counts new anchors: pauses, flushes, jumps.
    pub(crate) timeline: u32,
    pub(crate) stream_name: String,
}

impl State {
    pub(crate) fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).unwrap_or_default().into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let state: Self = postcard::from_bytes(bytes).ok()?;
        let names = [&state.caps, &state.stream_name].into_iter();
        let good = names
            .chain(&state.tags)
            .chain(&state.sticky)
            .all(|text| is_plain(text));
        good.then_some(state)
    }
}

/// One item, encoded. The data are copied once, here.
pub(crate) fn encode(head: &Head, data: &[u8]) -> Bytes {
    let head = postcard::to_stdvec(head).unwrap_or_default();
    let len = head.len() + data.len();
    let mut bytes = BytesMut::with_capacity(4 + len);
    bytes.put_u32_le(len as u32);
    bytes.put_slice(&head);
    bytes.put_slice(data);
    bytes.freeze()
}

/// Puts items together again from payloads that arrive in order.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    partial: BytesMut,
    /// In step: `partial` is empty or holds the beginning of an item.
    synced: bool,
}

/// The bytes are no items: a fault of the broadcaster, since they were signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadItem;

impl Reader {
    /// Forgets what is incomplete.
    pub(crate) fn reset(&mut self) {
        self.partial.clear();
        self.synced = false;
    }

    /// Takes a payload; what is complete goes to `each`. Data within one payload are shared.
    pub(crate) fn read(
        &mut self,
        mut bytes: Bytes,
        first_item: Option<u32>,
        mut each: impl FnMut(Head, Bytes),
    ) -> Result<(), BadItem> {
        if !self.synced {
            let Some(first) = first_item else {
                return Ok(());
            };
            let first = first as usize;
            if first > bytes.len() {
                return Err(BadItem);
            }
            bytes = bytes.split_off(first);
            self.synced = true;
        }
        let result = self.read_synced(bytes, &mut each);
        if result.is_err() {
            self.reset();
        }
        result
    }

    fn read_synced(
        &mut self,
        mut bytes: Bytes,
        each: &mut impl FnMut(Head, Bytes),
    ) -> Result<(), BadItem> {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                match length(&bytes)? {
                    Some(len) if bytes.len() >= 4 + len => {
                        let mut item = bytes.split_to(4 + len);
                        let (head, data) = split(item.split_off(4))?;
                        each(head, data);
                        continue;
                    }
                    Some(len) => self.partial.reserve(4 + len),
                    None => {}
                }
            }
            // The length may be cut, too.
            let wanted = match length(&self.partial)? {
                Some(len) => 4 + len,
                None => 4,
            };
            let take = bytes.len().min(wanted - self.partial.len());
            self.partial.put_slice(&bytes.split_to(take));
            if let Some(len) = length(&self.partial)?
                && self.partial.len() == 4 + len
            {
                let mut item = std::mem::take(&mut self.partial).freeze();
                let (head, data) = split(item.split_off(4))?;
                each(head, data);
            }
        }
        Ok(())
    }
}

fn length(bytes: &[u8]) -> Result<Option<usize>, BadItem> {
    let Some(len) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*len) as usize;
    match len {
        0 => Err(BadItem),
        len if len > MAX_ITEM_BYTES => Err(BadItem),
        len => Ok(Some(len)),
    }
}

fn split(item: Bytes) -> Result<(Head, Bytes), BadItem> {
    let (head, rest) = postcard::take_from_bytes(&item).map_err(|_| BadItem)?;
    if let Head::Event { structure, .. } = &head
        && !is_plain(structure)
    {
        return Err(BadItem);
    }
    let data = item.slice(item.len() - rest.len()..);
    Ok((head, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(n: i64) -> Head {
        Head::Buffer {
            pts: Some(n),
            dts: Some(n - 1_000_000),
            duration: None,
            offset: None,
            offset_end: Some(u64::MAX - 1),
            flags: 7,
        }
    }

    fn stream() -> (Vec<u8>, Vec<(Head, Vec<u8>)>) {
        let mut bytes = Vec::new();
        let mut items = Vec::new();
        for n in 0..20 {
            let data = vec![n as u8; (n * 37) % 500];
            bytes.extend_from_slice(&encode(&buffer(n as i64), &data));
            items.push((buffer(n as i64), data));
        }
        (bytes, items)
    }

    #[test]
    fn items_survive_any_cut() {
        let (bytes, items) = stream();
        for size in [1, 2, 3, 5, 64, 1000, 100_000] {
            let mut reader = Reader::default();
            let mut got = Vec::new();
            for (n, chunk) in bytes.chunks(size).enumerate() {
                let first = (n == 0).then_some(0);
                let chunk = Bytes::copy_from_slice(chunk);
                reader
                    .read(chunk, first, |h, d| got.push((h, d.to_vec())))
                    .unwrap();
            }
            assert!(got == items, "chunks of {size}");
        }
    }

    #[test]
    fn after_a_gap_reading_goes_on_at_the_first_whole_item() {
        let (_, items) = stream();
        let a = encode(&items[3].0, &items[3].1);
        let b = encode(&items[4].0, &items[4].1);
        let mut reader = Reader::default();
        let mut got = 0;
        reader
            .read(a.slice(..20), Some(0), |_, _| got += 1)
            .unwrap();
        reader.reset();
        let tail = [&a[40..], &b[..]].concat();
        let first = (a.len() - 40) as u32;
        reader
            .read(tail.into(), Some(first), |h, _| {
                assert_eq!(h, items[4].0);
                got += 1;
            })
            .unwrap();
        assert_eq!(got, 1);
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_crash() {
        let mut reader = Reader::default();
        let huge = Bytes::from_static(&[0xff; 64]);
        assert_eq!(reader.read(huge, Some(0), |_, _| ()), Err(BadItem));
        let none = Bytes::from_static(&[0; 64]);
        assert_eq!(reader.read(none, Some(0), |_, _| ()), Err(BadItem));
        let past = Bytes::from_static(&[1; 4]);
        assert_eq!(reader.read(past, Some(9), |_, _| ()), Err(BadItem));
    }
}
