//! What a wrong input prints: what is wrong, and what to do.

use std::net::UdpSocket;

use gst::prelude::*;
use gst_icd_suite::processes::Scratch;
use gst_icd_suite::{
    Record, assert_same, complaint, end_of, free_port, init, launch, playing, until, viewers_uri,
};

/// Plays a pipeline and compares the first complaint.
fn says(description: &str, expected: &str) {
    let pipeline = launch(description);
    let _ = pipeline.set_state(gst::State::Playing);
    let said = complaint(&pipeline);
    let _ = pipeline.set_state(gst::State::Null);
    assert!(
        said.contains(expected),
        "{description}\nsaid: {said}\nnot: {expected}"
    );
}

const SOURCE: &str = "videotestsrc ! video/x-raw,width=16,height=16";

#[test]
fn wrong_addresses_and_keys_of_a_viewer() {
    init();
    // Bytes that are no point of the curve.
    let key = format!("ai{}", "a".repeat(50));
    for (uri, expected) in [
        (
            "icd://127.0.0.1:9".to_string(),
            "check host, port and firewall",
        ),
        ("icd://no.such.host.invalid".into(), "check the URI"),
        (
            "icd://127.0.0.1:0".into(),
            "copy the URI that icdsink shows",
        ),
        (
            format!("icd://{key}@127.0.0.1:9"),
            "is not a valid Ed25519 public key",
        ),
    ] {
        says(&format!("icdsrc uri={uri} ! fakesink"), expected);
    }
    let damaged = launch(&format!("icdsrc uri=icd://{key}@127.0.0.1:9 ! fakesink"));
    let _ = damaged.set_state(gst::State::Playing);
    let said = complaint(&damaged);
    assert!(
        !said.contains("bind-"),
        "no other property is blamed: {said}"
    );
    damaged.set_state(gst::State::Null).expect("NULL");
    says("icdsrc ! fakesink", "set uri=icd://KEY@host:port");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("an address").port();
    for (settings, expected) in [
        (
            format!("bind-address=127.0.0.1 bind-port={port}"),
            "in use; choose another",
        ),
        ("bind-address=somewhere".into(), "use :: for all"),
        ("bind-address=::1".into(), "check bind-address"),
        (
            "bind-address=192.0.2.77".into(),
            "not an address of this machine; name one that is",
        ),
    ] {
        says(
            &format!("icdsrc uri=icd://127.0.0.1:9 {settings} ! fakesink"),
            expected,
        );
    }
}

/// As a property, where nobody hears a warning yet.
#[test]
fn nonsense_uris_are_an_error_at_the_start() {
    init();
    for (uri, expected) in [
        ("icd://", "names no host"),
        ("icd://a:b", "\"b\" is no port"),
        ("icd://x@a", "52 letters"),
        (
            "icd://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab@a",
            "the last an a or a q",
        ),
        ("icd://a/live", "\"a/live\" is no host"),
        ("icd://0.0.0.0", "no single host"),
        ("icd://[ff02::1]", "no single host"),
        (
            "icd://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "a key and no host",
        ),
        ("icd://a?latency=soon", "a whole number from"),
        (
            "icd://a?what=1",
            "no URI parameter \"what\", but these: latency, ",
        ),
        ("http://a", "icd://"),
    ] {
        says(&format!("icdsrc uri={uri} ! fakesink"), expected);
    }
    for (uri, expected) in [
        ("icd://a", "no IP address"),
        ("icd://[::]:0?latency=3", "no URI parameter \"latency\""),
        ("icd://127.0.0.1,127.0.0.2", "listens at one address"),
    ] {
        says(&format!("{SOURCE} ! icdsink uri={uri}"), expected);
    }
}

#[test]
fn a_timeout_ends_in_an_error_that_says_so() {
    init();
    for (settings, expected) in [
        (
            "uri=icd://127.0.0.1:9 timeout=500",
            "no stream for 500 ms: check that the broadcaster runs at 127.0.0.1:9",
        ),
        (
            "uri=icd://nowhere.invalid timeout=2000",
            "no stream for 2000 ms: cannot find the host",
        ),
    ] {
        let viewer = launch(&format!("icdsrc {settings} ! fakesink"));
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        until("the error", || {
            let complaint = complaint(&viewer);
            complaint.contains(expected) && !complaint.contains("Trying again")
        });
        viewer.set_state(gst::State::Null).expect("NULL");
    }
}

#[test]
fn a_broadcaster_that_is_there_and_sends_nothing_is_told_of() {
    init();
    let seed = launch("appsrc ! icdsink name=seed address=127.0.0.1 port=0");
    seed.set_state(gst::State::Playing).expect("PLAYING");
    says(
        &format!("icdsrc uri={} ! fakesink", viewers_uri(&seed)),
        "its stream has not begun",
    );
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn nonsense_uris_are_refused_by_the_uri_handler() {
    init();
    for uri in [
        "icd://",
        "icd://a:b",
        "icd://x@a",
        "icd://a?latency=soon",
        "icd://a?what=1",
    ] {
        let made = gst::Element::make_from_uri(gst::URIType::Src, uri, None);
        assert!(made.is_err(), "{uri} was taken");
    }
    let good = gst::Element::make_from_uri(gst::URIType::Src, "icd://a?latency=100", None);
    assert_eq!(good.expect("a source").property::<u32>("latency"), 100);
    assert!(gst::Element::make_from_uri(gst::URIType::Sink, "icd://[::]:0", None).is_ok());
}

#[test]
fn wrong_settings_of_a_seed() {
    init();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("an address").port();
    let folder = Scratch::new("wrong");
    let open = folder.path("open.pem");
    std::fs::write(&open, "nonsense").expect("a file");
    let sink = |settings: &str| format!("{SOURCE} ! icdsink {settings}");
    says(
        &sink(&format!("address=127.0.0.1 port={port}")),
        "in use; choose another",
    );
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let sent = sender.send_to(b"still here", ("127.0.0.1", port));
    sent.expect("it is sent");
    let mut letter = [0; 16];
    let (len, _) = taken.recv_from(&mut letter).expect("who has it keeps it");
    assert_eq!(&letter[..len], b"still here");
    says(
        &sink("address=192.0.2.77 port=0"),
        "not an address of this machine; name one that is",
    );
    says(&sink("address=somewhere port=0"), "use :: for all");
    says(
        &sink("address=127.0.0.1 port=0 announce-address=foo:80"),
        "neither a host name nor an IP address",
    );
    says(
        &sink(&format!("port=0 key-file={}", open.display())),
        "chmod 600",
    );
    let kept = std::fs::read(&open).expect("the file");
    assert_eq!(kept, b"nonsense", "nothing is lost");
    says(
        &sink("port=0 key-file=/no/such/folder/key.pem"),
        "folder exists",
    );
    says(
        &sink(&format!("port=0 key-file={}", folder.0.display())),
        "name a file in it",
    );
    // Root reads every file, but not this one.
    says(
        &sink("port=0 key-file=/proc/self/mem"),
        "check its owner and mode",
    );
    let link = folder.path("link.pem");
    std::os::unix::fs::symlink("/no/such/key.pem", &link).expect("a link");
    says(
        &sink(&format!("port=0 key-file={}", link.display())),
        "remove the link",
    );
    let key = "a".repeat(52);
    let own = folder.path("own.pem");
    says(
        &sink(&format!(
            "uri=icd://{key}@127.0.0.1:0 key-file={}",
            own.display()
        )),
        "another key than the one in key-file",
    );
    says(
        &sink(&format!("uri=icd://{key}@127.0.0.1:0")),
        "without key-file every start makes another key",
    );
    let bytes = launch("filesrc location=/dev/zero ! icdsink address=127.0.0.1 port=0");
    let _ = bytes.set_state(gst::State::Playing);
    assert!(complaint(&bytes).contains("put a parser in front"));
    let next = complaint(&bytes);
    assert!(!next.contains("put a parser"), "it was said: {next}");
    let _ = bytes.set_state(gst::State::Null);
    let empty = folder.path("empty.ts");
    std::fs::write(&empty, "").expect("a file");
    says(
        &format!(
            "filesrc location={} ! tsparse set-timestamps=true ! icdsink address=127.0.0.1 port=0",
            empty.display()
        ),
        "nothing was broadcast",
    );
}

#[test]
fn a_property_set_too_late_keeps_its_value_and_warns() {
    init();
    let pipeline = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    pipeline.set_state(gst::State::Paused).expect("PAUSED");
    let seed = pipeline.by_name("seed").expect("the seed");
    seed.set_property("buffer-time", 700u32);
    assert!(complaint(&pipeline).contains("NULL or READY"));
    assert_eq!(seed.property::<u32>("buffer-time"), 10_000);
    seed.set_property("max-upload-bitrate", 5_000_000u64);
    assert_eq!(seed.property::<u64>("max-upload-bitrate"), 5_000_000);
    let viewer = launch(&format!(
        "icdsrc name=src uri={} ! fakesink",
        viewers_uri(&pipeline)
    ));
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    let source = viewer.by_name("src").expect("the source");
    source.set_property("latency", 100u32);
    assert!(complaint(&viewer).contains("NULL or READY"));
    assert_eq!(source.property::<u32>("latency"), 2000);
    viewer.set_state(gst::State::Null).expect("NULL");
    pipeline.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn memory_that_the_network_cannot_read_is_refused_with_the_way_out() {
    init();
    for (memory, expected) in [("GLMemory", "gldownload"), ("VASurface", "vapostproc")] {
        let pipeline = launch(&format!(
            "appsrc name=in format=time ! video/x-raw(memory:{memory}),format=RGBA,width=16,height=16,framerate=25/1 ! icdsink address=127.0.0.1 port=0"
        ));
        let caps =
            format!("video/x-raw(memory:{memory}),format=RGBA,width=16,height=16,framerate=25/1");
        let source = pipeline.by_name("in").expect("appsrc");
        source.set_property("caps", caps.parse::<gst::Caps>().expect("caps"));
        pipeline.set_state(gst::State::Playing).expect("PLAYING");
        let _: gst::FlowReturn = source.emit_by_name(
            "push-buffer",
            &[&gst::Buffer::with_size(1024).expect("memory")],
        );
        let said = complaint(&pipeline);
        pipeline.set_state(gst::State::Null).expect("NULL");
        assert!(said.contains(expected), "{memory}: {said}");
    }
}

#[test]
fn a_key_in_the_uri_that_is_not_the_broadcasters_is_refused_and_called_so() {
    init();
    let seed = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let (_, place) = viewers_uri(&seed)
        .split_once('@')
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .expect("a key");
    let other = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    other.set_state(gst::State::Playing).expect("PLAYING");
    let key = viewers_uri(&other);
    let (key, _) = key.split_once('@').expect("a key");
    let (good, got) = playing(&format!(
        "icdsrc name=src uri={} ! fakesink",
        viewers_uri(&seed)
    ));
    until("it plays", || got.len() > 5);
    says(
        &format!("icdsrc uri={key}@{place} ! fakesink"),
        "under another key than the URI names",
    );
    let before = got.len();
    until("the good one plays on", || got.len() > before + 30);
    good.set_state(gst::State::Null).expect("NULL");
    other.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

/// Bytes that are no QUIC, and bytes that begin like it.
#[test]
fn garbage_at_the_ports_of_seed_and_viewer_harms_neither() {
    init();
    let seed = launch(
        "videotestsrc is-live=true num-buffers=150 ! video/x-raw,width=64,height=64,framerate=50/1 ! icdsink name=seed address=127.0.0.1 port=0",
    );
    let sent = Record::at(&seed, "seed", "sink");
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let port = free_port();
    let (viewer, got) = playing(&format!(
        "icdsrc name=src bind-address=127.0.0.1 bind-port={port} uri={} ! fakesink",
        viewers_uri(&seed)
    ));
    until("the stream comes", || got.len() > 5);
    let element = seed.by_name("seed").expect("the seed");
    let targets = [element.property::<u32>("port") as u16, port];
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // Deterministic noise; every header form, and a version that asks for negotiation.
    let mut word = 1_u32;
    for n in 0..4000_usize {
        let packet: Vec<u8> = (0..n % 1400)
            .map(|at| {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match at {
                    0 => n as u8,
                    _ => (word >> 24) as u8,
                }
            })
            .collect();
        for target in targets {
            let _ = stranger.send_to(&packet, ("127.0.0.1", target));
        }
    }
    end_of(&viewer);
    assert_same(&sent.seen(), &got.seen());
    for pipeline in [&viewer, &seed] {
        let bus = pipeline.bus().expect("a bus");
        let kinds = [gst::MessageType::Error, gst::MessageType::Warning];
        assert!(bus.pop_filtered(&kinds).is_none());
        pipeline.set_state(gst::State::Null).expect("NULL");
    }
}
