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
        now: Instant,
    ) {
        let Some(short) = self.relay.peers.get(&peer).map(|p| p.id.short()) else {
            return;
        };
        // In another life of the seed than the asker, it could not feed it.
        let path = self.own_path(stripe).filter(|_| epoch == self.relay.epoch);
        let verdict = self
            .relay
            .children
            .judge(peer, short, stripe, path.as_deref());
        if let Err(why) = verdict {
            self.relay.send(peer, &Message::Reject { stripe, why });
            return;
        }
        let fresh = self.relay.children.add(peer, stripe, false, now);
        let accept = Message::Accept {
            stripe,
            path: path.unwrap_or_default(),
            lease: false,
        };
        self.relay.send(peer, &accept);
        if fresh {
            let ttl = self.settings.latency;
            self.relay.backlog(peer, Some(stripe), from, ttl, now);
        }
    }

    pub(super) fn accept(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        path: Vec<u64>,
        lease: bool,
        now: Instant,
    ) {
        let expected = self.parents.is_pending(peer, stripe)
            || self
                .parents
                .feed(stripe)
                .is_some_and(|f| f.parent() == Some(peer));
        let bad_path = path.len() > MAX_DEPTH || path.contains(&self.relay.me.short());
        if !expected || bad_path {
            self.decline(peer, stripe);
            self.parents.rejected(peer, stripe, now);
            return;
        }
        let before = self.parents.feed(stripe).map(|f| f.path().to_vec());
        let leave = self.parents.accepted(peer, stripe, path, lease, now);
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

    pub(super) fn path(&mut self, peer: PeerId, stripe: StripeId, path: Vec<u64>, now: Instant) {
        let me = self.relay.me.short();
        match self.parents.path_changed(peer, stripe, path, me) {
            Path::Same => {}
            Path::Changed => self.path_told(stripe),
            Path::Useless => {
                self.decline(peer, stripe);
                let _ = self.parents.evicted(peer, stripe, now);
                self.path_lost(stripe);
                self.seek_parents(now);
            }
        }
    }

    /// Wants nothing of a stripe from this peer.
    fn decline(&mut self, peer: PeerId, stripe: StripeId) {
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
            self.relay.send(child, &Message::Path { stripe, path });
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
                    let message = Message::Subscribe {
                        stripe,
                        from,
                        lease,
                        epoch: self.relay.epoch,
                    };
                    self.relay.send(peer, &message);
                }
                Step::Leave { peer, stripe } => {
                    let id = self.relay.peers.get(&peer).map(|p| p.id);
                    let feed = self.parents.feed(stripe);
                    if feed.is_some_and(|f| f.parent().is_none()) {
                        self.orphans.entry(stripe).or_insert((id, now));
                    }
                    let from = feed.and_then(|f| f.last()).map_or(Seq(0), |s| s.plus(1));
                    self.relay
                        .send(peer, &Message::Unsubscribe { stripe, from });
                }
                Step::Dead(peer) => {
                    if let Some(state) = self.relay.peers.get(&peer) {
                        self.book.failed(state.id, now);
                    }
                }
            }
        }
    }

    /// The uplink shrank: the youngest children go.
    pub(super) fn shed(&mut self, _now: Instant) {
        let over = self.relay.children.excess();
        let mut all: Vec<_> = (0..self.relay.stripes())
            .map(StripeId)
            .flat_map(|k| {
                self.relay
                    .children
                    .of(k)
                    .map(move |p| (k, p))
                    .collect::<Vec<_>>()
            })
            .collect();
        all.sort_by_key(|(k, p)| self.relay.children.get(*p, *k).map(|c| c.since));
        for (stripe, peer) in all.into_iter().rev().take(over) {
            self.relay.children.remove(peer, stripe);
            self.relay.send(peer, &Message::Evict { stripe });
        }
    }

    pub(super) fn neighbours(&self) -> Vec<Neighbour> {
        self.relay
            .peers
            .iter()
            .filter(|(_, p)| p.ready)
            .map(|(peer, p)| Neighbour {
                peer: *peer,
                seed: p.seed,
                spare: if p.relays { p.have.spare } else { 0 },
                rtt: p.rtt,
                heads: p.have.heads.clone(),
            })
            .collect()
    }

    pub(super) fn seek_parents(&mut self, now: Instant) {
        if self.started.is_none() || self.playout.ended() {
            return;
        }
        let neighbours = self.neighbours();
        let steps = self.parents.tick(&neighbours, &mut self.relay.rng, now);
        self.walk(steps, now);
    }
}
