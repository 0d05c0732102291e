//! Requests to Cassandra: which node is asked, how long, how often, at which consistency. How a connection is begun
//! (`contact`), what is asked again (`retry`), what an answer's columns are (`row`) and what goes wrong (`error`)
//! stand below.
//!
//! Invariants: statements are prepared and their values bound; the keyspace, which configuration
//! allows only letters, digits and underscores in, is the one thing that stands in their text. A
//! request goes to a replica of its partition first. Only what may be done twice is tried again or
//! speculated; never a conditional write.
//! Bounds: `cassandra.max_requests` under way, each for `cassandra.request_timeout`.

mod contact;
mod error;
mod retry;
mod row;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cdrs_tokio::cluster::send_envelope::send_envelope;
use cdrs_tokio::cluster::session::{
    NodeDistanceEvaluatorWrapper, ReconnectionPolicyWrapper, RetryPolicyWrapper, Session,
    connect_generic,
};
use cdrs_tokio::consistency::Consistency;
use cdrs_tokio::error::Error;
use cdrs_tokio::frame::message_batch::BatchType;
use cdrs_tokio::frame::message_error::ErrorType;
use cdrs_tokio::frame::{Envelope, Flags};
use cdrs_tokio::load_balancing::Request;
use cdrs_tokio::load_balancing::node_distance_evaluator::TopologyAwareNodeDistanceEvaluator;
use cdrs_tokio::query::{BatchQueryBuilder, PreparedQuery, QueryValues};
use cdrs_tokio::retry::ConstantReconnectionPolicy;
use cdrs_tokio::speculative_execution::{
    ConstantSpeculativeExecutionPolicy, SpeculativeExecutionPolicy,
};
use cdrs_tokio::statement::{StatementParams, StatementParamsBuilder};
use cdrs_tokio::types::CBytes;
use cdrs_tokio::types::value::Value;
use hydrant_actors::ports::StoreError;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::balancing::LocalReplicasFirst;
use super::options::{CassandraOptions, Level};
use super::statements::Statement;
use super::transport::{Manager, SLOWEST, Transport, VERSION};
use contact::{RECONNECT, data_centre, reach, unreachable};
use error::{in_time, unavailable};
use retry::Retry;
use row::rows_of;

pub(super) use contact::{ask, resolve};
pub use error::CassandraError;
pub(super) use error::sentence;
pub use row::Row;

/// Rows of a page of a read whose rows are small.
const PAGE_ROWS: i32 = 1000;

type CqlSession = Session<Transport, Manager, LocalReplicasFirst>;

/// A statement with its values.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Which.
    pub statement: Statement,
    /// In the order of its question marks; none is null.
    pub values: Vec<Value>,
}

/// What became of a conditional write.
#[derive(Debug)]
pub enum Applied {
    /// It was written.
    Yes,
    /// It was not; the row as it is, where there is one.
    No(Option<Row>),
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    session: CqlSession,
    prepared: OnceCell<Vec<PreparedQuery>>,
    permits: Semaphore,
    retries: Arc<AtomicU64>,
    local_dc: String,
    options: CassandraOptions,
}

impl Db {
    /// Connects: to the contact points until one answers, then to every node of the local data
    /// centre.
    ///
    /// # Errors
    /// One sentence: no contact point answered within `cassandra.connect_timeout`, the login is
    /// wrong, there is no such data centre.
    pub async fn connect(options: &CassandraOptions) -> Result<Self, CassandraError> {
        let deadline = Instant::now() + options.connect_timeout;
        let (manager, addresses) = reach(options, deadline).await?;
        let local_dc = data_centre(&manager, &addresses, options).await?;
        let retries = Arc::new(AtomicU64::new(0));
        let policy = Retry { limit: options.retries, retries: Arc::clone(&retries) };
        let session = connect_generic(
            &manager,
            addresses,
            LocalReplicasFirst::new(local_dc.clone()),
            RetryPolicyWrapper(Box::new(policy)),
            ReconnectionPolicyWrapper(Arc::new(ConstantReconnectionPolicy::new(RECONNECT))),
            NodeDistanceEvaluatorWrapper(Box::new(TopologyAwareNodeDistanceEvaluator::new(
                local_dc.clone(),
            ))),
            None,
        );
        let session = timeout_at(deadline.max(Instant::now() + SLOWEST), session).await;
        let session = match session {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(CassandraError(unreachable(options, &error))),
            Err(_) => return Err(CassandraError(unreachable(options, &"no answer in time"))),
        };
        Ok(Self(Arc::new(Inner {
            session,
            prepared: OnceCell::new(),
            permits: Semaphore::new(options.max_requests),
            retries,
            local_dc,
            options: options.clone(),
        })))
    }

    /// Prepares every statement; the schema has to be there.
    ///
    /// # Errors
    /// What Cassandra says to a statement.
    pub async fn prepare(&self) -> Result<(), CassandraError> {
        let keyspace = self.keyspace();
        let mut prepared = Vec::with_capacity(Statement::ALL.len());
        for (statement, cql) in Statement::ALL {
            let cql = qualified(cql, keyspace);
            let made = in_time(SLOWEST, self.0.session.prepare(cql)).await;
            prepared.push(made.map_err(|why| {
                CassandraError(format!(
                    "{statement:?} cannot be prepared in keyspace {keyspace}: {why}"
                ))
            })?);
        }
        // A second time changes nothing.
        let _ = self.0.prepared.set(prepared);
        Ok(())
    }

    /// One idempotent write.
    ///
    /// # Errors
    /// Whether it was written is unknown.
    pub async fn write(&self, bound: Bound) -> Result<(), StoreError> {
        let consistency = consistency(self.0.options.write_consistency);
        let params = StatementParamsBuilder::new().with_consistency(consistency).idempotent(true);
        self.execute(bound, params).await.map(drop)
    }

    /// Idempotent writes to one partition, together.
    ///
    /// # Errors
    /// Whether they were written is unknown.
    pub async fn batch(&self, bounds: Vec<Bound>) -> Result<(), StoreError> {
        let Some(first) = bounds.first() else { return Ok(()) };
        let level = consistency(self.0.options.write_consistency);
        let key = routing_key(self.prepared(first.statement)?, &first.values);
        let mut batch =
            BatchQueryBuilder::new().with_batch_type(BatchType::Unlogged).with_consistency(level);
        for bound in bounds {
            let values = QueryValues::SimpleValues(bound.values);
            batch = batch.add_query_prepared(self.prepared(bound.statement)?, values);
        }
        let batch = batch.build().map_err(|error| StoreError::Unusable(error.to_string()))?;
        let session = &self.0.session;
        let request = async {
            let request = Request::new(Some(self.keyspace()), None, Some(&key), Some(level));
            let nodes = session.query_plan(Some(request)).nodes.into_iter();
            let envelope = Envelope::new_req_batch(batch.request.clone(), Flags::empty(), VERSION);
            let retry = session.retry_policy().new_session();
            let sent = send_envelope(nodes, &envelope, true, retry).await;
            let sent = sent.ok_or_else(|| Error::General("no node answered".to_owned())).flatten();
            match &sent {
                // A node that was started again: the driver knows how to prepare there.
                Err(Error::Server { body, .. }) if matches!(body.ty, ErrorType::Unprepared(_)) => {
                    let params = StatementParamsBuilder::new().idempotent(true).build();
                    session.batch_with_params(batch, &params).await
                }
                _ => sent,
            }
        };
        self.limited(request).await.map(drop)
    }

    /// All rows of a read.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn rows(&self, bound: Bound) -> Result<Vec<Row>, StoreError> {
        let mut pages = self.pages(bound, PAGE_ROWS);
        let mut rows = Vec::new();
        while let Some(mut page) = pages.next().await? {
            rows.append(&mut page);
        }
        Ok(rows)
    }

    /// The rows of a read, page by page.
    pub fn pages(&self, bound: Bound, size: i32) -> Pages<'_> {
        Pages { db: self, bound, size, state: None, over: false }
    }

    /// One conditional write.
    ///
    /// # Errors
    /// Whether it was written is unknown: only a serial read can say.
    pub async fn conditional(&self, bound: Bound) -> Result<Applied, StoreError> {
        let params = StatementParamsBuilder::new()
            .with_consistency(consistency(self.0.options.write_consistency))
            .with_serial_consistency(serial(self.0.options.write_consistency))
            .idempotent(false);
        let mut rows = rows_of(self.execute(bound, params).await?)?.0;
        match rows.pop() {
            Some(row) if row.flag("[applied]")? => Ok(Applied::Yes),
            // Where the row is missing, `[applied]` stands alone; its columns read as null.
            Some(row) => Ok(Applied::No(Some(row))),
            None => Ok(Applied::No(None)),
        }
    }

    /// A statement without values, unprepared: schema changes, what is read of the system's
    /// tables; a majority answers where it is a table of ours.
    ///
    /// # Errors
    /// What Cassandra says.
    pub async fn simple(&self, cql: &str) -> Result<Vec<Row>, StoreError> {
        let level = match serial(self.0.options.write_consistency) {
            Consistency::LocalSerial => Consistency::LocalQuorum,
            _ => Consistency::Quorum,
        };
        let params = StatementParamsBuilder::new().with_consistency(level).build();
        let answer = in_time(SLOWEST, self.0.session.query_with_params(cql, params)).await;
        Ok(rows_of(answer.map_err(StoreError::Unavailable)?)?.0)
    }

    /// The keyspace.
    pub fn keyspace(&self) -> &str {
        &self.0.options.keyspace
    }

    /// The local data centre: configured, or that of the contact point that answered.
    pub fn local_dc(&self) -> &str {
        &self.0.local_dc
    }

    /// For `broker tree`.
    pub fn describe(&self) -> String {
        let metadata = self.0.session.cluster_metadata();
        let nodes = metadata.nodes().len();
        format!(
            "keyspace {}, data centre {}, {nodes} nodes known, {} requests under way, {} tried again",
            self.keyspace(),
            self.local_dc(),
            self.under_way(),
            self.retries()
        )
    }

    /// Requests that were sent again, to another node.
    pub fn retries(&self) -> u64 {
        self.0.retries.load(Relaxed)
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.0.options.max_requests.saturating_sub(self.0.permits.available_permits())
    }

    fn prepared(&self, statement: Statement) -> Result<&PreparedQuery, StoreError> {
        let prepared = self.0.prepared.get().and_then(|all| all.get(statement as usize));
        prepared.ok_or_else(|| StoreError::Unavailable("no statement is prepared yet".to_owned()))
    }

    async fn execute(
        &self,
        bound: Bound,
        params: StatementParamsBuilder,
    ) -> Result<Envelope, StoreError> {
        let prepared = self.prepared(bound.statement)?;
        let params: StatementParams =
            params.with_values(QueryValues::SimpleValues(bound.values)).build();
        self.limited(self.0.session.exec_with_params(prepared, &params)).await
    }

    /// Waits for its turn, then at most `cassandra.request_timeout`.
    async fn limited(
        &self,
        request: impl Future<Output = Result<Envelope, Error>>,
    ) -> Result<Envelope, StoreError> {
        let _turn: SemaphorePermit<'_> =
            self.0.permits.acquire().await.map_err(|error| unavailable(&error))?;
        in_time(self.0.options.request_timeout, request).await.map_err(StoreError::Unavailable)
    }
}

/// See [`Db::pages`].
pub struct Pages<'a> {
    db: &'a Db,
    bound: Bound,
    size: i32,
    state: Option<CBytes>,
    over: bool,
}

impl Pages<'_> {
    /// How many rows the next page has at most.
    pub fn set_size(&mut self, rows: i32) {
        self.size = rows.max(1);
    }

    /// The next page, which may be empty; `None` after the last.
    ///
    /// # Errors
    /// There was no answer; asked again, it is the same page.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, StoreError> {
        if self.over {
            return Ok(None);
        }
        let options = &self.db.0.options;
        let level = if self.bound.statement.is_serial_read() {
            // Of the same reach as the writes whose outcome it tells.
            serial(options.write_consistency)
        } else {
            consistency(options.read_consistency)
        };
        let mut params = StatementParamsBuilder::new()
            .with_consistency(level)
            .with_page_size(self.size)
            .idempotent(true);
        if let Some(state) = &self.state {
            params = params.with_paging_state(state.clone());
        }
        if !options.speculative_delay.is_zero() && !self.bound.statement.is_serial_read() {
            let policy: Arc<dyn SpeculativeExecutionPolicy + Send + Sync> =
                Arc::new(ConstantSpeculativeExecutionPolicy::new(2, options.speculative_delay));
            params = params.with_speculative_execution_policy(policy);
        }
        let (rows, state) = rows_of(self.db.execute(self.bound.clone(), params).await?)?;
        self.over = state.is_none();
        self.state = state;
        Ok(Some(rows))
    }
}

/// The table's name behind the keyspace's.
fn qualified(cql: &str, keyspace: &str) -> String {
    for before in ["INSERT INTO ", "UPDATE ", "FROM "] {
        if let Some(at) = cql.find(before) {
            let (head, table) = cql.split_at(at + before.len());
            return format!("{head}{keyspace}.{table}");
        }
    }
    cql.to_owned()
}

/// The bytes that Cassandra's partitioner hashes: a lone column's, or each with its length before
/// it and a zero behind (CompositeType).
fn routing_key(prepared: &PreparedQuery, values: &[Value]) -> Vec<u8> {
    let mut parts = Vec::with_capacity(prepared.pk_indexes.len());
    for index in &prepared.pk_indexes {
        let value = usize::try_from(*index).ok().and_then(|index| values.get(index));
        if let Some(Value::Some(bytes)) = value {
            parts.push(bytes.as_slice());
        }
    }
    if let [only] = parts.as_slice() {
        return only.to_vec();
    }
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        key.extend_from_slice(part);
        key.push(0);
    }
    key
}

const fn consistency(level: Level) -> Consistency {
    match level {
        Level::One => Consistency::One,
        Level::LocalOne => Consistency::LocalOne,
        Level::Quorum => Consistency::Quorum,
        Level::LocalQuorum => Consistency::LocalQuorum,
        Level::EachQuorum => Consistency::EachQuorum,
        Level::All => Consistency::All,
    }
}

/// Of the same reach.
const fn serial(level: Level) -> Consistency {
    match level {
        Level::LocalOne | Level::LocalQuorum => Consistency::LocalSerial,
        _ => Consistency::Serial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_names_its_keyspace_and_stands_at_its_number() {
        for (number, (statement, cql)) in Statement::ALL.into_iter().enumerate() {
            assert_eq!(statement as usize, number, "{statement:?}");
            let cql = qualified(cql, "ks");
            assert_eq!(cql.matches(" ks.").count(), 1, "{cql}");
        }
    }
}
