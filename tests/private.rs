//! A private stream: who proves the token comes in, nobody else, and nobody sees it.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_icd_suite::processes::Scratch;
use gst_icd_suite::{Record, complaint, init, launch, playing, until, viewers_uri};

const TOKEN: &str = "open-sesame-4711";

fn broadcast(settings: &str) -> gst::Pipeline {
    let source = "videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=32,height=32";
    let sink = "icdsink name=seed address=127.0.0.1 port=0";
    let pipeline = launch(&format!("{source} ! {sink} {settings}"));
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    pipeline
}

fn plays(got: &Record) {
    let before = got.len();
    until("it plays", || got.len() > before + 10);
}

fn stop(pipelines: impl IntoIterator<Item = gst::Pipeline>) {
    for pipeline in pipelines {
        pipeline.set_state(gst::State::Null).expect("NULL");
    }
}

/// A file with the token, for its owner alone.
fn token_file(folder: &Scratch) -> String {
    let path = folder.path("token");
    std::fs::write(&path, format!("{TOKEN}\n")).expect("the file is written");
    let owner = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, owner).expect("its mode");
    path.display().to_string()
}

#[test]
fn who_knows_the_token_comes_in_and_nobody_else() {
    init();
    let folder = Scratch::new("private");
    let file = token_file(&folder);
    let seed = broadcast(&format!("token-file={file}"));
    let uri = viewers_uri(&seed);
    assert!(!uri.contains("token"), "who may come in is told elsewhere");
    let mut viewers = Vec::new();
    for settings in [
        format!("uri={uri} access-token={TOKEN}"),
        format!("uri={uri}?token={TOKEN}"),
        format!("uri={uri}?latency=500&token={TOKEN}"),
        format!("uri={uri} token-file={file}"),
    ] {
        let (viewer, got) = playing(&format!("icdsrc name=src {settings} ! fakesink"));
        plays(&got);
        viewers.push(viewer);
    }
    for (settings, said) in [
        (String::new(), "the stream is private; set access-token"),
        ("access-token=guess".into(), "is not the broadcaster's"),
        (format!("access-token={TOKEN}2"), "is not the broadcaster's"),
    ] {
        let (viewer, got) = playing(&format!("icdsrc name=src uri={uri} {settings} ! fakesink"));
        let complaint = complaint(&viewer);
        assert!(complaint.contains(said), "{settings}: {complaint}");
        assert!(got.is_empty());
        viewers.push(viewer);
    }
    stop(viewers);
    stop([seed]);
}

#[test]
fn a_stream_without_a_token_takes_viewers_that_bring_one() {
    init();
    let seed = broadcast("");
    let uri = viewers_uri(&seed);
    let (viewer, got) = playing(&format!("icdsrc name=src uri={uri}?token=any ! fakesink"));
    plays(&got);
    stop([viewer, seed]);
}

/// All that categories of this name log meanwhile.
fn logged(categories: &'static str, meanwhile: impl FnOnce()) -> String {
    let log = Arc::new(Mutex::new(String::new()));
    let lines = log.clone();
    let function = gst::log::add_log_function(move |category, _, _, _, _, _, message| {
        if category.name().starts_with(categories) {
            let line = message.get().map(|m| m.to_string()).unwrap_or_default();
            lines.lock().expect("no panic").push_str(&line);
        }
    });
    gst::log::set_threshold_from_string("icd*:9", false);
    meanwhile();
    gst::log::set_threshold_from_string("icd*:0", false);
    gst::log::remove_log_function(function);
    log.lock().expect("no panic").clone()
}

/// All that was posted.
fn posted(pipeline: &gst::Pipeline) -> String {
    let bus = pipeline.bus().expect("a bus");
    let messages = std::iter::from_fn(|| bus.pop());
    messages.map(|message| format!("{message:?}")).collect()
}

#[test]
fn addresses_are_shown_only_where_they_are_asked_for() {
    init();
    let seed = broadcast("");
    let sink = seed.by_name("seed").expect("the sink");
    let uri = viewers_uri(&seed);
    let mut viewers = Vec::new();
    let mut shown = |address: &str| {
        let log = logged("icdsink", || {
            let (viewer, got) = playing(&format!(
                "icdsrc name=src uri={uri} bind-address={address} ! fakesink"
            ));
            plays(&got);
            viewers.push(viewer);
        });
        assert!(log.contains("added"), "something is logged: {log}");
        let there = || {
            let stats = sink.property::<gst::Structure>("stats");
            let peers = stats.get::<gst::Array>("peers").map(|peers| peers.len());
            (peers, format!("{stats:?}"))
        };
        until("its figures know of it", || there().0 == Ok(viewers.len()));
        let (_, stats) = there();
        [log, stats, posted(&seed)].map(|text| text.contains(address))
    };
    assert_eq!(shown("127.0.0.2"), [false; 3]);
    sink.set_property("show-addresses", true);
    assert_eq!(shown("127.0.0.3"), [true; 3]);
    stop(viewers);
    stop([seed]);
}

#[test]
fn it_is_shown_nowhere() {
    init();
    let mut pipelines = Vec::new();
    let mut shown = logged("icd", || {
        let seed = broadcast(&format!("access-token={TOKEN}"));
        let uri = viewers_uri(&seed);
        let (viewer, got) = playing(&format!(
            "icdsrc name=src uri={uri}?token={TOKEN} ! fakesink"
        ));
        plays(&got);
        // One that is nearly it is a secret, too: it may be another stream's.
        let (other, _) = playing(&format!(
            "icdsrc name=src uri={uri}?token={TOKEN}2 ! fakesink"
        ));
        let refused = complaint(&other);
        assert!(refused.contains("is not the broadcaster's") && !refused.contains(TOKEN));
        pipelines.extend([seed, viewer, other]);
    });
    assert!(shown.contains("viewers join with"), "something is logged");
    let src = pipelines[1].by_name("src").expect("the source");
    let sink = pipelines[0].by_name("seed").expect("the sink");
    for pipeline in &pipelines {
        shown += &pipeline.debug_to_dot_data(gst::DebugGraphDetails::ALL);
        shown += &posted(pipeline);
    }
    for element in [&src, &sink] {
        for property in element.list_properties() {
            let readable = property.flags().contains(gst::glib::ParamFlags::READABLE);
            assert_eq!(readable, property.name() != "access-token", "{property:?}");
            if readable {
                shown += &format!("{:?}", element.property_value(property.name()));
            }
        }
    }
    let handler = src
        .dynamic_cast_ref::<gst::URIHandler>()
        .expect("a handler");
    shown += handler.uri().expect("a URI").as_str();
    let pad = src.static_pad("src").expect("the pad");
    shown += pad.stream_id().expect("a stream-id").as_str();
    assert!(!shown.contains(TOKEN));
    stop(pipelines);
}

#[test]
fn what_can_not_be_used_is_said() {
    init();
    let folder = Scratch::new("tokens");
    let file = token_file(&folder);
    let open = folder.path("open");
    std::fs::write(&open, TOKEN).expect("the file is written");
    let all = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&open, all).expect("its mode");
    let open = open.display();
    let key = "a".repeat(52);
    let sink = "fakesrc ! icdsink address=127.0.0.1 port=0";
    for (description, expected) in [
        (
            format!("{sink} token-file={open}"),
            format!("chmod 600 {open}"),
        ),
        (
            format!("{sink} token-file=/no/where"),
            "cannot read token-file /no/where".into(),
        ),
        (format!("{sink} token-file=/dev/zero"), "is no file".into()),
        (
            format!("{sink} access-token={}", "a".repeat(300)),
            "from 1 to 256 bytes".into(),
        ),
        (
            format!("{sink} access-token=a token-file={file}"),
            "leave one out".into(),
        ),
        (
            format!("icdsrc uri=icd://{key}@127.0.0.1:9?token-file=/etc/hostname ! fakesink"),
            "token-file is a property".into(),
        ),
        (
            "icdsrc uri=icd://127.0.0.1:9?token=a ! fakesink".into(),
            "set uri=icd://KEY@host:port".into(),
        ),
        (
            format!("icdsrc uri=icd://{key}@127.0.0.1:9 token-file={open} ! fakesink"),
            "readable by others".into(),
        ),
    ] {
        let pipeline = launch(&description);
        let _ = pipeline.set_state(gst::State::Playing);
        let said = complaint(&pipeline);
        assert!(said.contains(&expected), "{description}\nsaid: {said}");
        stop([pipeline]);
    }
}

#[test]
fn one_that_wants_the_broadcaster_alone_is_seen_by_no_other() {
    init();
    let seed = broadcast("");
    let uri = viewers_uri(&seed);
    let (shy, got) = playing(&format!(
        "icdsrc name=src uri={uri}?seed-only=true ! fakesink"
    ));
    plays(&got);
    let others = [(); 2].map(|()| playing(&format!("icdsrc name=src uri={uri} ! fakesink")));
    let stats = |pipeline: &gst::Pipeline| {
        let src = pipeline.by_name("src").expect("the source");
        src.property::<gst::Structure>("stats")
    };
    let id = |of: &gst::Structure| of.get::<String>("id").expect("an id");
    let peers = |of: &gst::Structure| {
        let peers = of.get::<gst::Array>("peers").expect("peers");
        let peers = peers
            .iter()
            .map(|p| id(&p.get::<gst::Structure>().expect("a peer")));
        peers.collect::<Vec<_>>()
    };
    until("the others meet", || {
        let ids = others.each_ref().map(|(p, _)| id(&stats(p)));
        peers(&stats(&others[0].0)).contains(&ids[1])
    });
    plays(&got);
    let me = stats(&shy);
    assert_eq!(peers(&me).len(), 1, "the seed");
    assert_eq!(me.get::<u64>("bytes-from-peers"), Ok(0));
    for (other, got) in &others {
        plays(got);
        assert!(!peers(&stats(other)).contains(&id(&me)));
    }
    stop(others.map(|(pipeline, _)| pipeline));
    stop([shy, seed]);
}

/// However wrong the URI is, what is said of it holds no token; and the next URI does not take it along.
#[test]
fn a_wrong_uri_is_not_repeated_with_its_token() {
    init();
    let src = gst::ElementFactory::make("icdsrc").build();
    let src = src.expect("the source");
    let handler = src.dynamic_cast_ref::<gst::URIHandler>();
    let handler = handler.expect("a handler");
    let key = "a".repeat(52);
    for wrong in [
        format!("?latency=5?token={TOKEN}"),
        format!(":7423&token={TOKEN}"),
        format!("?relay=no;token={TOKEN}"),
        format!("?token:{TOKEN}"),
        format!("?token={TOKEN}&{TOKEN}"),
        format!("?token={TOKEN}&latency={TOKEN}"),
        format!("?TOKEN={TOKEN}&{TOKEN}=1"),
        format!("/token={TOKEN}"),
    ] {
        let wrong = format!("icd://{key}@127.0.0.1{wrong}");
        let said = handler.set_uri(&wrong).expect_err(&wrong).to_string();
        assert!(!said.contains(TOKEN), "{wrong}: {said}");
    }
    let said = handler.set_uri(&format!("icd://?token={TOKEN}"));
    assert!(said.is_err_and(|e| e.to_string().contains("no host")));
    for uri in ["?token=S", "?latency=7&token=S", "#?token=S"] {
        let uri = format!("icd://{key}@127.0.0.1{uri}");
        handler.set_uri(&uri).expect("a URI");
        assert!(!handler.uri().expect("a URI").contains('S'));
    }
}

#[test]
fn the_token_of_a_uri_goes_with_it() {
    init();
    let folder = Scratch::new("two-uris");
    let seed = broadcast(&format!("token-file={}", token_file(&folder)));
    let uri = viewers_uri(&seed);
    let description = format!("icdsrc name=src uri={uri}?token={TOKEN} ! fakesink");
    let viewer = launch(&description);
    let src = viewer.by_name("src").expect("the source");
    src.set_property("uri", &uri);
    let _ = viewer.set_state(gst::State::Playing);
    assert!(complaint(&viewer).contains("the stream is private; set access-token"));
    stop([viewer, seed]);
}

#[test]
fn who_is_banned_is_told_and_the_others_play_on() {
    init();
    let seed = broadcast("");
    let sink = seed.by_name("seed").expect("the sink");
    let uri = viewers_uri(&seed);
    let viewers = [(); 3].map(|()| playing(&format!("icdsrc name=src uri={uri} ! fakesink")));
    for (_, got) in &viewers {
        plays(got);
    }
    let [(banned, silent), others @ ..] = viewers;
    let src = banned.by_name("src").expect("the source");
    let stats = src.property::<gst::Structure>("stats");
    let id = stats.get::<String>("id").expect("an id");
    let ban = |id: &str| sink.emit_by_name::<bool>("ban", &[&id]);
    let own = uri.trim_start_matches("icd://").split('@').next();
    let own = own.expect("a key").to_string();
    assert!(
        !ban("nobody") && !ban("") && !ban(&own),
        "that is no viewer's key"
    );
    assert!(ban(&id) && ban(&id), "twice is as good as once");
    assert!(complaint(&banned).contains("does not admit this viewer"));
    until("it is gone", || sink.property::<u32>("num-viewers") == 2);
    // What was on its way to its sink still gets there.
    until("it plays no more", || {
        let before = silent.len();
        for (_, got) in &others {
            plays(got);
        }
        silent.len() == before
    });
    stop(others.map(|(pipeline, _)| pipeline));
    stop([banned]);
    stop([seed]);
    assert!(!ban(&id), "nothing is broadcast");
}
