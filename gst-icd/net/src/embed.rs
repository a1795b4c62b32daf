//! A node on a socket of the caller's own, on the runtime that the caller is in.
//!
//! It is the same node over the same QUIC as that of an element. With sockets in memory and tokio's
//! clock paused, many of them run in virtual time.

use std::sync::Arc;

use icd_grid::{Action, Input, Media, Node};
use quinn::AsyncUdpSocket;

use crate::driver::{Ends, Snapshot, Wires};
use crate::handle::{MAX_MEDIA, StartError, endpoint};
use crate::key::Key;

/// Sees all that goes into a node and comes out of it. Is called in passing, and must not wait.
pub trait Watch: Send + Sync + 'static {
    /// The node takes this.
    fn input(&self, input: &Input);
    /// It decided this.
    fn action(&self, action: &Action);
    /// It hands this to the player.
    fn media(&self, media: Media);
}

/// A running node. Dropping it stops it: it says goodbye, in its own time.
#[derive(Debug)]
pub struct Embedded {
    ends: Ends,
    task: tokio::task::JoinHandle<()>,
}

impl Embedded {
    /// Starts a node, whose endpoint key this is and that finds the seed at these hosts, on the
    /// runtime of the calling task.
    ///
    /// Fails if TLS or the socket are not to be had.
    pub fn start(
        node: Node,
        key: &Key,
        socket: Arc<dyn AsyncUdpSocket>,
        seed: Vec<(String, u16)>,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, StartError> {
        let wires = Wires {
            watch: Some(watch.clone()),
            ..endpoint(key, socket)?
        };
        let (sender, media) = async_channel::bounded(MAX_MEDIA);
        let (driver, ends, _events) = wires.driver(node, seed, Some(sender), None);
        tokio::spawn(async move {
            while let Ok(item) = media.recv().await {
                watch.media(item);
            }
        });
        let task = tokio::spawn(async move {
            driver.run().await;
        });
        Ok(Self { ends, task })
    }

    /// Gives the node a fact. Never waits; false if it was dropped because the node is behind.
    pub fn offer(&self, input: Input) -> bool {
        self.ends.offer(input)
    }

    /// How it is.
    pub fn snapshot(&self) -> Snapshot {
        self.ends.snapshot()
    }

    /// It ends at once. What it still has to say goes out if its socket lets it.
    pub fn vanish(&self) {
        self.task.abort();
    }
}
