//! Every CQL statement, prepared once; values are always bound, never spliced into the text.
//!
//! `USING TIMESTAMP ?` is never a clock but a stamp (see `stamps`), so that of two writes to one
//! cell the later owner's wins, whatever any clock says; a retained message's is its version. Tables whose rows are written conditionally are written in no other way.

/// A prepared statement. Its number is what the journal stores: append, never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Statement {
    PutSession,
    DeleteSession,
    PutReceipts,
    PutSubscription,
    DeleteSubscription,
    DeleteSubscriptions,
    PutQueueBucket,
    PutQueueState,
    DeleteQueueBucket,
    DeleteQueueBuckets,
    PutQueue,
    DeleteQueue,
    PutRetained,
    DeleteRetained,
    PutWill,
    PutOutbox,
    PutOutboxBucket,
    DeleteOutbox,
    DeleteOutboxBuckets,
    MoveCursor,
    PutJournal,
    // Conditional.
    RaiseEpoch,
    FirstEpoch,
    DropEpoch,
    // Reads.
    Sessions,
    Subscriptions,
    QueueBuckets,
    QueueBucketsOf,
    QueueSizes,
    Queue,
    Retained,
    Wills,
    OutboxBuckets,
    OutboxCounts,
    Outbox,
    Cursors,
    Journal,
    // Incarnations; all conditional but the index.
    CounterRead,
    CounterFirst,
    CounterNext,
    IndexPut,
    IndexRead,
    IndexDelete,
    IncarnationFirst,
    IncarnationRead,
    IncarnationRenew,
    IncarnationSeal,
    IncarnationDelete,
    // What goes with an incarnation that is drained.
    DeleteWills,
    DeleteCursors,
    DeleteJournal,
    // Who holds a session in a keyspace that several nodes share.
    RaiseHeld,
    EpochRead,
    TakeEpoch,
    HeldPut,
    HeldDelete,
    HeldDrop,
    HeldRead,
    SessionsIn,
    SubscriptionsIn,
    QueueBucketsIn,
    PutBase,
    IncarnationTimestamps,
    IncarnationLine,
    FenceHeld,
    DropHeld,
    // Batches of other nodes that an incarnation has stored.
    PutPeerBatch,
    ForgetPeerBatches,
    DropPeerBatches,
    PeerBatches,
    // QoS 2 publishes that an incarnation has begun.
    Prepare,
    Committed,
    ForgetPrepared,
    DropPrepared,
    PreparedPublishes,
    // Sessions for which a part of a batch was buffered.
    ExceptPeerBatch,
    CompletePeerBatch,
    ForgetExceptions,
    DropExceptions,
    PeerBatchExceptions,
    // A will with the connection that left it.
    KeepWill,
    // Records that the log refused for good.
    PutDeadLetter,
    DropDeadLetter,
    DropDeadLetters,
    DeadLetterHeads,
    DeadLetter,
    DeadLetters,
    // A subscription with what it is owed of retained messages.
    KeepSubscription,
}

impl Statement {
    /// In the order of their numbers.
    pub const ALL: [(Self, &'static str); 88] = {
        use Statement as S;
        [
            (
                S::PutSession,
                "INSERT INTO session (shard, id, client_id, epoch, disconnected_ms) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (S::DeleteSession, "DELETE FROM session USING TIMESTAMP ? WHERE shard = ? AND id = ?"),
            (
                S::PutReceipts,
                "UPDATE session USING TIMESTAMP ? SET receipts = ? WHERE shard = ? AND id = ?",
            ),
            (
                S::PutSubscription,
                "INSERT INTO subscription (shard, id, filter, qos) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::DeleteSubscription,
                "DELETE FROM subscription USING TIMESTAMP ? WHERE shard = ? AND id = ? AND filter = ?",
            ),
            (
                S::DeleteSubscriptions,
                "DELETE FROM subscription USING TIMESTAMP ? WHERE shard = ? AND id = ?",
            ),
            (
                S::PutQueueBucket,
                "INSERT INTO queue_bucket (shard, id, bucket) VALUES (?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::PutQueueState,
                "INSERT INTO queue_bucket (shard, id, bucket, state) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::DeleteQueueBucket,
                "DELETE FROM queue_bucket USING TIMESTAMP ? WHERE shard = ? AND id = ? AND bucket = ?",
            ),
            (
                S::DeleteQueueBuckets,
                "DELETE FROM queue_bucket USING TIMESTAMP ? WHERE shard = ? AND id = ?",
            ),
            (
                S::PutQueue,
                "INSERT INTO queue (id, bucket, sequence, stamp, messages, costs) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (S::DeleteQueue, "DELETE FROM queue USING TIMESTAMP ? WHERE id = ? AND bucket = ?"),
            (
                S::PutRetained,
                "INSERT INTO retained (shard, topic, message) VALUES (?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::DeleteRetained,
                "DELETE FROM retained USING TIMESTAMP ? WHERE shard = ? AND topic = ?",
            ),
            (
                S::PutWill,
                "INSERT INTO will (incarnation, shard, client_id, will) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::PutOutbox,
                "INSERT INTO outbox (incarnation, lane, bucket, position, count, bytes, records) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::PutOutboxBucket,
                "INSERT INTO outbox_bucket (incarnation, lane, bucket) VALUES (?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::DeleteOutbox,
                "DELETE FROM outbox USING TIMESTAMP ? WHERE incarnation = ? AND lane = ? AND bucket = ?",
            ),
            (
                S::DeleteOutboxBuckets,
                "DELETE FROM outbox_bucket USING TIMESTAMP ? WHERE incarnation = ? AND lane = ? AND bucket < ?",
            ),
            (
                S::MoveCursor,
                "INSERT INTO outbox_cursor (incarnation, lane, position) VALUES (?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::PutJournal,
                "INSERT INTO journal (incarnation, slot, part, statements) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::RaiseEpoch,
                "UPDATE session_epoch SET id = ?, epoch = ?, fence = ?, holder = ? WHERE client_id = ? IF fence < ?",
            ),
            (
                S::FirstEpoch,
                "INSERT INTO session_epoch (client_id, id, epoch, fence, holder) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
            ),
            (S::DropEpoch, "DELETE FROM session_epoch WHERE client_id = ? IF id = ?"),
            (
                S::Sessions,
                "SELECT id, client_id, epoch, disconnected_ms, receipts, base_stamp, base_sequence, WRITETIME(client_id) AS written FROM session WHERE shard = ?",
            ),
            (S::Subscriptions, "SELECT id, filter, qos, owes FROM subscription WHERE shard = ?"),
            (S::QueueBuckets, "SELECT id, bucket, state FROM queue_bucket WHERE shard = ?"),
            (
                S::QueueBucketsOf,
                "SELECT bucket, state FROM queue_bucket WHERE shard = ? AND id = ? AND bucket >= ?",
            ),
            (S::QueueSizes, "SELECT sequence, stamp, costs FROM queue WHERE id = ? AND bucket = ?"),
            (S::Queue, "SELECT sequence, stamp, messages FROM queue WHERE id = ? AND bucket = ?"),
            (
                S::Retained,
                "SELECT message, WRITETIME(message) AS version FROM retained WHERE shard = ?",
            ),
            (
                S::Wills,
                "SELECT shard, client_id, name, connection, will FROM will WHERE incarnation = ? AND shard = ?",
            ),
            (
                S::OutboxBuckets,
                "SELECT bucket FROM outbox_bucket WHERE incarnation = ? AND lane = ?",
            ),
            (
                S::OutboxCounts,
                "SELECT position, count, bytes FROM outbox WHERE incarnation = ? AND lane = ? AND bucket = ?",
            ),
            (
                S::Outbox,
                "SELECT position, records FROM outbox WHERE incarnation = ? AND lane = ? AND bucket = ?",
            ),
            (S::Cursors, "SELECT lane, position FROM outbox_cursor WHERE incarnation = ?"),
            (S::Journal, "SELECT part, statements FROM journal WHERE incarnation = ? AND slot = ?"),
            (S::CounterRead, "SELECT value FROM counter WHERE name = ?"),
            (S::CounterFirst, "INSERT INTO counter (name, value) VALUES (?, ?) IF NOT EXISTS"),
            (S::CounterNext, "UPDATE counter SET value = ? WHERE name = ? IF value = ?"),
            (S::IndexPut, "INSERT INTO incarnation_index (shard, number) VALUES (0, ?)"),
            (S::IndexRead, "SELECT number FROM incarnation_index WHERE shard = ?"),
            (S::IndexDelete, "DELETE FROM incarnation_index WHERE shard = 0 AND number = ?"),
            (
                S::IncarnationFirst,
                "INSERT INTO incarnation (number, node_id, instance, lanes, lease_ms, renewal, owner, line, stamps) VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?) IF NOT EXISTS",
            ),
            (
                S::IncarnationRead,
                "SELECT node_id, instance, lanes, lease_ms, renewal, owner, line, stamps FROM incarnation WHERE number = ?",
            ),
            (
                S::IncarnationRenew,
                "UPDATE incarnation SET renewal = ? WHERE number = ? IF owner = ?",
            ),
            (
                S::IncarnationSeal,
                "UPDATE incarnation SET owner = ? WHERE number = ? IF owner = ? AND renewal = ?",
            ),
            (S::IncarnationDelete, "DELETE FROM incarnation WHERE number = ? IF owner = ?"),
            (
                S::DeleteWills,
                "DELETE FROM will USING TIMESTAMP ? WHERE incarnation = ? AND shard = ?",
            ),
            (S::DeleteCursors, "DELETE FROM outbox_cursor USING TIMESTAMP ? WHERE incarnation = ?"),
            (
                S::DeleteJournal,
                "DELETE FROM journal USING TIMESTAMP ? WHERE incarnation = ? AND slot = ?",
            ),
            (
                S::RaiseHeld,
                "UPDATE session_epoch SET id = ?, epoch = ?, fence = ?, holder = ? WHERE client_id = ? IF holder = ? AND fence < ?",
            ),
            (
                S::EpochRead,
                "SELECT id, epoch, fence, holder FROM session_epoch WHERE client_id = ?",
            ),
            (
                S::TakeEpoch,
                "UPDATE session_epoch SET holder = ?, fence = ? WHERE client_id = ? IF id = ? AND fence = ?",
            ),
            (
                S::HeldPut,
                "INSERT INTO session_held (line, shard, id, client_id, moving) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::HeldDelete,
                "DELETE FROM session_held USING TIMESTAMP ? WHERE line = ? AND shard = ? AND id = ?",
            ),
            (
                S::HeldDrop,
                "DELETE FROM session_held USING TIMESTAMP ? WHERE line = ? AND shard = ?",
            ),
            (
                S::HeldRead,
                "SELECT id, client_id, moving FROM session_held WHERE line = ? AND shard = ?",
            ),
            (
                S::SessionsIn,
                "SELECT id, client_id, epoch, disconnected_ms, receipts, base_stamp, base_sequence, WRITETIME(client_id) AS written FROM session WHERE shard = ? AND id IN ?",
            ),
            (
                S::SubscriptionsIn,
                "SELECT id, filter, qos, owes FROM subscription WHERE shard = ? AND id IN ?",
            ),
            (
                S::QueueBucketsIn,
                "SELECT id, bucket, state FROM queue_bucket WHERE shard = ? AND id IN ?",
            ),
            (
                S::PutBase,
                "UPDATE session USING TIMESTAMP ? SET receipts = ?, base_stamp = ?, base_sequence = ? WHERE shard = ? AND id = ?",
            ),
            (
                S::IncarnationTimestamps,
                "UPDATE incarnation SET stamps = ? WHERE number = ? IF owner = ? AND stamps = ?",
            ),
            (S::IncarnationLine, "UPDATE incarnation SET line = ? WHERE number = ? IF owner = ?"),
            (
                S::FenceHeld,
                "UPDATE session_epoch SET fence = ? WHERE client_id = ? IF id = ? AND holder = ? AND fence < ?",
            ),
            (S::DropHeld, "DELETE FROM session_epoch WHERE client_id = ? IF id = ? AND fence < ?"),
            (
                S::PutPeerBatch,
                "INSERT INTO peer_batch (incarnation, origin, number, prepared) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::ForgetPeerBatches,
                "DELETE FROM peer_batch USING TIMESTAMP ? WHERE incarnation = ? AND origin = ? AND number < ?",
            ),
            (S::DropPeerBatches, "DELETE FROM peer_batch USING TIMESTAMP ? WHERE incarnation = ?"),
            (
                S::PeerBatches,
                "SELECT origin, number, prepared FROM peer_batch WHERE incarnation = ?",
            ),
            (
                S::Prepare,
                "INSERT INTO open_publish (incarnation, lane, number, publish) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::Committed,
                "INSERT INTO open_publish (incarnation, lane, number, queued) VALUES (?, ?, ?, 1) USING TIMESTAMP ?",
            ),
            (
                S::ForgetPrepared,
                "DELETE FROM open_publish USING TIMESTAMP ? WHERE incarnation = ? AND lane = ? AND number < ?",
            ),
            (S::DropPrepared, "DELETE FROM open_publish USING TIMESTAMP ? WHERE incarnation = ?"),
            (
                S::PreparedPublishes,
                "SELECT lane, number, queued, publish FROM open_publish WHERE incarnation = ?",
            ),
            (
                S::ExceptPeerBatch,
                "INSERT INTO peer_batch_exception (incarnation, origin, number, client_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::CompletePeerBatch,
                "DELETE FROM peer_batch_exception USING TIMESTAMP ? WHERE incarnation = ? AND origin = ? AND number = ? AND client_id = ?",
            ),
            (
                S::ForgetExceptions,
                "DELETE FROM peer_batch_exception USING TIMESTAMP ? WHERE incarnation = ? AND origin = ? AND number < ?",
            ),
            (
                S::DropExceptions,
                "DELETE FROM peer_batch_exception USING TIMESTAMP ? WHERE incarnation = ?",
            ),
            (
                S::PeerBatchExceptions,
                "SELECT origin, number, client_id FROM peer_batch_exception WHERE incarnation = ?",
            ),
            (
                S::KeepWill,
                "INSERT INTO will (incarnation, shard, client_id, name, connection, will) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::PutDeadLetter,
                "INSERT INTO dead_letter (incarnation, shard, id, cost, letter) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
            (
                S::DropDeadLetter,
                "DELETE FROM dead_letter USING TIMESTAMP ? WHERE incarnation = ? AND shard = ? AND id = ?",
            ),
            (
                S::DropDeadLetters,
                "DELETE FROM dead_letter USING TIMESTAMP ? WHERE incarnation = ? AND shard = ?",
            ),
            (
                S::DeadLetterHeads,
                "SELECT id, cost FROM dead_letter WHERE incarnation = ? AND shard = ? AND id >= ? LIMIT ?",
            ),
            (
                S::DeadLetter,
                "SELECT letter FROM dead_letter WHERE incarnation = ? AND shard = ? AND id = ?",
            ),
            (
                S::DeadLetters,
                "SELECT id, cost, letter FROM dead_letter WHERE incarnation = ? AND shard = ?",
            ),
            (
                S::KeepSubscription,
                "INSERT INTO subscription (shard, id, filter, qos, owes) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
            ),
        ]
    };

    /// Reads of tables that are written conditionally: serial.
    pub const fn is_serial_read(self) -> bool {
        matches!(self, Self::CounterRead | Self::IncarnationRead | Self::EpochRead)
    }
}

/// The tables, as [`super::schema`] makes them (version 6). To one of an older version its missing
/// columns are added.
///
/// `gc_grace_seconds` is short where tombstones are regular: a deleted partition of a queue or the
/// outbox may not come back to life within an hour of a replica's absence, and repair must run more
/// often than that or hints must be kept as long (docs/storage.md).
pub const TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS counter (name text PRIMARY KEY, value bigint)",
    "CREATE TABLE IF NOT EXISTS incarnation_index (shard int, number bigint, PRIMARY KEY (shard, number))",
    "CREATE TABLE IF NOT EXISTS incarnation (number bigint PRIMARY KEY, node_id text, instance text, lanes int, lease_ms bigint, renewal bigint, owner bigint, line bigint, stamps bigint)",
    "CREATE TABLE IF NOT EXISTS session_epoch (client_id text PRIMARY KEY, id bigint, epoch bigint, fence bigint, holder bigint)",
    "CREATE TABLE IF NOT EXISTS session_held (line bigint, shard int, id bigint, client_id text, moving int, PRIMARY KEY ((line, shard), id))",
    "CREATE TABLE IF NOT EXISTS session (shard int, id bigint, client_id text, epoch bigint, disconnected_ms bigint, receipts blob, base_stamp bigint, base_sequence bigint, PRIMARY KEY (shard, id))",
    "CREATE TABLE IF NOT EXISTS subscription (shard int, id bigint, filter text, qos int, owes text, PRIMARY KEY (shard, id, filter))",
    "CREATE TABLE IF NOT EXISTS queue_bucket (shard int, id bigint, bucket bigint, state blob, PRIMARY KEY (shard, id, bucket))",
    "CREATE TABLE IF NOT EXISTS queue (id bigint, bucket bigint, sequence bigint, stamp bigint, messages blob, costs blob, PRIMARY KEY ((id, bucket), sequence, stamp)) WITH gc_grace_seconds = 86400",
    "CREATE TABLE IF NOT EXISTS retained (shard int, topic text, message blob, PRIMARY KEY (shard, topic))",
    "CREATE TABLE IF NOT EXISTS will (incarnation bigint, shard int, client_id text, will blob, name text, connection bigint, PRIMARY KEY ((incarnation, shard), client_id))",
    "CREATE TABLE IF NOT EXISTS outbox (incarnation bigint, lane int, bucket bigint, position bigint, count int, bytes bigint, records blob, PRIMARY KEY ((incarnation, lane, bucket), position)) WITH gc_grace_seconds = 86400",
    "CREATE TABLE IF NOT EXISTS outbox_bucket (incarnation bigint, lane int, bucket bigint, PRIMARY KEY ((incarnation, lane), bucket)) WITH gc_grace_seconds = 86400",
    "CREATE TABLE IF NOT EXISTS outbox_cursor (incarnation bigint, lane int, position bigint, PRIMARY KEY (incarnation, lane))",
    "CREATE TABLE IF NOT EXISTS journal (incarnation bigint, slot int, part int, statements blob, PRIMARY KEY ((incarnation, slot), part))",
    "CREATE TABLE IF NOT EXISTS peer_batch (incarnation bigint, origin bigint, number bigint, prepared blob, PRIMARY KEY (incarnation, origin, number)) WITH gc_grace_seconds = 3600",
    "CREATE TABLE IF NOT EXISTS peer_batch_exception (incarnation bigint, origin bigint, number bigint, client_id text, PRIMARY KEY (incarnation, origin, number, client_id)) WITH gc_grace_seconds = 3600",
    "CREATE TABLE IF NOT EXISTS open_publish (incarnation bigint, lane int, number bigint, queued int, publish blob, PRIMARY KEY (incarnation, lane, number)) WITH gc_grace_seconds = 3600",
    "CREATE TABLE IF NOT EXISTS dead_letter (incarnation bigint, shard int, id blob, cost bigint, letter blob, PRIMARY KEY ((incarnation, shard), id))",
];
