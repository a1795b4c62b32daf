//! Who means harm: says anything, sends what it heard again, changed or not.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use icd_grid::message::{Hello, Message, VERSION};
use icd_grid::record::{Signed, Ticket};
use icd_grid::{Bitrate, Epoch, Input, PeerId};

use crate::grid::ENEMY;
use crate::messages::{self, Facts};
use crate::wire::KEY;

/// What it keeps of what it heard.
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Enemy {
    bodies: Vec<Bytes>,
    heard: Vec<Bytes>,
    /// Its own admission: it is a viewer like others until it shows what it is.
    ticket: Option<Signed<Ticket>>,
    lines: usize,
}

impl Enemy {
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    pub(crate) fn connected(&mut self, near: (usize, PeerId), far: (usize, PeerId)) {
        self.lines += usize::from(near.0 == ENEMY || far.0 == ENEMY);
    }

    pub(crate) fn hears(&mut self, input: &Input) {
        match input {
            Input::Piece { body, .. } => keep(&mut self.bodies, body),
            Input::Message { bytes, .. } => {
                keep(&mut self.heard, bytes);
                match Message::decode(bytes) {
                    Ok(Message::Welcome(welcome)) => self.ticket = Some(welcome.ticket),
                    Ok(Message::Ticket(ticket)) => self.ticket = Some(ticket),
                    _ => {}
                }
            }
            Input::Disconnected { .. } => self.lines = self.lines.saturating_sub(1),
            _ => {}
        }
    }

    /// As an honest viewer's.
    pub(crate) fn hello(&self, u: &mut Unstructured<'_>) -> Result<Message> {
        Ok(Message::Hello(Hello {
            version: VERSION,
            features: 0,
            stream: Some(KEY),
            ticket: self.ticket.clone(),
            epoch: Epoch(0),
            resume: None,
            latency_ms: 2000,
            relay: true,
            upload: Bitrate(u.arbitrary()?),
            lan: None,
            proof: Bytes::new(),
        }))
    }

    /// The bytes of something to say.
    pub(crate) fn message(&self, facts: &Facts, u: &mut Unstructured<'_>) -> Result<Bytes> {
        Ok(match u.int_in_range(0..=9)? {
            // Something that it heard, of whomever.
            0 | 1 if !self.heard.is_empty() => u.choose(&self.heard)?.clone(),
            2 => u.arbitrary::<[u8; 12]>()?.to_vec().into(),
            3 => self.hello(u)?.encode().slice(4..),
            _ => messages::any(facts, u)?.encode().slice(4..),
        })
    }

    /// The body of a piece.
    pub(crate) fn piece(&self, u: &mut Unstructured<'_>) -> Result<Bytes> {
        if self.bodies.is_empty() || u.ratio(1, 8)? {
            return Ok(u.arbitrary::<[u8; 120]>()?.to_vec().into());
        }
        let body = u.choose(&self.bodies)?.clone();
        let mut body = Vec::from(body);
        match u.int_in_range(0..=3)? {
            // The same again.
            0 | 1 => {}
            2 => {
                let at = u.choose_index(body.len())?;
                body[at] ^= u.int_in_range(1..=255)?;
            }
            _ => body.truncate(u.choose_index(body.len())?),
        }
        Ok(body.into())
    }
}

fn keep(kept: &mut Vec<Bytes>, bytes: &Bytes) {
    if kept.len() == KEPT {
        kept.remove(0);
    }
    kept.push(bytes.clone());
}
