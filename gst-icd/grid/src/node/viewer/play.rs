//! What the player gets, and when.

use super::*;

impl Viewer {
    pub(in crate::node) fn poll_media(&mut self, now: Instant) -> Option<Media> {
        // Whatever ends play, it asks for no time again that has passed.
        self.wake_media = None;
        if self.refused {
            return None;
        }
        let clock = self.clock.mapping()?;
        loop {
            let lost = self.playout.lost();
            let expected = self.playout.position();
            let next = self.playout.next(&self.relay.window, Some(clock), now);
            if let (Some(seq), true) = (expected, self.playout.lost() > lost) {
                self.skipped(seq, self.playout.lost() - lost);
            }
            match next {
                Next::Play { piece, discont } => {
                    return Some(Media::Payload {
                        bytes: piece.payload(),
                        first_item: piece.info().first_item,
                        time: piece.info().time,
                        discont,
                        clock,
                    });
                }
                Next::Header(version) => {
                    let here = self.relay.headers.has(version);
                    if !here && !self.need_header(version, now) {
                        return None;
                    }
                    let Some((_, header)) = self.relay.headers.get(version) else {
                        let seq = self.playout.position().unwrap_or_default();
                        self.playout.skip();
                        self.skipped(seq, 1);
                        continue;
                    };
                    let media = Media::Header {
                        media: header.media.clone(),
                        epoch: header.epoch,
                        own_timeline: header.own_timeline,
                    };
                    self.playout.header_applied(version);
                    return Some(media);
                }
                Next::Wait(at) => {
                    self.wake_media = at;
                    return None;
                }
                Next::End => {
                    if std::mem::replace(&mut self.end_told, true) {
                        return None;
                    }
                    self.set_status(Status::Ended);
                    self.report(now);
                    return Some(Media::End);
                }
            }
        }
    }

    /// Asks around for a header; true if it is waited for no longer. The next one that is known
    /// stands in for it.
    fn need_header(&mut self, version: u32, now: Instant) -> bool {
        let position = self.playout.position().unwrap_or_default();
        let due = self
            .playout
            .due(position, &self.relay.window, self.clock.mapping());
        let later = self.relay.headers.get(version).is_some();
        let patience = if later { Duration::ZERO } else { SETTLE };
        if due.is_some_and(|due| due + patience <= now) {
            return true;
        }
        let again = Duration::from_millis(100);
        if self
            .asked_header
            .is_none_or(|at| now.saturating_duration_since(at) >= again)
        {
            self.asked_header = Some(now);
            let ready: Vec<_> = self
                .relay
                .peers
                .iter()
                .filter(|(_, p)| p.ready)
                .map(|(p, _)| *p)
                .collect();
            for peer in ready {
                self.relay.send(peer, &Message::NeedHeader { version });
            }
        }
        self.wake_media = Some(now + again);
        false
    }
}
