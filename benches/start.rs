//! How long viewers wait for a picture: `./icd bench`.

use gst_icd_suite::init;
use gst_icd_suite::starts::{Broadcast, Way, quantile};

const VIEWERS: usize = 32;

fn main() {
    init();
    println!(
        "{VIEWERS} viewers join 4 Mbit/s with a key frame every 2 s, 130 ms apart; from PLAYING on"
    );
    println!("{:<52} {:>8} {:>8}", "", "p50 ms", "p99 ms");
    let broadcast = Broadcast::start();
    let show = |what: &str, way: Way| {
        let waits = broadcast.waits(way, VIEWERS);
        let ms = |share| quantile(&waits, share).as_secs_f64() * 1000.0;
        let (p50, p99) = (ms(0.5), ms(0.99));
        println!("{what:<52} {p50:>8.0} {p99:>8.0}");
        p50
    };
    let grid = show("first decodable buffer, icdsrc", Way::Grid);
    let tcp = show("first decodable buffer, tcpclientsrc ! h264parse", Way::Tcp);
    println!("{:<52} {:>8.2}", "ratio", grid / tcp);
    let grid = show(
        "first picture, icdsrc ! h264parse ! avdec_h264",
        Way::GridPicture,
    );
    let tcp = show("first picture, tcpclientsrc ! the same", Way::TcpPicture);
    println!("{:<52} {:>8.2}", "ratio", grid / tcp);
    show(
        "first picture, icdsrc ! tsdemux ! the same",
        Way::GridTransportPicture,
    );
}
