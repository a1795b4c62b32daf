//! Buffer maps: who is told what this node has, and when.

use super::*;

/// A child that heard nothing for a round of all stripes and this is told that its parent lives:
/// with a tick more that is well before it takes it for dead (see the parents' silence).
const MUTE_PARENT: Duration = Duration::from_millis(20);
/// Buffer maps go to those that feed or are fed, and to others, this often.
const HAVE_FAMILY: Duration = Duration::from_secs(1);
const HAVE_OTHERS: Duration = Duration::from_secs(4);
/// A node that found or lost its last free slot says so after this time, to those that are not
/// near after twice as much: somebody looks for one. One that lacks pieces says so as often, since
/// the others take it to have what was made since.
const HAVE_NEWS: Duration = Duration::from_millis(250);
const PEER_PING: Duration = Duration::from_secs(8);

impl Viewer {
    /// A child knows by pieces that its parent lives, or else by this.
    pub(super) fn tell_alive(&mut self, now: Instant) {
        let Some(format) = self.relay.format else {
            return;
        };
        let most = format.round() + MUTE_PARENT;
        let mute = |(peer, p): &(&PeerId, &Peer)| {
            let quiet = now.saturating_duration_since(p.told) >= most;
            quiet && p.ready && self.relay.children.stripes_of(**peer).next().is_some()
        };
        let mute = self.relay.peers.iter().filter(mute);
        let mute: Vec<_> = mute.map(|(peer, _)| *peer).collect();
        if mute.is_empty() {
            return;
        }
        let have = self.have(now);
        for child in mute {
            self.tell_have(child, &have, now);
        }
    }

    /// Tells neighbours what is here, each as often as it needs it.
    pub(super) fn tell_maps(&mut self, now: Instant) {
        let heads = self.relay.window.heads(self.relay.stripes());
        let room = self.relay.children.spare() > 0;
        // There all ask each other, when somebody vanishes.
        let small = self.grid() <= SMALL;
        let troubled = self.relay.window.lacks(&heads) || !self.parents.at_rest(now);
        let due = |(peer, p): &(&PeerId, &Peer)| {
            let fed = self.relay.children.stripes_of(**peer).next().is_some();
            let family = fed || self.parents.count(**peer) > 0;
            let again = match (p.told_room != room || (troubled && family), family) {
                (true, true) => HAVE_NEWS,
                (true, false) => HAVE_NEWS * 2,
                (false, true) => HAVE_FAMILY,
                (false, false) if small => HAVE_OTHERS / 2,
                (false, false) => HAVE_OTHERS,
            };
            p.ready && !p.seed && now.saturating_duration_since(p.told_have) >= again
        };
        let due = self.relay.peers.iter().filter(due);
        let due: Vec<_> = due.map(|(peer, _)| *peer).collect();
        if due.is_empty() {
            return;
        }
        let have = self.have(now);
        for peer in due {
            self.tell_have(peer, &have, now);
        }
    }

    fn have(&mut self, now: Instant) -> Have {
        Have {
            lag_ms: self.last_lag_ms,
            ..self.relay.have(now)
        }
    }

    fn tell_have(&mut self, peer: PeerId, have: &Have, now: Instant) {
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        state.told_have = now;
        state.told_room = have.spare > 0;
        let pinged = state.ping_sent;
        let have = Have {
            delay_ms: state.owd_ms,
            ..have.clone()
        };
        self.relay.send(peer, &Message::Have(have));
        if pinged.is_none_or(|at| now.saturating_duration_since(at) >= PEER_PING) {
            self.relay.ping(peer, now);
        }
        // A child that confirms nothing is frozen: its slots are worth more elsewhere.
        if self.relay.uplink.silence(peer, now) > CHILD_SILENCE {
            self.relay.close(peer, Close::Silent);
        }
    }
}
