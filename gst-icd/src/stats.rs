//! Typed figures to `GstStructure`, at the edge.

use icd_net::Snapshot;

use crate::addresses::address;

fn ms(time: std::time::Duration) -> u64 {
    time.as_millis() as u64
}

fn peers(snapshot: &Snapshot, addresses: bool) -> gst::Array {
    gst::Array::new(snapshot.stats.peers.iter().map(|peer| {
        let stripes = |list: &[u8]| gst::Array::new(list.iter().map(|k| u32::from(*k)));
        gst::Structure::builder("application/x-icd-peer-stats")
            .field("id", peer.id.whole())
            .field_if_some("address", address(peer.addr, addresses))
            .field("seed", peer.seed)
            .field("rtt-ms", peer.rtt.as_secs_f64() * 1000.0)
            .field("bytes-received", peer.bytes_received)
            .field("bytes-sent", peer.bytes_sent)
            .field("stripes-from", stripes(&peer.stripes_from))
            .field("stripes-to", stripes(&peer.stripes_to))
            .build()
    }))
}

/// `application/x-icd-sink-stats`.
pub(crate) fn sink(
    base: &gst::StructureRef,
    snapshot: &Snapshot,
    dropped: u64,
    addresses: bool,
) -> gst::Structure {
    let s = &snapshot.stats;
    let viewers = s.viewers_from_seed.saturating_add(s.viewers_from_peers);
    let offload = match viewers {
        0 => 0.0,
        all => s.viewers_from_peers as f64 / all as f64,
    };
    let mut structure = gst::Structure::builder("application/x-icd-sink-stats")
        .field("epoch", s.epoch.0)
        .field("pieces", s.head.map_or(0, |head| head.0 + 1))
        .field("stripes", u32::from(s.stripes))
        .field("stream-bitrate", s.bytes_per_second * 8)
        .field("num-viewers", s.members)
        .field("viewers-refused", s.refused)
        .field("buffer-bytes", s.buffer_bytes)
        .field("bytes-in", s.bytes_in)
        .field("items-dropped", dropped)
        .field("bytes-sent", s.bytes_sent)
        .field("udp-bytes-sent", snapshot.udp_bytes_sent)
        .field("udp-bytes-received", snapshot.udp_bytes_received)
        .field("pieces-expired", s.expired)
        .field("slots", s.slots)
        .field("slots-used", s.slots_used)
        .field("viewers-bytes-from-seed", s.viewers_from_seed)
        .field("viewers-bytes-from-peers", s.viewers_from_peers)
        .field("viewers-pieces-lost", s.viewers_lost)
        .field("offload", offload)
        .field("peers", peers(snapshot, addresses))
        .build();
    for (name, value) in base.iter() {
        structure.set_value(name, value.clone());
    }
    structure
}

/// `application/x-icd-src-stats`. `id` is what others know it by.
pub(crate) fn src(
    snapshot: &Snapshot,
    id: Option<String>,
    status: &str,
    stream_name: &str,
    addresses: bool,
) -> gst::Structure {
    let s = &snapshot.stats;
    gst::Structure::builder("application/x-icd-src-stats")
        .field("id", id)
        .field("status", status)
        .field("stream-name", stream_name)
        .field("epoch", s.epoch.0)
        .field("stripes", u32::from(s.stripes))
        .field("stream-bitrate", s.bytes_per_second * 8)
        .field("num-peers", s.members)
        .field("buffer-bytes", s.buffer_bytes)
        .field("bytes-from-seed", s.bytes_from_seed)
        .field("bytes-from-peers", s.bytes_from_peers)
        .field("bytes-sent", s.bytes_sent)
        .field("udp-bytes-sent", snapshot.udp_bytes_sent)
        .field("udp-bytes-received", snapshot.udp_bytes_received)
        .field("pieces-duplicate", s.duplicates)
        .field("pieces-rescued", s.rescued)
        .field("pieces-lost", s.lost)
        .field("pieces-expired", s.expired)
        .field("failovers", s.failovers)
        .field("slots", s.slots)
        .field("slots-used", s.slots_used)
        .field("lag-p50-ms", ms(s.lag.quantile(0.5)))
        .field("lag-p99-ms", ms(s.lag.quantile(0.99)))
        .field("clock-error-ms", s.clock_error.as_secs_f64() * 1000.0)
        .field("peers", peers(snapshot, addresses))
        .build()
}
