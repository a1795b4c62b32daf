//! Where the stream begins for a viewer, and who takes each stripe from the seed.

use super::*;

impl Seed {
    pub(super) fn start_waiting(&mut self, now: Instant) {
        let waiting: Vec<_> = self
            .seat
            .members()
            .filter(|(_, m)| !m.started)
            .map(|(peer, _)| peer)
            .collect();
        for peer in waiting {
            if self.start(peer, now) {
                continue;
            }
            if let Some(full) = self.seat.patience(peer, now) {
                self.refuse(peer, full);
                self.gone(peer, "there is no room");
            }
        }
    }

    /// Stripes that a newcomer says it can push.
    fn gives(&self, hello: &Hello) -> f64 {
        let rate = self.relay.window.rate().unwrap_or_default();
        match hello.relay {
            true => slots(Some(hello.upload), BASE, rate, self.relay.stripes()) as f64,
            false => 0.0,
        }
    }

    /// Stripes that it takes beyond those.
    fn needs(&self, hello: &Hello) -> f64 {
        (f64::from(self.relay.stripes()) - self.gives(hello)).max(0.0)
    }

    /// One that only the seed can feed takes a copy for good: those all together get no more than the
    /// seed can do without.
    fn alone(&self, free: f64, slots: f64, taken: usize) -> Opening {
        let taken = taken as f64;
        match free >= 1.0 && taken < slots * DEPENDANTS {
            true => Opening::Seed(From::Newest),
            false => Opening::Wait,
        }
    }

    /// What is said to a newcomer before its first piece.
    fn first_words(&self) -> Word {
        let newest = self.relay.headers.newest();
        let header = newest.map_or(0, |(signed, _)| signed.bytes());
        Word::Start(header + self.relay.banned.bytes())
    }

    /// Tells a viewer where the stream begins for it, and pushes everything until it finds
    /// parents. False if it waits for room.
    pub(super) fn start(&mut self, peer: PeerId, now: Instant) -> bool {
        let (Some(head), Some(member)) = (self.relay.window.head(), self.seat.member(peer)) else {
            return true;
        };
        let hello = member.hello.clone();
        let own_timeline = self.state.as_ref().is_some_and(|s| s.own_timeline);
        let latency = Duration::from_millis(u64::from(hello.latency_ms));
        let window = &self.relay.window;
        let resume = hello
            .resume
            .filter(|seq| hello.epoch == self.epoch && window.first().is_some_and(|f| *seq >= f));
        let due = window.join_of_age(latency, self.time(now));
        let age = due
            .filter(|_| !own_timeline)
            .and_then(|seq| window.get(seq))
            .map(|s| self.time(now).since(s.info().time));
        let free_of_charge = self.relay.uplink.rate().is_none();
        let affords = |purse: &mut Purse, age| free_of_charge || purse.affords(age, now);
        let affordable = age.filter(|age| affords(&mut self.purse, *age));
        let overdue = affordable.map(|age| age.saturating_sub(latency));
        let stripes = self.relay.stripes();
        let copy = f64::from(stripes.max(1));
        let free = self.relay.children.spare() as f64 / copy;
        let slots = self.relay.children.slots() as f64 / copy;
        let (spare, reserve) = self.seat.spare(peer, now);
        let taken = self.seat.dependants(now);
        let window = &self.relay.window;
        let newest = window.newest_join().and_then(|join| window.get(join));
        let age = newest.map_or(Duration::ZERO, |p| self.time(now).since(p.info().time));
        let past = DEAR * age.as_secs_f64() / latency.as_secs_f64().max(0.1);
        let room = Room {
            free,
            busy: self.relay.uplink.backlog() > START_BACKLOG,
            spare: spare / copy,
            reserve: reserve / copy,
            calm: free >= (slots - taken as f64) * CALM,
            live: match self.seat.len() {
                few if few < MANY => 1.0,
                _ => self.needs(&hello) / copy,
            },
            past,
            affords: affords(&mut self.purse, age),
            viewers: self.seat.len(),
            brings: self.gives(&hello) / copy,
            next_soon: !free_of_charge
                && !self.first.affords(FIRST, now)
                && next_soon(window.longest_group(), age, latency),
        };
        let opening = match hello.seed_only() && !free_of_charge {
            true => self.alone(free, slots, taken),
            false => opening(room, overdue),
        };
        // Who comes back needs no candidates.
        let opening = match opening {
            Opening::Wait => opening,
            _ if resume.is_some() || self.relay.affords(self.first_words(), now) => opening,
            _ => Opening::Wait,
        };
        let by_seed = match opening {
            // Who comes back is told at once that this is the life it knows; it has parents.
            Opening::Wait if resume.is_some() => false,
            Opening::Wait => return false,
            Opening::Grid => false,
            Opening::Seed(_) => true,
        };
        let join = match opening {
            Opening::Seed(From::Due) => {
                self.purse.pay(affordable.unwrap_or_default());
                due
            }
            _ => {
                if by_seed {
                    self.purse.pay(age);
                }
                self.relay.window.newest_join()
            }
        };
        let window = &self.relay.window;
        let join = join.map(|join| {
            self.leads
                .before(join)
                .filter(|s| window.has(*s))
                .unwrap_or(join)
        });
        let Some(from) = resume.or(join) else {
            return true;
        };
        let from = from.min(head.plus(1));
        let version = match window.get(from) {
            Some(stored) => stored.info().header,
            None => self.version,
        };
        let Some((header, version)) = self
            .relay
            .headers
            .get(version)
            .map(|(signed, header)| (signed.clone(), header.version))
        else {
            return true;
        };
        let mut leased = 0;
        for k in (0..stripes).filter(|_| by_seed) {
            if self.relay.children.spare() > 0 {
                leased |= 1 << k;
                let strength = self.seat.strength(peer);
                self.relay
                    .children
                    .add(peer, StripeId(k), true, strength, now);
            }
        }
        let named = self.seat.member(peer).is_some_and(|m| m.named);
        if resume.is_none() && !hello.seed_only() && !named {
            self.name_candidates(peer, now);
        }
        if resume.is_none() {
            self.relay.tell_bans(peer);
        }
        let start = Start {
            from,
            head,
            header,
            leased,
        };
        self.relay.send(peer, &Message::Start(start));
        let newer: Vec<_> = self
            .relay
            .headers
            .after(version + 1)
            .map(|(signed, _)| signed.clone())
            .collect();
        for header in newer {
            self.relay.send(peer, &Message::Header(header));
        }
        let ttl = latency.min(self.settings.buffer) + Duration::from_secs(1);
        if by_seed {
            self.relay.backlog(peer, None, from, head, ttl, now);
        } else {
            let pieces = FIRST.div_duration_f64(self.relay.piece()) as u64;
            let last = from.plus(pieces).min(head);
            let first =
                FIRST.min(self.relay.piece() * last.0.saturating_sub(from.0).min(pieces) as u32);
            let idle = self.relay.uplink.backlog() < START_BACKLOG;
            if idle && (free_of_charge || self.first.affords(first, now)) {
                self.first.pay(first);
                self.relay.backlog(peer, None, from, last, ttl, now);
            }
            let needs = self.needs(&hello).ceil();
            self.seat.promise(needs, (past * copy, latency), now);
        }
        self.seat.started(peer);
        self.tend(now);
        true
    }

    pub(super) fn subscribe(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        from: Seq,
        lease: bool,
        asks: &Asks,
        now: Instant,
    ) {
        let Some(asker) = self.relay.asker(peer, asks) else {
            return;
        };
        let path = self.relay.format.is_some().then_some(&[][..]);
        if asker.orphan && lease {
            self.relay.drop_silent(stripe, now);
        }
        if lease && self.seat.may_send_away(peer, stripe, now) && self.overlent(peer, stripe) {
            let other = self.referral(&asker, stripe, now);
            if other.is_some() || asker.strength < u16::from(self.relay.stripes()) {
                self.seat.sent_away(peer, stripe, now);
                self.reject(peer, stripe, NoStripe::Busy, other);
                return;
            }
        }
        let place = if lease {
            None
        } else {
            self.seat.take_place(peer, stripe)
        };
        if place.is_none() && !lease {
            // Its invitation lapsed; it keeps the parent that it has.
            self.reject(peer, stripe, NoStripe::Busy, None);
            return;
        }
        match self.relay.children.judge(&asker, stripe, path) {
            Ok(Taken::Slot) => {}
            // A root's place is always free: it is what the rest of the stripe lives from.
            Ok(Taken::Over(_)) | Err(NoStripe::Busy) if !lease => {}
            Ok(Taken::Over(_)) | Err(NoStripe::Busy) => {
                // Roots stay; what is lent goes to the stronger, who feeds it on.
                // Nor does one move from which many live.
                let may =
                    |peer| !self.seat.depends(peer) && self.seat.below(peer, stripe) <= LIVE_FROM;
                let lent = self.relay.children.weakest_lent(stripe, may);
                let insertion = self.settings.policy.insertion;
                let weaker =
                    lent.filter(|(_, c)| insertion && outweighs(asker.strength, c.strength));
                let Some((weaker, _)) = weaker else {
                    self.reject(peer, stripe, NoStripe::Busy, None);
                    return;
                };
                let go_to = self.relay.instead(weaker, peer, asks);
                self.relay.displace(weaker, stripe, go_to, now);
            }
            Err(why) => {
                self.reject(peer, stripe, why, None);
                return;
            }
        }
        let strength = asker.strength;
        let before = self.relay.children.get(peer, stripe).map(|c| c.since);
        self.relay.children.add(peer, stripe, lease, strength, now);
        self.accept(peer, stripe, lease);
        if before.is_some_and(|at| now.saturating_duration_since(at) < GIVEN_PAST) {
            // It has just been sent the past.
        } else if lease {
            let ttl = Duration::from_secs(1);
            let head = self.relay.window.head().unwrap_or(from);
            self.relay.backlog(peer, Some(stripe), from, head, ttl, now);
        } else {
            self.relay.fill(peer, stripe, from, now);
        }
        if let Some(former) = place.flatten() {
            // All that take the stripe live from it until the new root feeds it.
            let go_to = self.relay.candidate(peer);
            self.relay.displace(former, stripe, go_to, now);
        }
    }

    /// Whether what is lent last waits for what was lent before.
    fn overlent(&self, peer: PeerId, stripe: StripeId) -> bool {
        // What costs most last: the backlog is summed over all that is queued.
        self.relay.children.get(peer, stripe).is_none()
            && !self.seat.depends(peer)
            && self.relay.uplink.backlog() >= LENT_BACKLOG
    }

    /// Where one that asks for a loan finds the stripe as soon: what is lent last waits for what was lent
    /// before, and who has it already waits for nothing.
    fn referral(&mut self, asker: &Asker, stripe: StripeId, now: Instant) -> Option<Candidate> {
        let peer = asker.peer;
        let relay = &self.relay;
        let lives = |peer: &PeerId| relay.uplink.silence(*peer, now) < LIVES;
        let fed = relay.children.of(stripe).filter(lives);
        let other = self.seat.referral((peer, asker.strength), fed)?;
        self.relay.candidate(other)
    }

    fn accept(&mut self, peer: PeerId, stripe: StripeId, lease: bool) {
        let accept = Message::Accept {
            stripe,
            path: Vec::new(),
            above: None,
            lease,
        };
        self.relay.send(peer, &accept);
    }

    fn reject(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        why: NoStripe,
        instead: Option<Candidate>,
    ) {
        let reject = Message::Reject {
            stripe,
            why,
            instead,
        };
        self.relay.send(peer, &reject);
    }

    pub(super) fn place(&mut self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            match place {
                Place::Root(peer, stripe) => {
                    self.relay.children.set_lease(peer, stripe, false);
                    self.relay.send(peer, &Message::Root { stripe });
                }
                Place::Lease(peer, stripe) => {
                    if self.relay.children.get(peer, stripe).is_some() {
                        self.relay.children.set_lease(peer, stripe, true);
                        self.accept(peer, stripe, true);
                    }
                }
                Place::Invite(peer, stripe) => self.relay.send(peer, &Message::Invite { stripe }),
                Place::Dead(peer) => self.relay.close(peer, Close::Silent),
            }
        }
    }

    pub(super) fn tend(&mut self, now: Instant) {
        self.tended = now;
        self.relay.children.let_go(now);
        let relay = &self.relay;
        let pulse = |peer| {
            let state = relay.peers.get(&peer);
            Pulse {
                silence: relay.uplink.silence(peer, now),
                heard: state.map_or(Duration::MAX, |p| now.saturating_duration_since(p.heard)),
                rtt: state.map_or(Duration::ZERO, |p| p.rtt),
            }
        };
        let places = self.seat.tend(&relay.children, pulse, now);
        self.place(places);
    }
}
