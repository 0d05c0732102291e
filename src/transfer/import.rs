//! From a file into a store.
//!
//! Invariants: the file is read twice: the first time everything in it is checked, so that a file
//! that is damaged or does not fit changes nothing; the second time it is written. Sessions keep
//! their ids; outbox records go behind the ends of the store's lanes. A store that was written in part
//! is marked ([`UNFINISHED`]), so that no node starts on it.
//! Bounds: one batch in memory, of [`BATCH_OPS`] operations and [`BATCH_BYTES`], or one operation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::clock::unix_ns;
use hydrant_actors::ports::{
    DeadId, LogOp, OutboxPosition, OutgoingStage, QueueEntry, SessionId, SessionOp, SessionStore,
    StoreError, StoreOp, StoredWill, UNFINISHED,
};
use hydrant_actors::say;
use hydrant_protocol::{Message, PacketId, QoS};

use super::error::TransferError;
use super::format::{Counts, FormatError, Item, ItemReader};
use super::progress::Progress;
use crate::rows::{RowError, RowReader, decode_dead_letter, decode_message};

/// Operations of a batch.
const BATCH_OPS: usize = 1000;
/// Bytes of a batch: far below what one write of Cassandra's may hold.
const BATCH_BYTES: usize = 1 << 20;
/// What an operation is counted with beside its payload.
const OP_COST: usize = 100;
/// The session that stands in a store while an import is not finished. No node gives such a number.
const MARK: SessionId = i64::MAX as SessionId;
/// How often a batch is written that the store does not take.
const ATTEMPTS: u32 = 10;
/// Before the second attempt; more before each later one.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes what the file holds into a store that holds nothing. `max_message`: bytes of topic and
/// payload that the store can take, where it has a limit of its own.
///
/// # Errors
/// [`TransferError`].
pub(super) async fn import(
    store: &dyn SessionStore,
    file: &Path,
    max_message: Option<usize>,
    progress: &mut Progress<'_>,
) -> Result<Counts, TransferError> {
    is_empty(store).await?;
    let failed = |error: FormatError| TransferError::file(file, error);
    let mut checked = Content { max_message, ..Content::default() };
    let (mut items, _) = reader(file)?;
    while let Some(item) = items.next().map_err(failed)? {
        checked.ops(&item).map_err(failed)?;
    }
    let mut content = Content { max_message, ..Content::default() };
    for lane in store.lanes().await? {
        content.ends.insert(lane.lane, lane.end);
    }
    let (mut items, total) = reader(file)?;
    let (mut counts, mut batch) = (Counts::default(), Batch::default());
    let (id, client_id): (SessionId, Arc<str>) = (MARK, UNFINISHED.into());
    let mark = StoreOp::Session(SessionOp::PutSession {
        id,
        client_id: Arc::clone(&client_id),
        epoch: 0,
        disconnected_ms: Some(0),
    });
    batch.put(store, (mark, OP_COST)).await?;
    batch.write(store).await?;
    while let Some(item) = items.next().map_err(failed)? {
        counts.count(&item);
        for op in content.ops(&item).map_err(failed)? {
            batch.put(store, op).await?;
        }
        progress.at(&counts, items.position, total);
    }
    batch.write(store).await?;
    batch
        .put(store, (StoreOp::Session(SessionOp::DeleteSession { id, client_id }), OP_COST))
        .await?;
    batch.write(store).await?;
    Ok(counts)
}

async fn is_empty(store: &dyn SessionStore) -> Result<(), TransferError> {
    let holds = if !store.sessions().await?.is_empty() {
        "sessions"
    } else if !store.retained().await?.is_empty() {
        "retained messages"
    } else if !store.wills().await?.is_empty() {
        "wills"
    } else if store.lanes().await?.iter().any(|lane| lane.cursor < lane.end) {
        "outbox records"
    } else if !store.dead_letters(DeadId::default(), 1, 1).await?.is_empty() {
        "dead letters"
    } else {
        return Ok(());
    };
    Err(TransferError::NotEmpty(holds))
}

/// A file from its beginning, and its length.
pub(super) fn reader(file: &Path) -> Result<(ItemReader<BufReader<File>>, u64), TransferError> {
    let failed = |error: FormatError| TransferError::file(file, error);
    let opened = File::open(file).map_err(|error| failed(error.into()))?;
    let length = opened.metadata().map_or(0, |metadata| metadata.len());
    Ok((ItemReader::new(BufReader::new(opened)).map_err(failed)?, length))
}

/// An operation and the bytes that it is counted with.
type Op = (StoreOp, usize);

/// Turns items into operations, and checks what must hold between them.
#[derive(Default)]
struct Content {
    max_message: Option<usize>,
    session: Option<SessionId>,
    /// Wills so far.
    wills: u64,
    /// Of lanes: the next position.
    ends: BTreeMap<u16, u64>,
}

impl Content {
    fn ops(&mut self, item: &Item<'_>) -> Result<Vec<Op>, FormatError> {
        Ok(match item {
            Item::Head { .. } | Item::End { .. } => Vec::new(),
            Item::Session { id, client_id, epoch, disconnected_ms, receipts } => {
                self.session = Some(*id);
                let (id, client_id, epoch) = (*id, Arc::from(*client_id), *epoch);
                let disconnected_ms = *disconnected_ms;
                let mut ops = vec![small(StoreOp::Session(SessionOp::PutSession {
                    id,
                    client_id,
                    epoch,
                    disconnected_ms,
                }))];
                for receipt in receipts {
                    ops.push(small(StoreOp::Session(SessionOp::PutReceipt {
                        id,
                        packet_id: packet_id(*receipt)?,
                    })));
                }
                ops
            }
            Item::Subscription { filter, qos } => vec![self.subscription(filter, *qos, None)?],
            Item::OwedSubscription { filter, qos, behind } => {
                vec![self.subscription(filter, *qos, Some(behind))?]
            }
            Item::Queued { sequence, outgoing, message } => {
                let id = self.session()?;
                let (message, qos, retain) = self.message(message)?;
                let outgoing = match outgoing {
                    Some((id, true)) => Some((packet_id(*id)?, OutgoingStage::Release)),
                    Some((id, false)) => Some((packet_id(*id)?, OutgoingStage::Publish)),
                    None => None,
                };
                let cost = OP_COST + message.cost();
                let entry = QueueEntry { sequence: *sequence, qos, retain, message, outgoing };
                vec![(StoreOp::Session(SessionOp::PutQueued { id, entry }), cost)]
            }
            Item::Retained { message } => {
                let (message, ..) = self.message(message)?;
                let cost = OP_COST + message.cost();
                // Each topic comes once, into a store that holds none.
                vec![(StoreOp::PutRetained { message, version: unix_ns() }, cost)]
            }
            Item::Will { client_id, message } => {
                let (message, ..) = self.message(message)?;
                let cost = OP_COST + client_id.len() + message.cost();
                // Numbered in their order: a node's own begin far above.
                self.wills += 1;
                let (client_id, connection) = (Arc::from(*client_id), self.wills);
                let will = StoredWill { client_id, connection, message };
                vec![(StoreOp::PutWill { will }, cost)]
            }
            Item::Outbox { lane, record } => {
                let mut row = RowReader::new(record).map_err(bad_row)?;
                let record = row.next(&Arc::from("")).map_err(bad_row)?;
                self.fits(&record.mqtt_topic, record.payload.len())?;
                let end = self.ends.entry(*lane).or_default();
                let position = OutboxPosition { lane: *lane, position: *end };
                *end += 1;
                let cost = OP_COST + record.cost();
                vec![(StoreOp::Log(LogOp::PutOutbox { record, position }), cost)]
            }
            Item::DeadLetter { letter } => {
                let letter = decode_dead_letter(letter).map_err(bad_row)?;
                self.fits(&letter.record.mqtt_topic, letter.record.payload.len())?;
                let cost = OP_COST + letter.record.cost();
                vec![(StoreOp::Log(LogOp::PutDeadLetter { letter: Arc::new(letter) }), cost)]
            }
        })
    }

    fn session(&self) -> Result<SessionId, FormatError> {
        self.session.ok_or_else(|| damaged("what belongs to a session stands before it"))
    }

    fn subscription(&self, filter: &str, qos: u8, owes: Option<&str>) -> Result<Op, FormatError> {
        let id = self.session()?;
        let qos = QoS::from_bits(qos).ok_or_else(|| damaged("a QoS"))?;
        let cost = OP_COST + filter.len() + owes.map_or(0, str::len);
        let (filter, owes) = (Arc::from(filter), owes.map(Arc::from));
        Ok((StoreOp::Session(SessionOp::PutSubscription { id, filter, qos, owes }), cost))
    }

    fn message(&self, bytes: &[u8]) -> Result<(Arc<Message>, QoS, bool), FormatError> {
        let decoded = decode_message(bytes).map_err(bad_row)?;
        self.fits(&decoded.0.topic, decoded.0.payload.len())?;
        Ok(decoded)
    }

    fn fits(&self, topic: &str, payload: usize) -> Result<(), FormatError> {
        let bytes = topic.len() + payload;
        match self.max_message {
            Some(max) if bytes > max => Err(FormatError::TooLarge { topic: topic.into(), bytes }),
            _ => Ok(()),
        }
    }
}

fn small(op: StoreOp) -> Op {
    let cost = match &op {
        StoreOp::Session(SessionOp::PutSession { client_id, .. }) => OP_COST + client_id.len(),
        _ => OP_COST,
    };
    (op, cost)
}

fn packet_id(id: u16) -> Result<PacketId, FormatError> {
    PacketId::new(id).ok_or_else(|| damaged("a packet id"))
}

fn damaged(what: &str) -> FormatError {
    FormatError::Damaged(what.to_owned())
}

fn bad_row(error: RowError) -> FormatError {
    FormatError::Damaged(error.to_string())
}

/// Operations that are written together.
#[derive(Default)]
struct Batch {
    ops: Vec<StoreOp>,
    bytes: usize,
}

impl Batch {
    /// Takes an operation; before it does not fit any more, writes those it has.
    async fn put(&mut self, store: &dyn SessionStore, (op, cost): Op) -> Result<(), TransferError> {
        let full = self.ops.len() >= BATCH_OPS || self.bytes + cost > BATCH_BYTES;
        if full && !self.ops.is_empty() {
            self.write(store).await?;
        }
        self.ops.push(op);
        self.bytes += cost;
        Ok(())
    }

    async fn write(&mut self, store: &dyn SessionStore) -> Result<(), TransferError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let ops = Arc::new(std::mem::take(&mut self.ops));
        for attempt in 1.. {
            match store.write(Arc::clone(&ops)).await {
                Ok(()) => break,
                // Every operation is idempotent.
                Err(StoreError::Unavailable(why)) if attempt < ATTEMPTS => {
                    say::warn!("writing again: {why}");
                    tokio::time::sleep(PAUSE * attempt).await;
                }
                Err(error) => return Err(TransferError::HalfDone(error)),
            }
        }
        Ok(())
    }
}
