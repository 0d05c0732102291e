//! What the schema should be and what is there, compared. Pure.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use crate::cassandra::statements::TABLES;

/// A column, as `system_schema.columns` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) kind: String,
}

/// How a keyspace is replicated.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cassandra) struct Replication {
    /// With the key "class".
    options: BTreeMap<String, String>,
}

impl Replication {
    /// From a row of `SELECT JSON replication`.
    pub(super) fn parse(json: &str) -> Option<Self> {
        let mut row: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_str(json).ok()?;
        Some(Self { options: row.remove("replication")? })
    }

    /// The strategy, without its package.
    pub(super) fn class(&self) -> &str {
        let class = self.options.get("class").map_or("", String::as_str);
        class.rsplit_once('.').map_or(class, |(_, name)| name)
    }

    /// Full replicas in a data centre; `None` with a strategy that does not say.
    pub(in crate::cassandra) fn replicas(&self, dc: &str) -> Option<u16> {
        let key = match self.class() {
            "NetworkTopologyStrategy" => dc,
            // Does not know data centres: right where there is one.
            "SimpleStrategy" => "replication_factor",
            _ => return None,
        };
        let Some(factor) = self.options.get(key) else { return Some(0) };
        // "3/1": three replicas, one of which is transient.
        let mut numbers = factor.split('/').map(|number| number.trim().parse::<u16>().ok());
        let all = numbers.next()??;
        Some(all.saturating_sub(numbers.next().flatten().unwrap_or(0)))
    }

    /// Full replicas in each data centre but this.
    pub(in crate::cassandra) fn elsewhere(&self, dc: &str) -> Vec<u16> {
        if self.class() != "NetworkTopologyStrategy" {
            return Vec::new();
        }
        let others = self.options.keys().filter(|key| *key != "class" && *key != dc);
        others.filter_map(|other| self.replicas(other)).collect()
    }

    /// What is wrong with it and what to do, in a sentence. `strict`: it has to be `wanted`.
    pub(in crate::cassandra) fn wrong(
        &self,
        keyspace: &str,
        dc: &str,
        wanted: u16,
        strict: bool,
    ) -> Option<String> {
        let (why, or) = match self.replicas(dc) {
            Some(0) => (
                format!("keyspace {keyspace} has no replica in data centre \"{dc}\""),
                "set cassandra.local_dc to one that has".to_owned(),
            ),
            Some(found) if strict && found != wanted => (
                format!(
                    "keyspace {keyspace} has replication factor {found} in data centre \"{dc}\", \
                     and cassandra.replication_factor is {wanted}"
                ),
                format!("set cassandra.replication_factor = {found}"),
            ),
            Some(_) => return None,
            None => (
                format!("keyspace {keyspace} is replicated by {}", self.class()),
                "use another keyspace".to_owned(),
            ),
        };
        // Other data centres keep what they have.
        let mut replication = format!("'class': 'NetworkTopologyStrategy', '{dc}': {wanted}");
        if self.class() == "NetworkTopologyStrategy" {
            let others = self.options.iter().filter(|(key, _)| *key != "class" && *key != dc);
            for (other, factor) in others {
                replication += &format!(", '{other}': '{factor}'");
            }
        }
        Some(format!(
            "{why}: ALTER KEYSPACE {keyspace} WITH replication = {{{replication}}} and repair it, \
             or {or}"
        ))
    }
}

/// The table of version and lock. Its id is computed from the keyspace's name, so that nodes of
/// Cassandra that make it at the same time make the same table.
pub(super) fn version_table(keyspace: &str) -> String {
    let hash =
        format!("{:032x}", xxh3_128(format!("hydrant/{keyspace}/schema_version").as_bytes()));
    // The form of a random UUID (RFC 9562, version 8: whatever one likes).
    let id = format!(
        "{}-{}-8{}-8{}-{}",
        &hash[..8],
        &hash[8..12],
        &hash[13..16],
        &hash[17..20],
        &hash[20..]
    );
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.schema_version (name text PRIMARY KEY, version int, \
         owner text) WITH ID = '{id}'"
    )
}

/// The statement with the keyspace before the table's name.
pub(super) fn qualified(table: &str, keyspace: &str) -> String {
    table.replacen("EXISTS ", &format!("EXISTS {keyspace}."), 1)
}

/// Whether the table is there.
pub(super) fn has_table(columns: &[Column], table: &str) -> bool {
    columns.iter().any(|column| column.table == table)
}

/// The statements of the tables that are not there.
pub(super) fn missing_tables(columns: &[Column]) -> Vec<&'static str> {
    let missing = |table: &&&str| name(table).is_none_or(|name| !has_table(columns, name));
    TABLES.iter().filter(missing).copied().collect()
}

/// The columns that are not there of tables that are.
pub(super) fn missing_columns(columns: &[Column]) -> Vec<Column> {
    let is_there = |wanted: &Column| {
        let mut known = columns.iter().filter(|column| column.table == wanted.table);
        !has_table(columns, &wanted.table) || known.any(|column| column.name == wanted.name)
    };
    TABLES.iter().flat_map(|table| columns_of(table)).filter(|wanted| !is_there(wanted)).collect()
}

/// The first column of [`TABLES`] that is not there, or has another type.
pub(super) fn missing(columns: &[Column]) -> Option<Column> {
    TABLES.iter().flat_map(|table| columns_of(table)).find(|column| !columns.contains(column))
}

/// What stands between the name and the options: name and definitions.
fn parts(table: &str) -> Option<(&str, &str)> {
    let (_, rest) = table.split_once("EXISTS ")?;
    rest.split_once(" (")
}

fn name(table: &str) -> Option<&str> {
    parts(table).map(|(name, _)| name)
}

/// The columns of a `CREATE TABLE` as they are written in [`TABLES`]: no type with a comma.
fn columns_of(table: &str) -> Vec<Column> {
    let Some((name, rest)) = parts(table) else { return Vec::new() };
    rest.split(", ")
        .take_while(|definition| !definition.starts_with("PRIMARY KEY"))
        .filter_map(|definition| {
            let mut words = definition.trim_end_matches(')').split(' ');
            Some(Column {
                table: name.to_owned(),
                name: words.next()?.to_owned(),
                kind: words.next()?.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn all() -> Vec<Column> {
        TABLES.iter().flat_map(|table| columns_of(table)).collect()
    }

    #[test]
    fn every_table_names_its_columns() {
        for table in TABLES {
            let name = name(table).unwrap();
            let columns = columns_of(table);
            assert!(columns.len() >= 2, "{table}");
            for column in &columns {
                let legal = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                assert!(legal(&column.name) && legal(&column.kind), "{column:?}");
            }
            assert!(
                qualified(table, "ks")
                    .starts_with(&format!("CREATE TABLE IF NOT EXISTS ks.{name} ("))
            );
        }
        let names: Vec<String> = columns_of(TABLES[0]).into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["name", "value"]);
        assert!(all().contains(&Column {
            table: "journal".into(),
            name: "statements".into(),
            kind: "blob".into()
        }));
    }

    #[test]
    fn what_is_missing_is_found() {
        let mut columns = all();
        assert_eq!(missing(&columns), None);
        assert!(missing_tables(&columns).is_empty());
        assert_eq!(missing_tables(&[]).len(), TABLES.len());
        columns[1].kind = "counter".to_owned();
        assert_eq!(missing(&columns).unwrap().name, "value");
        assert!(missing_tables(&columns).is_empty() && missing_columns(&columns).is_empty());
        columns.retain(|column| column.name != "holder");
        let [holder] = &missing_columns(&columns)[..] else { panic!("one column") };
        assert_eq!((&*holder.table, &*holder.kind), ("session_epoch", "bigint"));
        columns.retain(|column| column.table != "will");
        assert_eq!(missing_tables(&columns).len(), 1);
    }

    #[test]
    fn replicas_of_a_data_centre() {
        let parse = |options: &str| {
            Replication::parse(&format!("{{\"replication\": {{{options}}}}}")).unwrap()
        };
        let network = parse(
            r#""class": "org.apache.cassandra.locator.NetworkTopologyStrategy", "a": "3", "b": "3/1""#,
        );
        assert_eq!(network.class(), "NetworkTopologyStrategy");
        assert_eq!([network.replicas("a"), network.replicas("b")], [Some(3), Some(2)]);
        assert_eq!(network.replicas("c"), Some(0));
        assert_eq!([network.elsewhere("a"), network.elsewhere("c")], [vec![2], vec![3, 2]]);
        let simple = parse(r#""class": "SimpleStrategy", "replication_factor": "1""#);
        assert_eq!(simple.replicas("a"), Some(1));
        assert_eq!(parse(r#""class": "x.LocalStrategy""#).replicas("a"), None);
        assert_eq!(Replication::parse("{}"), None);
    }

    #[test]
    fn the_wrong_replication_comes_with_what_to_do() {
        let found = Replication::parse(
            r#"{"replication": {"class": "NetworkTopologyStrategy", "a": "2", "b": "3"}}"#,
        )
        .unwrap();
        assert_eq!(found.wrong("ks", "a", 2, true), None);
        assert_eq!(found.wrong("ks", "a", 3, false), None);
        let factor = found.wrong("ks", "a", 3, true).unwrap();
        assert!(factor.contains("has replication factor 2 in data centre \"a\""), "{factor}");
        assert!(
            factor.contains(
                "'a': 3, 'b': '3'} and repair it, or set cassandra.replication_factor = 2"
            ),
            "{factor}"
        );
        for strict in [true, false] {
            let nowhere = found.wrong("ks", "c", 1, strict).unwrap();
            assert!(nowhere.contains("has no replica in data centre \"c\""), "{nowhere}");
            assert!(nowhere.contains("'c': 1, 'a': '2', 'b': '3'}"), "{nowhere}");
        }
        let odd = Replication::parse(r#"{"replication": {"class": "x.EverywhereStrategy"}}"#);
        let odd = odd.unwrap().wrong("ks", "a", 1, true).unwrap();
        assert!(odd.contains("is replicated by EverywhereStrategy"), "{odd}");
    }

    #[test]
    fn the_table_of_the_lock_has_the_same_id_for_everybody() {
        let table = version_table("one");
        assert_eq!(table, version_table("one"));
        let id = |table: &str| table.rsplit('\'').nth(1).unwrap().to_owned();
        let uuid = id(&table);
        assert_ne!(uuid, id(&version_table("two")));
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
