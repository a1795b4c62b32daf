//! What the application is told. One that is slow loses news, and nothing that it must act on.

use std::collections::VecDeque;

use icd_grid::Event;

/// Events that wait for a slow application beyond its queue: more than a seed asks about.
const MAX_HELD: usize = 16 * 1024;

/// The way to the application.
#[derive(Debug)]
pub(crate) struct Events {
    to: async_channel::Sender<Event>,
    held: VecDeque<Event>,
}

/// Whether nothing later says the same, or makes up for it.
fn must_come(event: &Event) -> bool {
    match event {
        Event::AskAdmission { .. }
        | Event::Status(_)
        | Event::Refused(_)
        | Event::Unreached(_)
        | Event::Trusted(_)
        | Event::PeerAdded { .. }
        | Event::PeerRemoved { .. }
        | Event::Drained => true,
        Event::TurnedAway { .. }
        | Event::Epoch(_)
        | Event::Failover { .. }
        | Event::Skipped { .. }
        | Event::Fault { .. } => false,
    }
}

impl Events {
    pub(crate) fn new(to: async_channel::Sender<Event>) -> Self {
        Self {
            to,
            held: VecDeque::new(),
        }
    }

    /// Tells it, as soon as there is room.
    pub(crate) fn tell(&mut self, event: Event) {
        self.give();
        if !must_come(&event) && !self.held.is_empty() {
            return;
        }
        self.held.push_back(event);
        self.give();
        // What was not taken, and does without.
        if self.held.back().is_some_and(|last| !must_come(last)) || self.held.len() > MAX_HELD {
            self.held.pop_back();
        }
    }

    /// Hands on what waits, as far as there is room.
    pub(crate) fn give(&mut self) {
        while let Some(event) = self.held.pop_front() {
            if let Err(full) = self.to.try_send(event) {
                self.held.push_front(full.into_inner());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use icd_grid::{Epoch, Status};

    use super::*;

    #[test]
    fn a_slow_application_loses_news_and_no_status() {
        let (to, from) = async_channel::bounded(1);
        let mut events = Events::new(to);
        events.tell(Event::Epoch(Epoch(1)));
        events.tell(Event::Epoch(Epoch(2)));
        events.tell(Event::Status(Status::Running));
        events.tell(Event::Epoch(Epoch(3)));
        events.tell(Event::Status(Status::Starving));
        let mut taken = Vec::new();
        while let Ok(event) = from.try_recv() {
            taken.push(format!("{event:?}"));
            events.give();
        }
        assert_eq!(
            taken,
            ["Epoch(Epoch(1))", "Status(Running)", "Status(Starving)"]
        );
        for _ in 0..2 * MAX_HELD {
            events.tell(Event::Drained);
        }
        assert_eq!(events.held.len(), MAX_HELD);
    }
}
