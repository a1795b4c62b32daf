//! Pieces that come, and those that are missing.

use super::*;

/// Who has slots free and no longer a queue than this has more to give than is asked of it.
const EASY_MS: u16 = 20;
/// Who never sent anything is asked for pieces as if it were so much farther.
const UNPROVEN: Duration = Duration::from_millis(200);

impl Viewer {
    /// The first piece from the play-out on that is not here, on one stripe or on all.
    pub(super) fn first_missing(&self, stripe: Option<StripeId>) -> Option<Seq> {
        let position = self.playout.position()?;
        let stripes = self.relay.stripes();
        let window = &self.relay.window;
        let mut seq = position.max(window.floor());
        let head = window.head().unwrap_or(seq);
        while seq <= head {
            seq = window.first_missing(seq);
            if seq > head || stripe.is_none_or(|k| seq.stripe(stripes) == k) {
                return Some(seq);
            }
            seq = seq.plus(1);
        }
        Some(seq)
    }

    pub(super) fn piece(&mut self, peer: PeerId, raw: RawHop, body: Bytes, now: Instant) {
        let Some(state) = self.relay.peers.get(&peer) else {
            return;
        };
        let (id, seed) = (state.id, state.seed);
        if !state.ready && !seed {
            // It has shown no ticket; nobody asked it for anything.
            return;
        }
        if self.relay.format.is_none() || !state.ready {
            self.keep_early(peer, raw, body, seed);
            return;
        }
        let size = raw.len() + body.len();
        let hop = Hop::decode(&raw);
        if let Some(PieceInfo { epoch, seq, .. }) = claimed(&body) {
            if epoch != self.relay.epoch {
                if epoch > self.relay.epoch {
                    self.keep_early(peer, raw, body, seed);
                }
                return;
            }
            if hop.why == Why::Push {
                self.unwanted(peer, seq.stripe(self.relay.stripes()), now);
            }
            // The same bytes were verified before; others are another piece, or none.
            let same = self.relay.window.get(seq).map(|p| *p.body() == body);
            if same == Some(true) {
                self.relay.duplicates += 1;
                self.relay.note_hop(peer, &hop, size, now);
                self.parents.arrived(seq, peer, now);
                return;
            }
        }
        let Some(verifier) = &self.verifier else {
            return;
        };
        let piece = match Piece::verify(body, &**verifier) {
            Ok(piece) => piece,
            Err(error) => {
                if !seed {
                    self.book.ban(id);
                }
                self.relay.close(peer, Close::Fault);
                self.drop_peer(peer, now);
                let what = error.to_string();
                self.relay.tell(Event::Fault { id, what });
                return;
            }
        };
        let info = *piece.info();
        self.relay.note_hop(peer, &hop, size, now);
        if seed {
            self.from_seed += size as u64;
        } else {
            self.from_peers += size as u64;
        }
        self.parents.arrived(info.seq, peer, now);
        if self.relay.store(piece, Some(peer), now) != Offered::New {
            return;
        }
        self.brought(info.seq, peer, now);
        if hop.why != Why::Backlog
            && let Some(map) = self.clock.mapping()
        {
            let lag = now.saturating_duration_since(map.local(info.time));
            self.lag.add(lag);
            self.recent_lag.add(lag);
        }
        self.last_piece = now;
        if self.status == Status::Starving {
            self.set_status(Status::Running);
        }
        if info.end {
            self.report(now);
        }
    }

    /// A push of a stripe that another feeds: it was told so, but the message may be long on its
    /// way, or answered a subscription that was given up. It is told again, not too often.
    fn unwanted(&mut self, peer: PeerId, stripe: StripeId, now: Instant) {
        let other = self.parents.feed(stripe).and_then(|f| f.parent());
        let wanted = other.is_none_or(|p| p == peer) || self.parents.is_pending(peer, stripe);
        let key = (peer, stripe);
        if wanted {
            self.unwanted.remove(&key);
            return;
        }
        let since = *self.unwanted.entry(key).or_insert(now);
        if now.saturating_duration_since(since) >= UNWANTED {
            self.unwanted.insert(key, now);
            self.decline(peer, stripe);
        }
    }

    /// Whether the signed end is here, though the player may not have come to it.
    pub(super) fn end_here(&self) -> bool {
        self.playout.ended() || self.relay.window.ended()
    }

    /// A new life of the seed may outrun the message that announces it.
    fn keep_early(&mut self, peer: PeerId, hop: RawHop, body: Bytes, seed: bool) {
        if seed && self.early.len() < MAX_EARLY && self.early_bytes < EARLY_BYTES {
            self.early_bytes += body.len();
            self.early.push((peer, hop, body));
        }
    }

    /// A piece is here. What its sender says of the reason counts for nothing, but whether it was asked for it.
    fn brought(&mut self, seq: Seq, from: PeerId, now: Instant) {
        let (pulled, mut others) = self.rescue.came(seq, from);
        let feed = self.parents.feed(seq.stripe(self.relay.stripes()));
        let parent = feed.and_then(|f| f.parent());
        let to_come = feed.is_some_and(|f| f.last().is_none_or(|last| last < seq));
        if pulled {
            self.rescue.answered(from);
            self.rescued += 1;
            // Nor need the parent send it.
            others.extend(parent.filter(|parent| to_come && *parent != from));
            self.parents.pulled(seq, from, now);
        }
        for peer in others {
            self.elsewhere.entry(peer).or_default().push(seq);
        }
        let due = self.playout.position().is_none_or(|next| seq >= next);
        if let Some(state) = self.relay.peers.get_mut(&from) {
            state.proven |= due && (pulled || parent == Some(from));
        }
    }

    /// Tells others what they need not send any more.
    pub(super) fn tell_elsewhere(&mut self) {
        for (peer, seqs) in std::mem::take(&mut self.elsewhere) {
            if !self.relay.peers.contains_key(&peer) {
                continue;
            }
            for seqs in seqs.chunks(MAX_PULL) {
                self.relay.send(peer, &Message::Cancel(seqs.to_vec()));
            }
        }
    }

    /// Pulls what will not come otherwise.
    pub(super) fn pull(&mut self, now: Instant) {
        let (Some(position), Some((since, start_head))) = (self.playout.position(), self.started)
        else {
            return;
        };
        let settled = self.playout.begun() || now.saturating_duration_since(since) > SETTLE;
        // A player that is paused stands still while the window moves on.
        let position = position.max(self.relay.window.floor());
        let head = self.relay.window.head().unwrap_or(position);
        let head = head.max(self.beacon.map_or(head, |b| b.head));
        let head = head.min(position.plus(MAX_AHEAD));
        let horizon = Rescue::horizon(self.settings.latency);
        let mut missing = Vec::new();
        let mut seq = self.relay.window.first_missing(position);
        while seq <= head && missing.len() < MAX_MISSING {
            if (settled || seq > start_head)
                && let Some(item) = self.missing(seq, now)
            {
                if item.slack > horizon {
                    // What follows is due later still.
                    break;
                }
                missing.push(item);
            }
            seq = self.relay.window.first_missing(seq.plus(1));
        }
        if missing.is_empty() {
            return;
        }
        let due = self.rescue.due(&missing, self.settings.latency, now);
        self.ask(&due, now);
    }

    /// Pieces are passed over: tells what was tried.
    pub(super) fn skipped(&mut self, seq: Seq, count: u64) {
        let (asked, seed) = self.rescue.asked(seq);
        let feed = self.parents.feed(seq.stripe(self.relay.stripes().max(1)));
        let parent = feed.and_then(|feed| feed.parent());
        let parent = parent.and_then(|peer| self.relay.peers.get(&peer));
        self.relay.tell(Event::Skipped {
            seq,
            count,
            parent: parent.map(|state| state.id),
            came: feed.and_then(|feed| feed.last()),
            asked,
            seed,
        });
    }

    /// A neighbour does not have pieces, or is busy: others are asked at once.
    pub(super) fn pull_refused(&mut self, peer: PeerId, seed: bool, seqs: &[Seq], now: Instant) {
        let mut due = Vec::new();
        for seq in seqs.iter().take(MAX_PULL).copied() {
            if self.rescue.refused(peer, seed, seq, now) && !self.relay.window.has(seq) {
                // What is early has time until the next look.
                let item = self.missing(seq, now);
                due.extend(item.filter(|item| !item.early(self.settings.latency)));
            }
        }
        self.ask(&due, now);
    }

    /// A piece that is not here, if it is known when it is due.
    fn missing(&self, seq: Seq, now: Instant) -> Option<Missing> {
        let clock = self.clock.mapping();
        let window = &self.relay.window;
        let due = self.playout.wanted(seq, window, clock, now)?;
        Some(Missing {
            seq,
            slack: due.saturating_duration_since(now),
            hope: self.parents.hope(seq),
        })
    }

    fn ask(&mut self, due: &[Missing], now: Instant) {
        if due.is_empty() || self.relay.stripes() == 0 {
            return;
        }
        let peers = &self.relay.peers;
        let sources: Vec<_> = peers
            .iter()
            .filter(|(_, p)| p.ready && (p.seed || p.relays))
            .filter(|(peer, p)| {
                now.saturating_duration_since(p.heard) < MUTE && !self.parents.is_dead(**peer)
            })
            .map(|(peer, p)| {
                // Who has not spoken for a while may be gone: others are asked first.
                let quiet = now.saturating_duration_since(p.heard).saturating_sub(SPOKE);
                // Whose slots are all taken has nothing to spare for pulls.
                let full = match p.have.spare {
                    0 => FULL,
                    _ => Duration::ZERO,
                };
                let unproven = match p.proven {
                    true => Duration::ZERO,
                    false => UNPROVEN,
                };
                let queue = Duration::from_millis(u64::from(p.have.queue_ms));
                Source {
                    peer: *peer,
                    seed: p.seed,
                    rtt: p.rtt,
                    queue: queue + quiet + full + unproven,
                    proven: p.proven,
                    easy: p.proven && p.have.spare > 0 && p.have.queue_ms < EASY_MS,
                    heard: p.heard,
                }
            })
            .collect();
        let format = self.relay.format;
        let say = |source: &Source| {
            let peer = peers.get(&source.peer)?;
            Some((&peer.have, peer.made_since(format, now)))
        };
        let say: Vec<_> = sources.iter().map(say).collect();
        let knows = |n: usize, seq: Seq| {
            let said = say.get(n).copied().flatten();
            said.is_some_and(|(have, since)| have.likely(seq, since))
        };
        let salt = self.relay.me.short();
        let plan = self
            .rescue
            .plan(due, &sources, self.settings.latency, knows, salt, now);
        for (peer, seqs) in plan {
            let epoch = self.relay.epoch;
            self.relay.send(peer, &Message::Pull { epoch, seqs });
        }
    }
}
