//! The schema: the keyspace and its tables, made and migrated, or only checked where this broker
//! may not change them.
//!
//! The table `schema_version` has two rows: "schema" with the version of the tables, and while
//! somebody changes them "lock" with who it is. Cassandra before 6 lets two nodes make the same
//! table at the same time, each with an id of its own, and then loses what was written to one of
//! them; so tables are made under the lock, which is a conditional write with a time to live, and
//! the table of the lock itself is made with an id that everybody gets alike.
//!
//! Invariants: nothing is changed in a keyspace whose version is newer or whose replication is not
//! what was asked for. Every statement may be repeated. Only names stand in the text of statements:
//! the keyspace's, which configuration checks, and the data centre's, which is checked here.
//! Bounds: `PATIENCE` for the lock, `ATTEMPTS` of one change, `AGREEMENT` until all nodes
//! have a change.

mod layout;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use hydrant_actors::ports::StoreError;
use hydrant_actors::say;
use tokio::time::{Instant, sleep};

use super::db::{CassandraError, Db, Row};
use super::options::CassandraOptions;
use layout::Column;
pub(super) use layout::Replication;

/// What this broker needs.
pub(super) const VERSION: i32 = 6;

/// From the version before to each version: statements that may be repeated, tables named
/// `{ks}.name`. Tables and columns that are missing in [`super::statements::TABLES`] are made
/// before; that is all of versions 2 to 6.
const MIGRATIONS: &[(i32, &[&str])] = &[(2, &[]), (3, &[]), (4, &[]), (5, &[]), (6, &[])];

/// Until the lock is had, or somebody else is done. Longer than [`LOCK`].
const PATIENCE: Duration = Duration::from_secs(150);
/// Time to live of the lock.
const LOCK: Duration = Duration::from_secs(60);
/// After it no change is begun under the lock that was had.
const HOLD: Duration = Duration::from_secs(20);
/// How often a change is tried that Cassandra refuses.
const ATTEMPTS: u32 = 5;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Until all nodes have a change of the schema. A node that is down has not; so it is no error.
const AGREEMENT: Duration = Duration::from_secs(10);

/// Makes or checks keyspace and tables.
///
/// # Errors
/// One sentence: the keyspace's replication or version is not right, something is missing that may
/// not be made, or Cassandra does not do it.
pub async fn ensure(db: &Db, options: &CassandraOptions) -> Result<(), CassandraError> {
    let schema = Schema { db, keyspace: db.keyspace(), options };
    let found = schema.replication().await?;
    match found {
        None if options.create_schema => schema.create_keyspace().await?,
        None => {
            return Err(CassandraError(format!(
                "keyspace {} does not exist: create it, or set cassandra.create_schema = true",
                schema.keyspace
            )));
        }
        Some(found) => schema.check_replication(&found)?,
    }
    if options.create_schema { schema.make().await } else { schema.check().await }
}

/// How the keyspace is replicated; `None` where there is none.
///
/// # Errors
/// One sentence.
pub(super) async fn replication(
    db: &Db,
    options: &CassandraOptions,
) -> Result<Option<Replication>, CassandraError> {
    Schema { db, keyspace: db.keyspace(), options }.replication().await
}

struct Schema<'a> {
    db: &'a Db,
    keyspace: &'a str,
    options: &'a CassandraOptions,
}

/// What became of an attempt to get the lock.
enum Turn {
    /// Ours, under this name.
    Ours(String),
    /// Somebody else's.
    Taken,
}

impl Schema<'_> {
    async fn replication(&self) -> Result<Option<Replication>, CassandraError> {
        // As JSON: the column is a map.
        let cql = format!(
            "SELECT JSON replication FROM system_schema.keyspaces WHERE keyspace_name = '{}'",
            self.keyspace
        );
        let rows = self.read(&cql).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let json = row.text("[json]").map_err(|error| self.failed(error))?;
        Replication::parse(&json).map(Some).ok_or_else(|| {
            CassandraError(format!("Cassandra describes keyspace {} as {json}", self.keyspace))
        })
    }

    fn check_replication(&self, found: &Replication) -> Result<(), CassandraError> {
        let wanted = self.options.replication_factor;
        let strict = self.options.create_schema;
        let wrong = found.wrong(self.keyspace, self.db.local_dc(), wanted, strict);
        wrong.map_or(Ok(()), |why| Err(CassandraError(why)))
    }

    async fn create_keyspace(&self) -> Result<(), CassandraError> {
        let (dc, replicas) = (self.db.local_dc(), self.options.replication_factor);
        if dc.contains(['\'', '"', '\\']) || dc.chars().any(char::is_control) {
            return Err(CassandraError(format!(
                "the name of data centre {dc:?} cannot stand in a statement: create keyspace {} \
                 yourself, or set cassandra.local_dc",
                self.keyspace
            )));
        }
        log::info!("making keyspace {} with {replicas} replicas in {dc}", self.keyspace);
        let class = "NetworkTopologyStrategy";
        self.change(&format!(
            "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': '{class}', '{dc}': \
             {replicas}}}",
            self.keyspace
        ))
        .await?;
        self.agree().await;
        // Somebody else may have made it first, with another replication.
        match self.replication().await? {
            Some(found) => self.check_replication(&found),
            None => Ok(()),
        }
    }

    /// Makes and migrates what is not as it should be.
    async fn make(&self) -> Result<(), CassandraError> {
        let deadline = Instant::now() + PATIENCE;
        let mut waited = false;
        loop {
            if Instant::now() > deadline {
                return Err(CassandraError(format!(
                    "the schema of keyspace {} is not complete after {PATIENCE:?}: see whether \
                     another broker is changing it and all nodes of Cassandra are up, and start \
                     again",
                    self.keyspace
                )));
            }
            let columns = self.columns().await?;
            if !layout::has_table(&columns, "schema_version") {
                waited = true;
                self.change(&layout::version_table(self.keyspace)).await?;
                self.agree().await;
                continue;
            }
            // Another broker may have made the table at another node a moment ago. A replica that has
            // not heard of it fails the read, and logs an error that frightens its operator.
            if !self.is_agreed().await {
                self.agree().await;
            }
            let version = self.version().await?;
            if self.is_known(version)? && layout::missing_tables(&columns).is_empty() {
                if waited {
                    self.agree().await;
                }
                return self.check_columns(&columns);
            }
            waited = true;
            match self.lock().await? {
                Turn::Taken => sleep(PAUSE).await,
                Turn::Ours(name) => {
                    let done = self.upgrade(version).await;
                    self.unlock(&name).await;
                    done?;
                }
            }
        }
    }

    /// Under the lock: as much as time allows.
    async fn upgrade(&self, seen: Option<i32>) -> Result<(), CassandraError> {
        let until = Instant::now() + HOLD;
        // Before there was the lock, somebody else may have had it.
        let version = self.version().await?;
        self.is_known(version)?;
        if version != seen {
            return Ok(());
        }
        let columns = self.columns().await?;
        for table in layout::missing_tables(&columns) {
            if Instant::now() > until {
                return Ok(());
            }
            self.change(&layout::qualified(table, self.keyspace)).await?;
        }
        // Tables that are made here have all columns.
        if version.is_none_or(|version| version < VERSION) {
            for Column { table, name, kind } in layout::missing_columns(&columns) {
                if Instant::now() > until {
                    return Ok(());
                }
                let column = format!("{}.{table} ADD {name} {kind}", self.keyspace);
                self.change(&format!("ALTER TABLE {column}")).await?;
            }
        }
        self.agree().await;
        let Some(version) = version else {
            self.write(&format!(
                "INSERT INTO {}.schema_version (name, version) VALUES ('schema', {VERSION}) IF NOT \
                 EXISTS",
                self.keyspace
            ))
            .await?;
            return Ok(());
        };
        for (to, statements) in MIGRATIONS.iter().filter(|(to, _)| *to > version) {
            for statement in *statements {
                if Instant::now() > until {
                    return Ok(());
                }
                self.change(&statement.replace("{ks}", self.keyspace)).await?;
            }
            self.agree().await;
            self.write(&format!(
                "UPDATE {}.schema_version SET version = {to} WHERE name = 'schema' IF version = {}",
                self.keyspace,
                to - 1
            ))
            .await?;
            log::info!("the schema of keyspace {} has version {to} now", self.keyspace);
        }
        Ok(())
    }

    /// Changes nothing.
    async fn check(&self) -> Result<(), CassandraError> {
        let columns = self.columns().await?;
        let version = if layout::has_table(&columns, "schema_version") {
            self.version().await?
        } else {
            None
        };
        let keyspace = self.keyspace;
        if version.is_none() {
            return Err(CassandraError(format!(
                "keyspace {keyspace} has no schema of this broker: start once with \
                 cassandra.create_schema = true"
            )));
        }
        if !self.is_known(version)? {
            return Err(CassandraError(format!(
                "keyspace {keyspace} has schema version {}, and this broker needs {VERSION}: start \
                 once with cassandra.create_schema = true",
                version.unwrap_or(0)
            )));
        }
        self.check_columns(&columns)
    }

    fn check_columns(&self, columns: &[Column]) -> Result<(), CassandraError> {
        let Some(Column { table, name, kind }) = layout::missing(columns) else { return Ok(()) };
        let first = if layout::has_table(columns, &table) {
            "drop that table if it is nobody's"
        } else {
            "start once with cassandra.create_schema = true"
        };
        Err(CassandraError(format!(
            "table {}.{table} has no column {name} of type {kind}: {first}, or use another keyspace",
            self.keyspace
        )))
    }

    /// Whether it is the version that this broker needs; false: older.
    fn is_known(&self, version: Option<i32>) -> Result<bool, CassandraError> {
        match version {
            Some(version) if version > VERSION => Err(CassandraError(format!(
                "the keyspace {} has schema version {version}, this broker knows {VERSION}: \
                 upgrade the broker or use another keyspace",
                self.keyspace
            ))),
            version => Ok(version == Some(VERSION)),
        }
    }

    async fn version(&self) -> Result<Option<i32>, CassandraError> {
        let rows = self
            .read(&format!(
                "SELECT version FROM {}.schema_version WHERE name = 'schema'",
                self.keyspace
            ))
            .await?;
        rows.first().map(|row| row.i32("version")).transpose().map_err(|error| self.failed(error))
    }

    async fn columns(&self) -> Result<Vec<Column>, CassandraError> {
        let rows = self
            .read(&format!(
                "SELECT table_name, column_name, type FROM system_schema.columns WHERE \
                 keyspace_name = '{}'",
                self.keyspace
            ))
            .await?;
        let column = |row: &Row| -> Result<Column, StoreError> {
            Ok(Column {
                table: row.text("table_name")?,
                name: row.text("column_name")?,
                kind: row.text("type")?,
            })
        };
        rows.iter().map(column).collect::<Result<_, _>>().map_err(|error| self.failed(error))
    }

    async fn lock(&self) -> Result<Turn, CassandraError> {
        let name = format!("{:016x}", RandomState::new().build_hasher().finish());
        let cql = format!(
            "INSERT INTO {}.schema_version (name, owner) VALUES ('lock', '{name}') IF NOT EXISTS \
             USING TTL {}",
            self.keyspace,
            LOCK.as_secs()
        );
        // Refused, it shows the row that is there; with an owner that is us when it was repeated.
        let rows = self.write(&cql).await?;
        let owner = rows.first().map(|row| row.optional_text("owner")).transpose();
        match owner.map_err(|error| self.failed(error))?.flatten() {
            Some(owner) if owner != name => Ok(Turn::Taken),
            _ => Ok(Turn::Ours(name)),
        }
    }

    async fn unlock(&self, name: &str) {
        let cql = format!(
            "DELETE FROM {}.schema_version WHERE name = 'lock' IF owner = '{name}'",
            self.keyspace
        );
        if let Err(error) = self.db.simple(&cql).await {
            say::warn!("the lock of the schema stays for {LOCK:?}: {error}");
        }
    }

    /// Waits until all nodes have the schema, as long as that makes sense.
    async fn agree(&self) {
        let end = Instant::now() + AGREEMENT;
        // Each question may be answered by another node, which does not list itself.
        let mut agreed = 0;
        while agreed < 3 && Instant::now() < end {
            if self.is_agreed().await {
                agreed += 1;
            } else {
                agreed = 0;
                sleep(PAUSE).await;
            }
        }
        if agreed < 3 {
            say::warn!("not all nodes of Cassandra have the schema after {AGREEMENT:?}");
        }
    }

    async fn is_agreed(&self) -> bool {
        let mut versions = Vec::new();
        for table in ["local", "peers"] {
            let cql = format!("SELECT JSON schema_version FROM system.{table}");
            let Ok(rows) = self.db.simple(&cql).await else { return false };
            versions.extend(rows.iter().map(|row| row.text("[json]").unwrap_or_default()));
        }
        versions.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// A statement that may be repeated.
    async fn patiently(&self, cql: &str) -> Result<Vec<Row>, StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.db.simple(cql).await {
                Err(error) if attempt < ATTEMPTS => {
                    log::debug!("{cql}: {error}");
                    sleep(PAUSE * attempt).await;
                }
                answer => return answer,
            }
        }
    }

    async fn read(&self, cql: &str) -> Result<Vec<Row>, CassandraError> {
        self.patiently(cql).await.map_err(|error| self.failed(error))
    }

    async fn write(&self, cql: &str) -> Result<Vec<Row>, CassandraError> {
        self.patiently(cql).await.map_err(|error| self.failed(error))
    }

    async fn change(&self, cql: &str) -> Result<(), CassandraError> {
        self.patiently(cql).await.map(drop).map_err(|error| {
            CassandraError(format!(
                "the schema of keyspace {} cannot be made: {}; correct that, or make it yourself \
                 (docs/storage.md) and set cassandra.create_schema = false",
                self.keyspace,
                reason(&error)
            ))
        })
    }

    fn failed(&self, error: StoreError) -> CassandraError {
        CassandraError(format!(
            "the schema of keyspace {} cannot be read: {}; see that a majority of the replicas is \
             up and that this user may read it, and start again",
            self.keyspace,
            reason(&error)
        ))
    }
}

fn reason(error: &StoreError) -> &str {
    match error {
        StoreError::Unavailable(why) | StoreError::Unusable(why) => why,
    }
}
