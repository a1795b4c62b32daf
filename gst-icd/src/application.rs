//! What the application is told: a thread of its own per element, so that a handler may take its
//! time, or set the element to NULL, without holding up the grid.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use icd_grid::Event;
use icd_net::StartError;

/// A lock that a panic elsewhere does not poison.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether an element that is started does something for the first time; it is noted in the flag.
pub(crate) fn first<T>(state: &Mutex<Option<T>>, flag: impl FnOnce(&mut T) -> &mut bool) -> bool {
    lock(state)
        .as_mut()
        .is_some_and(|started| !std::mem::replace(flag(started), true))
}

/// Warnings that others can bring about come at most this often.
const FAULTS: Duration = Duration::from_secs(10);

/// Whether peers that broke the rules were warned of a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Faults(Option<Instant>);

impl Faults {
    /// Tells the application of a peer that was dropped: always by an element message, and now and
    /// then by a warning, which people see.
    pub(crate) fn tell(this: &Mutex<Self>, element: &impl IsA<gst::Element>, id: &str, what: &str) {
        let structure = gst::Structure::builder("icd-peer-fault")
            .field("id", id)
            .field("what", what)
            .build();
        post(element, structure);
        let warned = lock(this).0.replace(Instant::now());
        if warned.is_some_and(|at| at.elapsed() < FAULTS) {
            lock(this).0 = warned;
            return;
        }
        gst::element_warning!(
            element.upcast_ref::<gst::Element>(),
            gst::ResourceError::Read,
            ("viewer {id} was dropped: {what}. The stream goes on without it; nothing needs to be done, unless it is one of yours: then update it")
        );
    }
}

/// Why nothing starts; `properties` are those that a socket is bound by.
pub(crate) fn not_started(error: &StartError, properties: &str) -> String {
    match error {
        StartError::Bind(error) => format!("{properties}: {error}"),
        error => error.to_string(),
    }
}

/// Posts an element message.
pub(crate) fn post(element: &impl IsA<gst::Element>, structure: gst::Structure) {
    let element = element.upcast_ref::<gst::Element>();
    let message = gst::message::Element::builder(structure)
        .src(element)
        .build();
    let _ = element.post_message(message);
}

/// Runs until the node is gone. `each` gets every event, and none five times a second, to look at
/// what no event tells of.
pub(crate) fn listen(
    name: &str,
    events: async_channel::Receiver<Event>,
    mut each: impl FnMut(Option<Event>) -> glib::ControlFlow + Send + 'static,
) -> std::io::Result<()> {
    const LOOK: Duration = Duration::from_millis(200);
    let runtime = icd_net::runtime()?;
    std::thread::Builder::new()
        .name(format!("{name}:events"))
        .spawn(move || {
            let mut looked = Instant::now();
            loop {
                let left = LOOK.saturating_sub(looked.elapsed());
                let event = if left.is_zero() {
                    looked = Instant::now();
                    None
                } else {
                    let next = async { tokio::time::timeout(left, events.recv()).await };
                    match runtime.block_on(next) {
                        Ok(Ok(event)) => Some(event),
                        Ok(Err(_)) => break,
                        Err(_) => continue,
                    }
                };
                if each(event).is_break() {
                    break;
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_dropped_is_told_of_each_time_and_warned_of_now_and_then() {
        gst::init().unwrap();
        let element = gst::ElementFactory::make("identity").build().unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let faults = Mutex::default();
        for id in ["one", "two"] {
            Faults::tell(
                &faults,
                &element,
                id,
                "it sends messages that make no sense",
            );
        }
        let mut told = Vec::new();
        let mut warned = Vec::new();
        while let Some(message) = bus.pop() {
            match message.view() {
                gst::MessageView::Element(e) => told.push(e.structure().unwrap().to_string()),
                gst::MessageView::Warning(w) => warned.push(w.error().to_string()),
                _ => {}
            }
        }
        assert!(
            told[0].contains("one") && told[1].contains("two"),
            "{told:?}"
        );
        assert_eq!(warned.len(), 1);
        assert!(warned[0].contains("viewer one was dropped: it sends messages"));
        assert!(warned[0].contains("then update it"), "{warned:?}");
    }
}
