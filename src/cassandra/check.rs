//! What `broker storage check` looks at in Cassandra: schema, copies and consistency, a row written
//! and read, and on every node its clock and its commit log.
//!
//! Invariants: no incarnation is begun and nothing of a node's is read or written, so a node may
//! run meanwhile. The probe stands where no node looks: in a shard of `retained` that there is not,
//! and under a client id that MQTT does not allow.
//! Bounds: `MAX_NODES` are asked, one after another.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use hydrant_actors::ports::StoreError;
use serde::Deserialize;

use super::columns::{blob, int, long, text};
use super::db::{self, Bound, Db, Row};
use super::options::{CassandraOptions, Level};
use super::schema::{self, Replication};
use super::statements::{Statement as S, TABLES};
use super::transport::{Manager, Transport};

/// Nodes whose clock and commit log are looked at.
const MAX_NODES: usize = 64;
/// Milliseconds that a clock may be off.
const MAX_SKEW: i64 = 500;
/// Not among the shards of `retained`.
const PROBE_SHARD: i32 = -1;
/// [MQTT-1.5.3-2] allows no client such an id.
const PROBE_CLIENT: &str = "\0probe";

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, and may lose something or stop working some day.
    Warn,
    /// It does not work.
    Fail,
}

/// One line of `broker storage check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub grade: Grade,
    /// What was looked at.
    pub name: &'static str,
    /// What was found and, where it is not ok, what to do.
    pub sentence: String,
}

impl Finding {
    /// A line.
    pub fn new(grade: Grade, name: &'static str, sentence: impl Into<String>) -> Self {
        Self { grade, name, sentence: sentence.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        write!(f, "{grade} {}: {}", self.name, self.sentence)
    }
}

/// Looks at everything; each finding goes to `found` as it is made.
pub async fn run(options: &CassandraOptions, found: &mut dyn FnMut(Finding)) {
    let strict = options.create_schema;
    // Changes no schema.
    let options = CassandraOptions { create_schema: false, ..options.clone() };
    let db = match Db::connect(&options).await {
        Ok(db) => db,
        Err(error) => return found(Finding::new(Grade::Fail, "connection", error.to_string())),
    };
    let answers = format!("Cassandra answers; data centre {}", db.local_dc());
    found(Finding::new(Grade::Ok, "connection", answers));
    copies(&db, &options, strict, found).await;
    match schema::ensure(&db, &options).await {
        Ok(()) => {
            let tables = TABLES.len() + 1;
            let sentence = format!("version {}, {tables} tables", schema::VERSION);
            found(Finding::new(Grade::Ok, "schema", sentence));
            found(match probe(&db).await {
                Ok(()) => Finding::new(
                    Grade::Ok,
                    "probe",
                    "a row was written, read and deleted, and one with a condition too",
                ),
                Err(why) => Finding::new(Grade::Fail, "probe", why),
            });
        }
        Err(error) => found(Finding::new(Grade::Fail, "schema", error.to_string())),
    }
    nodes(&options, found).await;
}

/// Copies of what is written, and what the consistency levels make of them.
async fn copies(db: &Db, options: &CassandraOptions, strict: bool, found: &mut dyn FnMut(Finding)) {
    let (keyspace, dc) = (db.keyspace(), db.local_dc());
    let fail = |sentence: String| Finding::new(Grade::Fail, "replication", sentence);
    match schema::replication(db, options).await {
        // The check of the schema says so.
        Ok(None) => return,
        Err(error) => return found(fail(error.to_string())),
        Ok(Some(replication)) => {
            let wanted = options.replication_factor;
            if let Some(wrong) = replication.wrong(keyspace, dc, wanted, strict) {
                return found(fail(wrong));
            }
            found(consistency(options, &Copies::new(&replication, dc)));
        }
    }
    let cql = format!(
        "SELECT JSON durable_writes FROM system_schema.keyspaces WHERE keyspace_name = '{keyspace}'"
    );
    let rows = db.simple(&cql).await.unwrap_or_default();
    if rows.iter().any(|row| row.text("[json]").is_ok_and(|json| json.contains("false"))) {
        found(Finding::new(
            Grade::Fail,
            "durable_writes",
            format!(
                "keyspace {keyspace} bypasses the commit log, so what was acknowledged is lost \
                 with power: ALTER KEYSPACE {keyspace} WITH durable_writes = true"
            ),
        ));
    }
}

/// Replicas of a row.
struct Copies {
    local: u16,
    /// Of each other data centre.
    elsewhere: Vec<u16>,
}

impl Copies {
    fn new(replication: &Replication, dc: &str) -> Self {
        Self {
            local: replication.replicas(dc).unwrap_or_default(),
            elsewhere: replication.elsewhere(dc),
        }
    }

    fn all(&self) -> u16 {
        self.local + self.elsewhere.iter().sum::<u16>()
    }

    /// Replicas that have answered for sure: of the local data centre, and of all.
    fn sure(&self, level: Level) -> (u16, u16) {
        let most = |replicas: u16| replicas / 2 + 1;
        let away = self.all() - self.local;
        match level {
            Level::One => (1_u16.saturating_sub(away), 1),
            Level::LocalOne => (1, 1),
            Level::Quorum => (most(self.all()).saturating_sub(away), most(self.all())),
            Level::LocalQuorum => (most(self.local), most(self.local)),
            Level::EachQuorum => (
                most(self.local),
                most(self.local) + self.elsewhere.iter().map(|dc| most(*dc)).sum::<u16>(),
            ),
            Level::All => (self.local, self.all()),
        }
    }

    /// Whether a read meets at least one replica that has what was written.
    fn meet(&self, write: Level, read: Level) -> bool {
        let (write, read) = (self.sure(write), self.sure(read));
        write.0 + read.0 > self.local || write.1 + read.1 > self.all()
    }

    /// Replicas that can be away before writes stop. Conditional writes always need a majority.
    fn spare(&self, level: Level) -> u16 {
        let of = match level {
            Level::LocalOne | Level::LocalQuorum | Level::EachQuorum => self.local,
            Level::One | Level::Quorum | Level::All => self.all(),
        };
        let needed = match level {
            Level::EachQuorum => self.sure(level).0,
            level => self.sure(level).1,
        };
        of.saturating_sub(needed.max(of / 2 + 1))
    }
}

/// As it stands in the configuration.
const fn word(level: Level) -> &'static str {
    match level {
        Level::One => "one",
        Level::LocalOne => "local_one",
        Level::Quorum => "quorum",
        Level::LocalQuorum => "local_quorum",
        Level::EachQuorum => "each_quorum",
        Level::All => "all",
    }
}

fn consistency(options: &CassandraOptions, copies: &Copies) -> Finding {
    let (write, read) = (options.write_consistency, options.read_consistency);
    let (all, held) = (copies.all(), copies.sure(write).1);
    let (meet, spare) = (copies.meet(write, read), copies.spare(write));
    let (write, read) = (word(write), word(read));
    let warn = |sentence: String| Finding::new(Grade::Warn, "replication", sentence);
    if all == 1 {
        return warn(
            "there is one copy of everything: what was acknowledged is lost with its disk, and \
             nothing is stored while its node is away; use replication factor 3"
                .to_owned(),
        );
    }
    if !meet {
        return warn(format!(
            "with write_consistency {write} and read_consistency {read} on {all} copies a read \
             can miss what was acknowledged: use local_quorum for both"
        ));
    }
    if held < 2 {
        return warn(format!(
            "with write_consistency {write} what was acknowledged may stand on 1 of {all} copies \
             only, and be lost with it: use local_quorum"
        ));
    }
    match spare {
        0 => warn(format!(
            "with write_consistency {write} on {all} copies nothing is stored while a node that \
             has one is away: use local_quorum and replication factor 3"
        )),
        spare => Finding::new(
            Grade::Ok,
            "replication",
            format!(
                "what is acknowledged stands on {held} of {all} copies at least; {spare} of them \
                 may be away"
            ),
        ),
    }
}

/// A row that is written, read and deleted; and one with a condition.
async fn probe(db: &Db) -> Result<(), String> {
    db.prepare().await.map_err(|error| error.to_string())?;
    let topic = format!("probe/{:016x}", rand::random::<u64>());
    let step = |what: &'static str| {
        move |error: StoreError| {
            format!(
                "{what} failed ({error}): see that enough replicas are up and that this user may do it"
            )
        }
    };
    let row = vec![int(PROBE_SHARD), text(&topic), blob(topic.clone().into_bytes()), long(1)];
    let (put, delete) = (S::PutRetained, S::DeleteRetained);
    db.write(Bound { statement: put, values: row }).await.map_err(step("writing a row"))?;
    let read = read_back(db, &topic).await.map_err(step("reading a row"));
    // Whatever was read.
    let row = vec![long(2), int(PROBE_SHARD), text(&topic)];
    let deleted = db.write(Bound { statement: delete, values: row }).await;
    if !read? {
        return Err("the row that was written cannot be read: compare read_consistency and \
                    write_consistency with the keyspace's replication"
            .to_owned());
    }
    deleted.map_err(step("deleting a row"))?;
    if read_back(db, &topic).await.map_err(step("reading a row"))? {
        return Err("the row that was deleted can still be read: compare read_consistency and \
                    write_consistency with the keyspace's replication"
            .to_owned());
    }
    let values = vec![text(PROBE_CLIENT), long(0), long(0), long(0), long(0)];
    let first = db.conditional(Bound { statement: S::FirstEpoch, values }).await;
    first.map_err(step("a conditional write"))?;
    let values = vec![text(PROBE_CLIENT), long(0)];
    let dropped = db.conditional(Bound { statement: S::DropEpoch, values }).await;
    // Applied or not: another check may run at the same time.
    dropped.map_err(step("a conditional delete")).map(drop)
}

async fn read_back(db: &Db, topic: &str) -> Result<bool, StoreError> {
    let rows = db.rows(Bound { statement: S::Retained, values: vec![int(PROBE_SHARD)] }).await?;
    let is_it = |row: &Row| row.blob("message").is_ok_and(|message| message == topic.as_bytes());
    Ok(rows.iter().any(is_it))
}

/// Every node that can be found: clock and commit log.
async fn nodes(options: &CassandraOptions, found: &mut dyn FnMut(Finding)) {
    let (manager, addresses, _) = match db::resolve(options).await {
        Ok(resolved) => resolved,
        Err(error) => return found(Finding::new(Grade::Fail, "nodes", error)),
    };
    let mut waiting = VecDeque::from(addresses);
    let mut known: BTreeSet<SocketAddr> = waiting.iter().copied().collect();
    let mut asked = 0;
    while let Some(address) = waiting.pop_front() {
        if asked == MAX_NODES {
            let sentence = format!("only {MAX_NODES} nodes were looked at, and there are more");
            return found(Finding::new(Grade::Warn, "nodes", sentence));
        }
        asked += 1;
        match node(&manager, address, found).await {
            Ok(peers) => waiting.extend(peers.into_iter().filter(|peer| known.insert(*peer))),
            Err(why) => found(Finding::new(
                Grade::Warn,
                "node",
                format!("{address} cannot be asked ({why}): see whether it is up"),
            )),
        }
    }
}

/// One node; the addresses of those it knows.
async fn node(
    manager: &Manager,
    address: SocketAddr,
    found: &mut dyn FnMut(Finding),
) -> Result<Vec<SocketAddr>, String> {
    let transport = manager.connect(None, None, address).await;
    let transport = transport.map_err(|error| db::sentence(&error))?;
    let (before, asked) = (now_ms(), Instant::now());
    let clock = "SELECT toUnixTimestamp(now()) AS ms FROM system.local";
    let rows = db::ask(&transport, clock).await?;
    let round_trip = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
    let theirs = rows.first().ok_or("no row")?.i64("ms").map_err(|error| error.to_string())?;
    let ahead = skew(before, theirs, round_trip);
    found(if ahead.abs() > MAX_SKEW {
        let which = if ahead > 0 { "ahead of" } else { "behind" };
        Finding::new(
            Grade::Warn,
            "clock",
            format!(
                "that of {address} is {} ms {which} ours: no message depends on it, Cassandra's \
                 own conditional writes and this broker's logs do; let NTP set both",
                ahead.abs()
            ),
        )
    } else {
        Finding::new(Grade::Ok, "clock", format!("that of {address} is ours"))
    });
    found(commit_log(&transport, address).await);
    let peers = "SELECT JSON native_address, native_port FROM system.peers_v2";
    let rows = db::ask(&transport, peers).await.unwrap_or_default();
    let peer = |row: &Row| {
        let peer: Peer = serde_json::from_str(&row.text("[json]").ok()?).ok()?;
        Some(SocketAddr::new(peer.native_address.parse().ok()?, peer.native_port))
    };
    Ok(rows.iter().filter_map(peer).collect())
}

/// A row of `system.peers_v2`.
#[derive(Deserialize)]
struct Peer {
    native_address: String,
    native_port: u16,
}

async fn commit_log(transport: &Transport, address: SocketAddr) -> Finding {
    let cql = "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'";
    let rows = db::ask(transport, cql).await;
    let sync = rows.map(|rows| rows.first().and_then(|row| row.text("value").ok()));
    synced(address, sync.as_ref().map(|sync| sync.as_deref().unwrap_or("unknown")))
}

fn synced(address: SocketAddr, sync: Result<&str, &String>) -> Finding {
    let (grade, sentence) = match sync {
        Ok(sync @ ("group" | "batch")) => {
            (Grade::Ok, format!("{address} syncs it before it answers ({sync})"))
        }
        Ok(other) => (
            Grade::Warn,
            format!(
                "{address} has commitlog_sync {other}: what was acknowledged in the seconds before \
                 is lost when all replicas lose power together; set it to group or batch"
            ),
        ),
        Err(why) => (
            Grade::Warn,
            format!(
                "{address} does not say how it syncs its commit log ({why}): see that \
                 commitlog_sync in its cassandra.yaml is group or batch"
            ),
        ),
    };
    Finding::new(grade, "commitlog", sentence)
}

fn now_ms() -> i64 {
    i64::try_from(hydrant_actors::clock::unix_ms()).unwrap_or(i64::MAX)
}

/// Milliseconds that a clock is ahead of ours (behind: negative) at least, when it said `theirs`
/// between our `before` and `round_trip` later.
fn skew(before: i64, theirs: i64, round_trip: i64) -> i64 {
    let off = theirs - (before + round_trip / 2);
    off.signum() * (off.abs() - round_trip / 2).max(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_skew_is_what_the_round_trip_does_not_explain() {
        assert_eq!(skew(1000, 1010, 20), 0);
        assert_eq!(skew(1000, 1020, 20), 0);
        assert_eq!(skew(1000, 1000, 20), 0);
        assert_eq!(skew(1000, 2010, 20), 990);
        assert_eq!(skew(1000, 10, 20), -990);
        assert_eq!(skew(1000, 1700, 2000), 0);
    }

    fn grade(local: u16, elsewhere: &[u16], write: Level, read: Level) -> (Grade, String) {
        let file = format!(
            "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = \"a\"\n\
             write_consistency = \"{}\"\nread_consistency = \"{}\"\n",
            word(write),
            word(read)
        );
        let sources = Sources { file: Some(("c".to_owned(), file)), ..Sources::default() };
        let options = crate::config::load(&sources).unwrap().config.cassandra.unwrap();
        assert_eq!((options.write_consistency, options.read_consistency), (write, read));
        let copies = Copies { local, elsewhere: elsewhere.to_vec() };
        let found = consistency(&options, &copies);
        (found.grade, found.sentence)
    }

    #[test]
    fn consistency_is_compared_with_the_copies() {
        use Level::{All, EachQuorum, LocalOne, LocalQuorum, One, Quorum};
        for (local, elsewhere, write, read, said) in [
            (1, &[][..], LocalQuorum, LocalQuorum, "one copy"),
            (2, &[], LocalQuorum, LocalQuorum, "nothing is stored while"),
            (2, &[], Quorum, Quorum, "nothing is stored while"),
            (3, &[], One, All, "1 of 3 copies only"),
            (3, &[], LocalOne, LocalOne, "can miss"),
            (3, &[], LocalQuorum, LocalOne, "can miss"),
            (3, &[], All, LocalOne, "nothing is stored while"),
            (3, &[3], LocalQuorum, Quorum, "can miss"),
            (3, &[3], Quorum, LocalQuorum, "can miss"),
        ] {
            let (grade, sentence) = grade(local, elsewhere, write, read);
            assert!(grade == Grade::Warn && sentence.contains(said), "{said}: {sentence}");
        }
        for (local, elsewhere, write, read, held) in [
            (3, &[][..], LocalQuorum, LocalQuorum, "2 of 3 copies at least; 1 of"),
            (5, &[], Quorum, Quorum, "3 of 5 copies at least; 2 of"),
            (3, &[3], LocalQuorum, LocalQuorum, "2 of 6 copies at least; 1 of"),
            (3, &[3], EachQuorum, LocalQuorum, "4 of 6 copies at least; 1 of"),
            (3, &[3], Quorum, Quorum, "4 of 6 copies at least; 2 of"),
        ] {
            let (grade, sentence) = grade(local, elsewhere, write, read);
            assert!(grade == Grade::Ok && sentence.contains(held), "{held}: {sentence}");
        }
    }

    #[test]
    fn a_commit_log_that_is_synced_now_and_then_is_warned_of() {
        let address = ([127, 0, 0, 1], 9042).into();
        for (sync, grade) in [
            (Ok("group"), Grade::Ok),
            (Ok("batch"), Grade::Ok),
            (Ok("periodic"), Grade::Warn),
            (Err(&"no right".to_owned()), Grade::Warn),
        ] {
            let found = synced(address, sync);
            assert_eq!(found.grade, grade, "{found}");
            assert!(found.sentence.contains(sync.unwrap_or("no right")), "{found}");
        }
    }

    #[test]
    fn a_line_names_its_grade() {
        let line = Finding::new(Grade::Fail, "schema", "it is not there").to_string();
        assert_eq!(line, "FAIL schema: it is not there");
    }
}
