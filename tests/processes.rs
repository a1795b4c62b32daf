//! Viewers that are killed and stopped, at a seed that carries little.

use std::process::Command;

use gst_icd_suite::ordeal::{Place, ordeal};
use gst_icd_suite::processes::GST_LAUNCH;
use gst_icd_suite::{free_port, init};

/// All on this machine.
struct Here(u16);

impl Place for Here {
    fn seed(&self) -> String {
        format!("127.0.0.1:{}", self.0)
    }

    fn gst_launch(&self, _: Option<usize>) -> Command {
        Command::new(GST_LAUNCH)
    }
}

#[test]
fn kills_and_stops_are_not_seen_by_the_others_at_a_narrow_seed() {
    init();
    ordeal("processes", &[1.5; 12], &mut Here(free_port()));
}
