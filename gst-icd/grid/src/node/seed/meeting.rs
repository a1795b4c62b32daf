//! Viewers that come: hello, admission, tickets.

use super::*;
use crate::node::introduce::may_be_home;

/// The longest latency is told in steps of this.
const LATENCY_STEP_MS: u32 = 100;

impl Seed {
    pub(super) fn renew_tickets(&mut self, now: Instant) {
        self.renewed = now;
        let members: Vec<_> = self
            .seat
            .members()
            .map(|(p, m)| (p, (m.id, m.addr)))
            .collect();
        for (peer, whose) in members {
            let ticket = self.ticket(whose, now);
            self.relay.send(peer, &Message::Ticket(ticket));
        }
    }

    pub(super) fn ticket(
        &self,
        (node, addr): (NodeId, SocketAddr),
        now: Instant,
    ) -> Signed<Ticket> {
        let ticket = Ticket {
            epoch: self.epoch,
            node,
            addr,
            expires: self.ticket_expiry(now),
        };
        Signed::sign(&ticket, &*self.signer)
    }

    /// A viewer is seen elsewhere: its NAT or its network changed. It is named so from now on.
    pub(super) fn moved(&mut self, peer: PeerId, addr: SocketAddr, now: Instant) {
        if let Some(state) = self.relay.peers.get_mut(&peer) {
            state.addr = addr;
            state.seen_at = addr;
        }
        let Some(id) = self.seat.moved(peer, addr) else {
            return;
        };
        let ticket = self.ticket((id, addr), now);
        self.relay.send(peer, &Message::Ticket(ticket));
    }

    /// Of those that are given now.
    pub(super) fn ticket_expiry(&self, now: Instant) -> SenderTime {
        SenderTime(self.time(now).0.saturating_add(TICKET.as_nanos() as u64))
    }

    pub(super) fn hello(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        if self.asking.iter().any(|(p, ..)| *p == peer) {
            return;
        }
        if hello.proof.len() > MAX_PROOF_BYTES {
            self.relay.nonsense(peer, now);
            return;
        }
        // One that does not hold is not kept, however long it is.
        let ticket = hello.ticket.filter(|t| t.open(&*self.verifier).is_some());
        let hello = Hello { ticket, ..hello };
        let most = self.longest_latency();
        let Some((id, addr)) = self.relay.peers.get(&peer).map(|p| (p.id, p.addr)) else {
            return;
        };
        if !self.admitted(id, &hello) && !self.in_vain.may(addr.ip(), now) {
            self.refuse(peer, Refusal::Full { retry_s: 30 });
            return;
        }
        let refusal = if hello.version != VERSION {
            Some(Refusal::Version)
        } else if hello.stream.is_some_and(|key| key != self.signer.key()) {
            Some(Refusal::WrongStream)
        } else if !self.proven(peer, &hello) {
            Some(Refusal::Token)
        } else if self.excluded.has(id) {
            Some(Refusal::Denied)
        } else if Duration::from_millis(u64::from(hello.latency_ms)) > most
            && !self.admitted(id, &hello)
        {
            // Groups of pictures vary a little, and who follows this shall not be refused again.
            let most_ms = most.as_millis().min(u128::from(u32::MAX)) as u32;
            let most_ms = most_ms - most_ms % LATENCY_STEP_MS;
            Some(Refusal::Latency { most_ms })
        } else {
            self.seat.has_room(addr.ip()).err()
        };
        if let Some(refusal) = refusal {
            // A token is guessed by asking often.
            if refusal.retry_s().is_none() {
                self.in_vain.take(addr.ip(), now);
            }
            self.refuse(peer, refusal);
            return;
        }
        if !self.ask_admission {
            self.admit(peer, hello, now);
            return;
        }
        let Some(state) = self.relay.peers.get(&peer) else {
            return;
        };
        let (id, addr) = (state.id, state.addr);
        self.asking.push((peer, hello, now + VERDICT));
        self.relay.tell(Event::AskAdmission { peer, id, addr });
    }

    pub(super) fn name_candidates(&mut self, peer: PeerId, now: Instant) {
        let most = self.relay.names();
        let list = self.seat.candidates(peer, most, &mut self.relay.rng, now);
        self.seat.named(peer);
        self.relay.send(peer, &Message::Candidates(list));
    }

    /// Whether a viewer may know of the stream: all may, or it knows the token.
    fn proven(&self, peer: PeerId, hello: &Hello) -> bool {
        let Some(token) = &self.settings.token else {
            return true;
        };
        let state = self.relay.peers.get(&peer);
        state.is_some_and(|p| token.is_proven_by(&hello.proof, self.signer.key(), &p.binding))
    }

    /// Whether a viewer comes back: who was admitted is not refused.
    fn admitted(&self, id: NodeId, hello: &Hello) -> bool {
        let ticket = hello.ticket.as_ref().and_then(|t| t.open(&*self.verifier));
        ticket.is_some_and(|t| t.epoch == self.epoch && t.node == id)
    }

    /// A viewer's play-out delay and a group of pictures before it are kept. Where groups are
    /// longer than half of the buffer, viewers begin with what there is, a little later.
    pub(super) fn longest_latency(&self) -> Duration {
        let buffer = self.settings.buffer;
        buffer - self.relay.window.longest_group().min(buffer / 2)
    }

    pub(super) fn refuse(&mut self, peer: PeerId, refusal: Refusal) {
        self.refusals = self.refusals.saturating_add(1);
        if let Some((id, addr)) = self.relay.peers.get(&peer).map(|p| (p.id, p.addr)) {
            let why = refusal.clone();
            self.relay.tell(Event::TurnedAway { id, addr, why });
        }
        self.relay.send(peer, &Message::Refuse(refusal));
        self.relay.close(peer, Close::Refused);
    }

    /// The application answered.
    pub(super) fn answered(&mut self, peer: PeerId, allow: bool, now: Instant) {
        self.verdict(peer, allow, now);
        // It does so one after the other: the next one's time begins now.
        for (.., until) in &mut self.asking {
            *until = now + VERDICT;
        }
    }

    pub(super) fn verdict(&mut self, peer: PeerId, allow: bool, now: Instant) {
        let Some(at) = self.asking.iter().position(|(p, ..)| *p == peer) else {
            return;
        };
        let (_, hello, _) = self.asking.remove(at);
        let Some(addr) = self.relay.peers.get(&peer).map(|p| p.addr) else {
            return;
        };
        match self.seat.has_room(addr.ip()) {
            Ok(()) if allow => self.admit(peer, hello, now),
            Err(full) if allow => self.refuse(peer, full),
            _ => self.refuse(peer, Refusal::Denied),
        }
    }

    pub(super) fn admit(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        if !self.relay.peers.contains_key(&peer) {
            return;
        }
        // A viewer that knows a later life under this key never goes back: the clock of this
        // machine was set back since. This life is made the later one.
        let known = hello.ticket.as_ref().and_then(|t| t.open(&*self.verifier));
        if let Some(ticket) = known.filter(|t| t.epoch > self.epoch) {
            self.begin_anew(Epoch(ticket.epoch.0.saturating_add(1)), now);
        }
        let settled = hello.resume.is_some();
        // What was read is not kept for as long as the viewer stays.
        let hello = Hello {
            ticket: None,
            proof: Bytes::new(),
            // Who shall be seen by nobody is named to nobody.
            relay: hello.relay && !hello.seed_only(),
            ..hello
        };
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        self.unready.remove(&peer);
        state.ready = true;
        state.relays = hello.relay;
        state.lan = hello.lan.filter(may_be_home);
        let (id, addr) = (state.id, state.addr);
        let welcome = Welcome {
            version: VERSION,
            features: 0,
            observed: addr,
            second_port: 0,
            ticket: self.ticket((id, addr), now),
            beacon: self.beacon(now),
        };
        self.relay.send(peer, &Message::Welcome(welcome));
        let member = Member {
            id,
            addr,
            hello,
            report: Default::default(),
            reported: None,
            since: now,
            started: false,
            settled,
            named: false,
            referred: 0,
            sent_away: Default::default(),
        };
        let wants = !settled && !member.hello.seed_only();
        self.seat.admit(peer, member);
        // At once, where there is room for words: those that start together were told at different times, and
        // do not all ask the same.
        if wants && self.relay.affords(Word::Candidates, now) {
            self.name_candidates(peer, now);
        }
        self.relay.tell(Event::PeerAdded { id, addr });
        self.start(peer, now);
    }
}
