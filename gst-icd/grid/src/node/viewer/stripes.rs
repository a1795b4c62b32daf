//! Subscribing stripes, feeding them on, and the paths that they take.

use super::*;

impl Viewer {
    pub(super) fn own_path(&self, stripe: StripeId) -> Option<Vec<u64>> {
        let feed = self.parents.feed(stripe)?;
        feed.parent()?;
        let mut path = feed.path().to_vec();
        path.push(self.relay.me.short());
        Some(path)
    }

    pub(super) fn subscribe(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        (epoch, from): (Epoch, Seq),
        asks: &Asks,
        now: Instant,
    ) {
        let Some(mut asker) = self.relay.asker(peer, asks) else {
            return;
        };
        // In another life of the seed than the asker, it could not feed it.
        let path = self.own_path(stripe).filter(|_| epoch == self.relay.epoch);
        if asker.orphan {
            self.relay.drop_silent(stripe, now);
            // The reserve is of no use to anybody where the queue does not get shorter.
            asker.orphan = self.relay.uplink.delay(now) < FULL_QUEUE;
        }
        match self.relay.children.judge(&asker, stripe, path.as_deref()) {
            Ok(Taken::Slot) => {}
            Ok(Taken::Over(weaker)) => {
                let go_to = self.relay.instead(weaker, peer, asks);
                self.relay.displace(weaker, stripe, go_to, now);
            }
            // It was the root, and this node is now in its place: it left a slot there.
            Err(NoStripe::Busy) if self.changes_places(peer, stripe, now) => {}
            Err(why) => {
                let instead = self.roomy(peer);
                let reject = Message::Reject {
                    stripe,
                    why,
                    instead,
                };
                self.relay.send(peer, &reject);
                return;
            }
        }
        let strength = asker.strength;
        let fresh = self.relay.children.add(peer, stripe, false, strength, now);
        let accept = Message::Accept {
            stripe,
            path: path.unwrap_or_default(),
            above: self.above(stripe),
            lease: false,
        };
        self.relay.send(peer, &accept);
        if fresh {
            let ttl = self.settings.latency;
            let head = self.relay.window.head().unwrap_or(from);
            self.relay.backlog(peer, Some(stripe), from, head, ttl, now);
        }
    }

    fn changes_places(&self, peer: PeerId, stripe: StripeId, now: Instant) -> bool {
        let same = |(p, k, until)| (p, k) == (peer, stripe) && now < until;
        self.changes.is_some_and(same)
    }

    pub(super) fn accept(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        (path, above): (Vec<u64>, Option<Candidate>),
        lease: bool,
        now: Instant,
    ) {
        let expected = self.parents.is_pending(peer, stripe);
        let parent = self.parents.feed(stripe).and_then(|f| f.parent());
        if !expected && parent == Some(peer) {
            // Its parent says it anew: no sign of life of the stripe.
            self.parents.set_lease(stripe, lease);
            self.path(peer, stripe, (path, above), now);
            return;
        }
        let bad_path = path.len() > MAX_DEPTH || path.contains(&self.relay.me.short());
        if !expected || bad_path {
            self.decline(peer, stripe);
            self.parents.rejected(peer, stripe, None, now);
            return;
        }
        let before = self.parents.feed(stripe).map(|f| f.path().to_vec());
        let leave = self.parents.accepted(peer, stripe, path, lease, now);
        if let Some(Step::Leave { peer: former, .. }) = leave
            && Some(peer) == self.seed
            && !lease
        {
            self.changes = Some((former, stripe, now + LEAVING));
        }
        self.parents.fed_by(stripe, above);
        self.walk(leave, now);
        if let Some((from, since)) = self.orphans.remove(&stripe)
            && let Some(to) = self.relay.peers.get(&peer).map(|p| p.id)
        {
            self.failovers += 1;
            let gap = now.saturating_duration_since(since);
            self.relay.tell(Event::Failover {
                stripe,
                from,
                to,
                gap,
            });
        }
        if self.parents.feed(stripe).map(|f| f.path().to_vec()) != before {
            self.path_told(stripe);
        }
    }

    pub(super) fn path(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        (path, above): (Vec<u64>, Option<Candidate>),
        now: Instant,
    ) {
        if self.parents.feed(stripe).and_then(|f| f.parent()) == Some(peer) {
            self.parents.fed_by(stripe, above);
        }
        let me = self.relay.me.short();
        match self.parents.path_changed(peer, stripe, path, me) {
            Path::Same => {}
            Path::Changed => self.path_told(stripe),
            Path::Useless => {
                self.decline(peer, stripe);
                let _ = self.parents.evicted(peer, stripe, None, now);
                self.path_lost(stripe);
                self.seek_parents(now);
            }
        }
    }

    /// Who feeds this node a stripe, for its children; none if that is the seed.
    fn above(&self, stripe: StripeId) -> Option<Candidate> {
        let parent = self.parents.feed(stripe)?.parent()?;
        self.relay.candidate(parent)
    }

    /// A stripe that a weaker one feeds to this node goes up, past that one.
    pub(super) fn climb(&mut self, now: Instant) {
        let mine = self.standing().strength;
        let strong = feeds_many(mine, self.relay.stripes());
        let again = if strong { CLIMB_STRONG } else { CLIMB };
        let rests = now.saturating_duration_since(self.climbed) < again;
        if self.started.is_none() || rests || !self.settings.policy.insertion {
            return;
        }
        self.climbed = now;
        let weaker = |peer: PeerId| {
            let theirs = self.relay.peers.get(&peer).filter(|p| !p.seed)?;
            Some(outweighs(mine, theirs.have.strength))
        };
        let steady: Vec<_> = self
            .parents
            .steady(strong, now)
            .filter(|(_, parent)| weaker(*parent) == Some(true))
            .filter_map(|(stripe, _)| Some((stripe, self.parents.feed(stripe)?.above()?.clone())))
            .filter(|(_, above)| above.node != self.relay.me)
            .collect();
        if steady.is_empty() {
            return;
        }
        let (stripe, above) = steady[self.relay.rng.usize(..steady.len())].clone();
        self.parents.climb(stripe, above.node, now);
        let parent = self.parents.feed(stripe).and_then(|f| f.parent());
        self.suggested(Some(above), parent, now);
        self.seek_parents(now);
    }

    /// A neighbour that says that it has room, for one that found none here.
    fn roomy(&self, asker: PeerId) -> Option<Candidate> {
        let viewers = self.relay.peers.iter();
        let (peer, _) = viewers
            .filter(|(peer, p)| **peer != asker && p.ready && !p.seed && p.relays)
            .max_by_key(|(peer, p)| (p.have.spare, **peer))
            .filter(|(_, p)| p.have.spare > 0)?;
        self.relay.candidate(*peer)
    }

    /// Who brings each stripe, where it comes as it should.
    pub(super) fn good_parents(&self, now: Instant) -> Vec<Option<u64>> {
        let parents = (0..self.relay.stripes()).map(|k| {
            let parent = self.parents.good(StripeId(k), now)?;
            let state = self.relay.peers.get(&parent).filter(|p| !p.seed)?;
            Some(state.id.short())
        });
        parents.collect()
    }

    /// What this node can give.
    pub(super) fn standing(&self) -> Standing {
        let slots = self.relay.children.slots().min(usize::from(u16::MAX));
        Standing {
            strength: if self.relay.gives { slots as u16 } else { 0 },
        }
    }

    /// Wants nothing of a stripe from this peer.
    pub(super) fn decline(&mut self, peer: PeerId, stripe: StripeId) {
        let from = Seq(0);
        self.relay
            .send(peer, &Message::Unsubscribe { stripe, from });
    }

    /// Tells the children of a stripe the way it takes now.
    pub(super) fn path_told(&mut self, stripe: StripeId) {
        let Some(path) = self.own_path(stripe) else {
            return;
        };
        let children: Vec<_> = self.relay.children.of(stripe).collect();
        for child in children {
            let path = path.clone();
            let above = self.above(stripe);
            let message = Message::Path {
                stripe,
                path,
                above,
            };
            self.relay.send(child, &message);
        }
    }

    /// The stripe has no parent; the children keep this node, which looks for one.
    pub(super) fn path_lost(&mut self, stripe: StripeId) {
        let now = self.ticked;
        self.orphans.entry(stripe).or_insert((None, now));
    }

    pub(super) fn walk(&mut self, steps: impl IntoIterator<Item = Step>, now: Instant) {
        for step in steps {
            match step {
                Step::Subscribe {
                    peer,
                    stripe,
                    lease,
                } => {
                    let fed = self.parents.feed(stripe).filter(|f| f.parent().is_some());
                    let from = match fed.and_then(|f| f.last()) {
                        // Somebody still feeds it: the rest is on its way from there.
                        Some(last) => last.plus(1),
                        // Nothing came yet, and what waits there is cancelled with it.
                        None => self.first_missing(Some(stripe)).unwrap_or_default(),
                    };
                    let old = fed
                        .and_then(|f| f.parent())
                        .filter(|p| Some(*p) != self.seed);
                    let message = Message::Subscribe {
                        stripe,
                        from,
                        lease,
                        epoch: self.relay.epoch,
                        strength: self.standing().strength,
                        free: self.relay.children.spare() > 0,
                        orphan: self.parents.needy(stripe, now),
                        old: old.and_then(|old| self.relay.candidate(old)),
                    };
                    self.relay.send(peer, &message);
                }
                Step::Leave { peer, stripe } => {
                    let id = self.relay.peers.get(&peer).map(|p| p.id);
                    let feed = self.parents.feed(stripe);
                    let from = feed.and_then(|f| f.last()).map_or(Seq(0), |s| s.plus(1));
                    let above = feed.and_then(|f| f.above()).cloned();
                    if feed.is_some_and(|f| f.parent().is_none()) {
                        self.orphans.entry(stripe).or_insert((id, now));
                        // Who is left may answer nothing any more; the seed knows both.
                        self.suggested(above, None, now);
                    }
                    self.relay
                        .send(peer, &Message::Unsubscribe { stripe, from });
                    self.blamed |= !self.parents.is_dead(peer);
                }
                Step::Dead(peer) => {
                    if let Some(id) = self.relay.peers.get(&peer).map(|state| state.id) {
                        self.failed(id, now);
                    }
                }
            }
        }
    }

    /// The uplink shrank: the weakest children go, of these the youngest.
    pub(super) fn shed(&mut self, now: Instant) {
        self.relay.children.let_go(now);
        let over = self.relay.children.excess();
        if over == 0 {
            return;
        }
        let mut all: Vec<_> = (0..self.relay.stripes())
            .map(StripeId)
            .flat_map(|k| {
                let children = &self.relay.children;
                let stays = |p: &PeerId| children.get(*p, k).is_some_and(|c| c.leaving.is_none());
                let stays = children.of(k).filter(stays);
                stays.map(move |p| (k, p)).collect::<Vec<_>>()
            })
            .collect();
        all.sort_by_key(|(k, p)| {
            let child = self.relay.children.get(*p, *k);
            child.map(|c| (c.strength, std::cmp::Reverse(c.since)))
        });
        for (stripe, peer) in all.into_iter().take(over) {
            let go_to = self.roomy(peer);
            self.relay.displace(peer, stripe, go_to, now);
        }
    }

    fn neighbours(
        peers: &BTreeMap<PeerId, Peer>,
        format: Option<Format>,
        now: Instant,
    ) -> Vec<Neighbour<'_>> {
        peers
            .iter()
            .filter(|(_, p)| p.ready)
            .map(|(peer, p)| Neighbour {
                peer: *peer,
                id: p.id,
                seed: p.seed,
                spare: if p.relays { p.have.spare } else { 0 },
                reserve: if p.relays { p.have.reserve } else { 0 },
                weakest: if p.relays { &p.have.weakest } else { &[] },
                proven: p.proven,
                rtt: p.rtt,
                lag: Duration::from_millis(u64::from(p.have.lag_ms)),
                since: p.made_since(format, now),
                heads: &p.have.heads,
            })
            .collect()
    }

    pub(super) fn seek_parents(&mut self, now: Instant) {
        if self.started.is_none() || self.playout.ended() {
            return;
        }
        if self.parents.at_rest(now) {
            return;
        }
        let neighbours = Self::neighbours(&self.relay.peers, self.relay.format, now);
        let standing = self.standing();
        let rng = &mut self.relay.rng;
        let steps = self.parents.tick(&neighbours, standing, rng, now);
        self.walk(steps, now);
    }
}
