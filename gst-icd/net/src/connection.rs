//! One connection: its control stream, its piece streams, its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use icd_grid::message::MAX_MESSAGE_BYTES;
use icd_grid::node::Close;
use icd_grid::piece::{Hop, MAX_PAYLOAD_BYTES, PREFIX_BYTES};
use icd_grid::token::BINDING_BYTES;
use icd_grid::{Input, Lost, NodeId, PeerId, Seq};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc};

/// Piece streams that a peer may have open, once it was let in: a start is many at once.
pub(crate) const MAX_STREAMS: u32 = 1024;
/// Control messages that wait for a connection, and their bytes; one that takes none for so long
/// is closed. A header of caps and tags may have 192 KiB.
const MAX_WAITING: usize = 512;
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// Pieces of one connection that are read at the same time: what has come of them is no longer
/// in the transport's window. The others wait there.
const MAX_READING: usize = 64;
/// A piece that has not come whole by then is of no use.
const READING: Duration = Duration::from_secs(4);
const MAX_PIECE_BYTES: usize = Hop::BYTES + PREFIX_BYTES + MAX_PAYLOAD_BYTES;
/// A farewell may take so long.
const FAREWELL: Duration = Duration::from_millis(200);
/// Label of what both ends derive from the handshake (RFC 8446, 7.5).
const BINDING: &[u8] = b"EXPORTER-icd-binding";
/// The dialer opens the control stream at once.
const CONTROL: Duration = Duration::from_secs(5);

enum Out {
    Message(Bytes),
    Close(Close),
}

/// The driver's end of a connection.
#[derive(Debug)]
pub(crate) struct Line {
    connection: Connection,
    addr: SocketAddr,
    out: mpsc::Sender<Out>,
    waiting: Arc<AtomicUsize>,
}

/// To the driver, from all connections; bounded, so that a fast sender waits.
pub(crate) type Inbox = mpsc::Sender<Input>;

impl Line {
    /// Takes a fresh connection under its name.
    pub(crate) fn open(connection: Connection, peer: PeerId, id: NodeId, inbox: Inbox) -> Self {
        let (out, queue) = mpsc::channel(MAX_WAITING);
        let waiting = Arc::new(AtomicUsize::new(0));
        let addr = canonical(connection.remote_address());
        let line = Self {
            connection: connection.clone(),
            addr,
            out,
            waiting: waiting.clone(),
        };
        tokio::spawn(async move {
            let mut binding = [0; BINDING_BYTES];
            let derived = connection.export_keying_material(&mut binding, BINDING, b"");
            let connected = Input::Connected {
                peer,
                id,
                addr,
                binding,
            };
            if derived.is_err() || inbox.send(connected).await.is_err() {
                connection.close(code(Close::Fault), b"");
                return;
            }
            let pieces = tokio::spawn(read_pieces(connection.clone(), peer, inbox.clone()));
            let queue = (queue, waiting);
            let control = tokio::spawn(control(connection.clone(), peer, inbox.clone(), queue));
            let why = Lost::Other(connection.closed().await.to_string());
            pieces.abort();
            control.abort();
            let _ = inbox.send(Input::Disconnected { peer, why }).await;
        });
        line
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Where the other end is now, if it was elsewhere when this was asked last.
    pub(crate) fn moved(&mut self) -> Option<SocketAddr> {
        let addr = canonical(self.connection.remote_address());
        (std::mem::replace(&mut self.addr, addr) != addr).then_some(addr)
    }

    /// The peer was let in: it may send pieces.
    pub(crate) fn let_in(&self) {
        self.connection
            .set_max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS));
    }

    /// Never waits. A peer that reads no messages is not worth a queue.
    pub(crate) fn send(&self, bytes: Bytes) {
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let full = waiting > MAX_WAITING_BYTES;
        if full || self.out.try_send(Out::Message(bytes)).is_err() {
            self.connection
                .close(code(Close::Silent), b"takes no messages");
        }
    }

    pub(crate) fn close(&self, why: Close) {
        if self.out.try_send(Out::Close(why)).is_err() {
            self.connection.close(code(why), b"");
            return;
        }
        // One that reads nothing would never hear it.
        let connection = self.connection.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(FAREWELL * 2, connection.closed())
                .await
                .is_err()
            {
                connection.close(code(why), b"");
            }
        });
    }

    /// Sends a piece on a stream of its own, on a task of its own: what it waits for (credit,
    /// window, acknowledgement) holds up no other.
    pub(crate) fn send_piece(
        &self,
        peer: PeerId,
        seq: Seq,
        hop: [u8; Hop::BYTES],
        body: Bytes,
        give_up: Duration,
        inbox: Inbox,
    ) {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let delivered = tokio::time::timeout(give_up, write_piece(&connection, hop, body))
                .await
                .unwrap_or(false);
            let _ = inbox
                .send(Input::Sent {
                    peer,
                    seq,
                    delivered,
                })
                .await;
        });
    }
}

/// As `a.b.c.d` even on a dual-stack socket.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

pub(crate) fn code(why: Close) -> VarInt {
    VarInt::from_u32(why as u32)
}

/// Resets the stream if it is dropped before its end, so that an expired piece costs no more.
struct ResetOnDrop(SendStream);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        // After a regular end this does nothing.
        let _ = self.0.reset(VarInt::from_u32(0));
    }
}

async fn write_piece(connection: &Connection, hop: [u8; Hop::BYTES], body: Bytes) -> bool {
    let Ok(stream) = connection.open_uni().await else {
        return false;
    };
    let mut stream = ResetOnDrop(stream);
    let mut chunks = [Bytes::copy_from_slice(&hop), body];
    if stream.0.write_all_chunks(&mut chunks).await.is_err() || stream.0.finish().is_err() {
        return false;
    }
    matches!(stream.0.stopped().await, Ok(None))
}

async fn read_pieces(connection: Connection, peer: PeerId, inbox: Inbox) {
    let reading = Arc::new(Semaphore::new(MAX_READING));
    while let Ok(permit) = reading.clone().acquire_owned().await
        && let Ok(stream) = connection.accept_uni().await
    {
        let inbox = inbox.clone();
        tokio::spawn(async move {
            read_piece(stream, peer, inbox).await;
            drop(permit);
        });
    }
}

async fn read_piece(mut stream: RecvStream, peer: PeerId, inbox: Inbox) {
    let read = tokio::time::timeout(READING, stream.read_to_end(MAX_PIECE_BYTES)).await;
    if let Ok(Ok(bytes)) = read {
        let mut body = Bytes::from(bytes);
        // What is cut off within the hop is no piece either way.
        let hop = body.first_chunk().copied().unwrap_or_default();
        body.advance(Hop::BYTES.min(body.len()));
        let _ = inbox.send(Input::Piece { peer, hop, body }).await;
    }
}

/// Messages for a connection, and how many bytes of them there are.
type Queue = (mpsc::Receiver<Out>, Arc<AtomicUsize>);

async fn control(connection: Connection, peer: PeerId, inbox: Inbox, queue: Queue) {
    let opened = if peer.0 & PeerId::DIALED != 0 {
        connection.open_bi().await
    } else {
        match tokio::time::timeout(CONTROL, connection.accept_bi()).await {
            Ok(opened) => opened,
            Err(_) => {
                connection.close(code(Close::Silent), b"no control stream");
                return;
            }
        }
    };
    let Ok((send, recv)) = opened else { return };
    // Control before pieces.
    let _ = send.set_priority(1);
    tokio::select! {
        () = write_messages(&connection, send, queue) => {}
        () = read_messages(recv, peer, inbox) => {
            connection.close(code(Close::Done), b"");
        }
    }
}

async fn write_messages(
    connection: &Connection,
    mut send: SendStream,
    (mut queue, waiting): Queue,
) {
    while let Some(out) = queue.recv().await {
        match out {
            Out::Message(bytes) => {
                waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                if send.write_chunk(bytes).await.is_err() {
                    // It wants no messages; what it said last is still read.
                    tokio::time::sleep(FAREWELL).await;
                    connection.close(code(Close::Silent), b"takes no messages");
                    return;
                }
            }
            Out::Close(why) => {
                let _ = send.finish();
                let _ = tokio::time::timeout(FAREWELL, send.stopped()).await;
                connection.close(code(why), b"");
                return;
            }
        }
    }
    // Without a reader of this queue there is no more use for the connection.
    std::future::pending::<()>().await;
}

async fn read_messages(mut recv: RecvStream, peer: PeerId, inbox: Inbox) {
    loop {
        let mut len = [0; 4];
        if recv.read_exact(&mut len).await.is_err() {
            break;
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_MESSAGE_BYTES {
            return;
        }
        let mut bytes = vec![0; len];
        if recv.read_exact(&mut bytes).await.is_err() {
            break;
        }
        let bytes = bytes.into();
        if inbox.send(Input::Message { peer, bytes }).await.is_err() {
            break;
        }
    }
    // The other end finished its half; it closes the connection itself.
    tokio::time::sleep(FAREWELL * 2).await;
}
