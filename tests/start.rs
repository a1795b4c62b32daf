//! A viewer has its picture soon. The figures are `./icd bench`; here is only the order.

use gst_icd_suite::init;
use gst_icd_suite::starts::{Broadcast, Way, quantile};

/// The reference waits for the next key frame, one second in the mean.
#[test]
fn a_viewer_starts_sooner_than_with_a_stream_that_begins_at_the_next_key_frame() {
    init();
    let broadcast = Broadcast::start();
    let waits = |way| {
        let waits = broadcast.waits(way, 15);
        println!("{way:?}: {waits:?}");
        quantile(&waits, 0.5)
    };
    assert!(waits(Way::Grid) * 2 < waits(Way::Tcp));
    assert!(waits(Way::GridPicture) < waits(Way::TcpPicture));
}
