//! Requests to Cassandra: how a connection is begun, which node is asked, how long, how often, at
//! which consistency; and what an answer's columns are.
//!
//! Invariants: statements are prepared and their values bound; the keyspace, which configuration
//! allows only letters, digits and underscores in, is the one thing that stands in their text. A
//! request goes to a replica of its partition first. Only what may be done twice is tried again or
//! speculated; never a conditional write.
//! Bounds: `cassandra.max_requests` under way, each for `cassandra.request_timeout`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cdrs_tokio::cluster::send_envelope::send_envelope;
use cdrs_tokio::cluster::session::{
    NodeDistanceEvaluatorWrapper, ReconnectionPolicyWrapper, RetryPolicyWrapper, Session,
    connect_generic,
};
use cdrs_tokio::consistency::Consistency;
use cdrs_tokio::error::Error;
use cdrs_tokio::frame::message_batch::BatchType;
use cdrs_tokio::frame::message_error::ErrorType;
use cdrs_tokio::frame::message_response::ResponseBody;
use cdrs_tokio::frame::{Envelope, Flags};
use cdrs_tokio::load_balancing::Request;
use cdrs_tokio::load_balancing::node_distance_evaluator::TopologyAwareNodeDistanceEvaluator;
use cdrs_tokio::query::{BatchQueryBuilder, PreparedQuery, QueryValues};
use cdrs_tokio::retry::{
    ConstantReconnectionPolicy, QueryInfo, RetryDecision, RetryPolicy, RetrySession,
};
use cdrs_tokio::speculative_execution::{
    ConstantSpeculativeExecutionPolicy, SpeculativeExecutionPolicy,
};
use cdrs_tokio::statement::{StatementParams, StatementParamsBuilder};
use cdrs_tokio::types::blob::Blob;
use cdrs_tokio::types::value::Value;
use cdrs_tokio::types::{ByName, CBytes};
use hydrant_actors::ports::StoreError;
use hydrant_actors::say;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::balancing::LocalReplicasFirst;
use super::options::{CassandraOptions, Level};
use super::statements::Statement;
use super::transport::{Limits, Manager, SLOWEST, Transport, VERSION};

/// Between two attempts to reach a contact point or a node that was lost.
const RECONNECT: Duration = Duration::from_secs(1);
/// Rows of a page of a read whose rows are small.
const PAGE_ROWS: i32 = 1000;

type CqlSession = Session<Transport, Manager, LocalReplicasFirst>;

/// Why the store cannot be used at start: one sentence that says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct CassandraError(pub String);

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

/// A row of an answer. A column that is missing or of another type is an error that says so.
#[derive(Debug, Clone)]
pub struct Row(cdrs_tokio::types::rows::Row);

impl Row {
    fn column<T>(&self, column: &str, found: Result<Option<T>, Error>) -> Result<T, StoreError> {
        self.optional(column, found)?.ok_or_else(|| {
            StoreError::Unusable(format!("column {column} of a row in Cassandra is null"))
        })
    }

    fn optional<T>(
        &self,
        column: &str,
        found: Result<Option<T>, Error>,
    ) -> Result<Option<T>, StoreError> {
        if !self.0.contains_column(column) {
            return Ok(None);
        }
        found.map_err(|error| {
            StoreError::Unusable(format!("column {column} of a row in Cassandra: {error}"))
        })
    }

    /// A bigint; an error where it is null.
    pub fn i64(&self, column: &str) -> Result<i64, StoreError> {
        self.column(column, self.0.by_name(column))
    }

    /// A bigint as it is used here: never negative.
    pub fn u64(&self, column: &str) -> Result<u64, StoreError> {
        u64::try_from(self.i64(column)?).map_err(|_| {
            StoreError::Unusable(format!("column {column} of a row in Cassandra is negative"))
        })
    }

    /// An int.
    pub fn i32(&self, column: &str) -> Result<i32, StoreError> {
        self.column(column, self.0.by_name(column))
    }

    /// A text.
    pub fn text(&self, column: &str) -> Result<String, StoreError> {
        self.column(column, self.0.by_name(column))
    }

    /// A blob.
    pub fn blob(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.column(column, self.0.by_name::<Blob>(column))?.into_vec())
    }

    /// A bigint or null.
    pub fn optional_i64(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.optional(column, self.0.by_name(column))
    }

    /// An int or null.
    pub fn optional_i32(&self, column: &str) -> Result<Option<i32>, StoreError> {
        self.optional(column, self.0.by_name(column))
    }

    /// A text or null.
    pub fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.optional(column, self.0.by_name(column))
    }

    /// A blob or null; an empty blob counts as null.
    pub fn optional_blob(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let blob = self.optional(column, self.0.by_name::<Blob>(column))?;
        Ok(blob.map(Blob::into_vec).filter(|bytes| !bytes.is_empty()))
    }

    /// A boolean.
    fn flag(&self, column: &str) -> Result<bool, StoreError> {
        self.column(column, self.0.by_name(column))
    }
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

/// What is tried on another node: where nothing came of it, or it does no harm twice.
#[derive(Clone)]
struct Retry {
    limit: u32,
    retries: Arc<AtomicU64>,
}

impl RetryPolicy for Retry {
    fn new_session(&self) -> Box<dyn RetrySession + Send + Sync> {
        Box::new(self.clone())
    }
}

impl RetrySession for Retry {
    fn decide(&mut self, query_info: QueryInfo<'_>) -> RetryDecision {
        let elsewhere = match query_info.error {
            Error::Server { body, .. } => matches!(
                body.ty,
                ErrorType::Overloaded | ErrorType::IsBootstrapping | ErrorType::Server
            ),
            _ => true,
        };
        if !query_info.is_idempotent || !elsewhere || self.limit == 0 {
            return RetryDecision::DontRetry;
        }
        self.limit -= 1;
        self.retries.fetch_add(1, Relaxed);
        RetryDecision::RetryNextNode
    }
}

/// A contact point that answers, and the addresses of all.
async fn reach(
    options: &CassandraOptions,
    deadline: Instant,
) -> Result<(Manager, Vec<SocketAddr>), CassandraError> {
    loop {
        let (manager, addresses, why) = resolve(options).await.map_err(CassandraError)?;
        let mut last = why.unwrap_or_else(|| "no contact point has an address".to_owned());
        for address in &addresses {
            match manager.connect(None, None, *address).await {
                Ok(_) => return Ok((manager, addresses)),
                Err(Error::Server { body, .. }) if matches!(body.ty, ErrorType::Authentication) => {
                    return Err(CassandraError(format!(
                        "Cassandra at {address} refuses the login: set cassandra.username and \
                         cassandra.password ({})",
                        body.message
                    )));
                }
                // The driver's own words: it was asked for a login and has none.
                Err(Error::General(why)) if why == "No authenticator was provided" => {
                    return Err(CassandraError(format!(
                        "Cassandra at {address} asks for a login: set cassandra.username and \
                         cassandra.password"
                    )));
                }
                Err(error) => last = format!("{address}: {}", sentence(&error)),
            }
        }
        if Instant::now() + RECONNECT > deadline {
            return Err(CassandraError(unreachable(options, &last)));
        }
        say::warn!("no Cassandra answers yet, trying again: {last}");
        tokio::time::sleep(RECONNECT).await;
    }
}

/// How connections are made, the addresses of the contact points, and why one of these has none.
///
/// # Errors
/// One sentence about the file of `cassandra.tls_ca`.
pub(super) async fn resolve(
    options: &CassandraOptions,
) -> Result<(Manager, Vec<SocketAddr>, Option<String>), String> {
    let (mut names, mut addresses, mut why) = (HashMap::new(), Vec::new(), None);
    for point in &options.contact_points {
        let host = point.rsplit_once(':').map_or(point.as_str(), |(host, _)| host);
        match tokio::net::lookup_host(point).await {
            Ok(found) => {
                for address in found {
                    names.insert(address, host.trim_matches(['[', ']']).to_owned());
                    addresses.push(address);
                }
            }
            Err(error) => why = Some(format!("{point} has no address: {error}")),
        }
    }
    let limits = Limits { silence: options.request_timeout };
    let (credentials, tls_ca) = (options.credentials.clone(), options.tls_ca.as_deref());
    Ok((Manager::new(credentials, tls_ca, names, limits)?, addresses, why))
}

fn unreachable(options: &CassandraOptions, why: &dyn std::fmt::Display) -> String {
    format!(
        "no Cassandra of cassandra.contact_points ({}) could be used within {:?}: {why}; start it, \
         or correct the addresses",
        options.contact_points.join(", "),
        options.connect_timeout
    )
}

/// The local data centre; one that is configured has to be there.
async fn data_centre(
    manager: &Manager,
    addresses: &[SocketAddr],
    options: &CassandraOptions,
) -> Result<String, CassandraError> {
    let mut found = Vec::new();
    let mut failed = "no contact point answered".to_owned();
    for address in addresses {
        match data_centres(manager, *address).await {
            Ok(centres) => {
                found = centres;
                break;
            }
            Err(error) => failed = format!("{address}: {error}"),
        }
    }
    let Some(first) = found.first() else {
        return Err(CassandraError(unreachable(options, &failed)));
    };
    if options.local_dc.is_empty() {
        return Ok(first.clone());
    }
    if found.contains(&options.local_dc) {
        return Ok(options.local_dc.clone());
    }
    found.sort();
    found.dedup();
    Err(CassandraError(format!(
        "cassandra.local_dc = {:?} is no data centre of this Cassandra: set it to one of {}",
        options.local_dc,
        found.join(", ")
    )))
}

/// The data centres that a node knows, its own first.
async fn data_centres(manager: &Manager, address: SocketAddr) -> Result<Vec<String>, String> {
    let transport = manager.connect(None, None, address).await.map_err(|error| sentence(&error))?;
    let mut found = Vec::new();
    for table in ["local", "peers"] {
        let cql = format!("SELECT data_center FROM system.{table}");
        for row in ask(&transport, &cql).await? {
            found.extend(row.optional_text("data_center").map_err(|error| error.to_string())?);
        }
    }
    Ok(found)
}

/// Asks the node at the other end, and no other, for rows of the system's tables.
///
/// # Errors
/// What it says, or that it says nothing.
pub(super) async fn ask(transport: &Transport, cql: &str) -> Result<Vec<Row>, String> {
    use cdrs_tokio::transport::CdrsTransport as _;
    let envelope = Envelope::new_req_query(
        cql.to_owned(),
        Consistency::One,
        None,
        false,
        None,
        None,
        None,
        None,
        None,
        None,
        Flags::empty(),
        VERSION,
    );
    let answer = transport.write_envelope(&envelope, false).await;
    let answer = answer.map_err(|error| sentence(&error))?;
    Ok(rows_of(answer).map_err(|error| error.to_string())?.0)
}

/// The rows of an answer and where the next page begins.
fn rows_of(answer: Envelope) -> Result<(Vec<Row>, Option<CBytes>), StoreError> {
    use cdrs_tokio::frame::message_result::ResResultBody;
    let body = answer.response_body().map_err(|error| unavailable(&error))?;
    match body {
        ResponseBody::Result(ResResultBody::Rows(rows)) => {
            let next = rows.metadata.paging_state.clone();
            let rows = cdrs_tokio::types::rows::Row::from_body(rows);
            Ok((rows.into_iter().map(Row).collect(), next))
        }
        _ => Ok((Vec::new(), None)),
    }
}

/// What the driver answers, or a sentence that says why it does not.
async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, String> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| sentence(&error)),
        Err(_) => Err(format!("Cassandra did not answer within {limit:?}")),
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// What went wrong, in a sentence for a log line.
pub(super) fn sentence(error: &Error) -> String {
    let Error::Server { body, addr } = error else { return error.to_string() };
    let what = match &body.ty {
        ErrorType::Unavailable(e) => {
            format!("needs {} live replicas and has {}", e.required, e.alive)
        }
        ErrorType::WriteTimeout(e) => {
            format!("{} of {} replicas confirmed the write in time", e.received, e.block_for)
        }
        ErrorType::ReadTimeout(e) => {
            format!("{} of {} replicas answered the read in time", e.received, e.block_for)
        }
        ErrorType::Overloaded => "is overloaded".to_owned(),
        ErrorType::IsBootstrapping => "is still starting".to_owned(),
        _ => return format!("Cassandra node {addr}: {}", body.message),
    };
    format!("Cassandra node {addr} {what}")
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
