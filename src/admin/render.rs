//! What people see of the admin socket's answers: the drawn tree, tables, and a record a line.
//!
//! Nothing a client of the broker chose reaches a terminal raw: control characters and bytes that
//! are no UTF-8 are escaped, reversibly.

use std::fmt::{self, Write as _};

use comfy_table::{CellAlignment, Table, presets};

use super::rows::{ActorRow, ConnectionRow, Nodes, TailRow, Tree};
use super::wire::Status;

/// One record as one line without its end: offset, time (UTC), key, MQTT topic and payload,
/// separated by tabs. No key is `-`, an empty one is empty, a key that is a `-` is `\x2d`.
pub fn record(row: &TailRow) -> String {
    let key = match row.key.as_deref() {
        None => "-".to_owned(),
        Some(b"-") => r"\x2d".to_owned(),
        Some(key) => escape(key),
    };
    let time = jiff::Timestamp::from_millisecond(row.timestamp_ms)
        .map_or_else(|_| format!("{}ms", row.timestamp_ms), |time| format!("{time:.3}"));
    let topic = escape(row.mqtt_topic.as_bytes());
    format!("{}\t{time}\t{key}\t{topic}\t{}", row.offset, escape(&row.payload))
}

/// UTF-8 as it is, except control and direction characters (`\n`, `\t`, `\u{1b}`) and `\` (`\\`);
/// other bytes as `\xff`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // U+200E.. and U+202A.., U+2066.. turn the direction of a terminal's line around.
            let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || turns || c == '\\' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}"); // writing to a String does not fail
        }
    }
    out
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", actors(&self.actors))?;
        let Some(page) = &self.connections else {
            return Ok(());
        };
        // The command line counts pages from 1.
        let number = page.page + 1;
        if page.rows.is_empty() {
            return writeln!(f, "\nno connections on page {number}");
        }
        writeln!(f, "\nconnections, page {number}")?;
        writeln!(f, "{}", connections(&page.rows))?;
        if page.rows.len() == page.page_size {
            writeln!(f, "there may be more: --page {}", number + 1)?;
        }
        Ok(())
    }
}

/// The actor tree as a table without an end of line. Paths are whole, as a fault takes them.
pub fn actors(rows: &[ActorRow]) -> String {
    let mut table = table(
        &["actor", "state", "mailbox", "restarts", "handled", "longest", "last exit", ""],
        2..6,
    );
    for (i, row) in rows.iter().enumerate() {
        table.add_row([
            format!("{}{}", branch(rows, i), row.path),
            row.state.clone(),
            row.mailbox.to_string(),
            row.restarts.to_string(),
            row.handled.to_string(),
            duration(row.longest_us),
            escape(row.last_exit.as_deref().unwrap_or_default().as_bytes()),
            escape(row.detail.as_bytes()),
        ]);
    }
    table.trim_fmt()
}

/// A page of connections as a table without an end of line.
pub fn connections(rows: &[ConnectionRow]) -> String {
    let heads = [
        "client id",
        "manager",
        "address",
        "clean",
        "connected",
        "in flight",
        "queued",
        "output bytes",
    ];
    let mut table = table(&heads, 4..8);
    for row in rows {
        table.add_row([
            escape(row.client_id.as_bytes()),
            format!("connection-manager/{}", row.manager),
            row.address.clone(),
            if row.clean { "yes" } else { "no" }.to_owned(),
            format!("{} s", row.connected_ms / 1_000),
            row.inflight.to_string(),
            row.queued.to_string(),
            row.output_bytes.to_string(),
        ]);
    }
    table.trim_fmt()
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zookeeper = if self.current { "current" } else { "away" };
        writeln!(f, "generation {}, zookeeper {zookeeper}", self.generation)?;
        let heads = ["node", "incarnation", "peer", "mqtt", "version", "connections", "state"];
        let mut table = table(&heads, 5..6);
        for row in &self.nodes {
            // What other nodes say of themselves is theirs.
            let escape = |text: &str| escape(text.as_bytes());
            table.add_row([
                escape(&row.node_id),
                row.incarnation.to_string(),
                escape(&row.peer),
                escape(&row.mqtt.join(", ")),
                escape(&row.version),
                if row.max_connections == 0 {
                    String::new()
                } else {
                    format!("{}/{}", row.connections, row.max_connections)
                },
                escape(&row.state),
            ]);
        }
        writeln!(f, "{}", table.trim_fmt())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |reasons: &[String]| {
            if reasons.is_empty() {
                "yes".to_owned()
            } else {
                format!("no: {}", reasons.join("; "))
            }
        };
        let node = &self.node;
        writeln!(f, "node           {}", node.node_id)?;
        writeln!(f, "version        {}", self.version)?;
        writeln!(f, "process        {}, up {} s", self.pid, self.uptime_s)?;
        writeln!(f, "listeners      {}", node.listeners.join(", "))?;
        writeln!(f, "admin http     {}", self.http.as_deref().unwrap_or("off"))?;
        writeln!(f, "ready          {}", state(&self.not_ready))?;
        writeln!(f, "healthy        {}", state(&self.not_healthy))?;
        if node.log.starts_with(&node.log_kind) {
            writeln!(f, "log            {}", node.log)?;
        } else {
            writeln!(f, "log            {}: {}", node.log_kind, node.log)?;
        }
        match self.rates {
            Some((read, sent)) => writeln!(f, "messages       {read} in, {sent} out a second")?,
            None => writeln!(f, "messages       not known yet")?,
        }
        let dropped: Vec<String> =
            self.dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let dropped = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
        writeln!(f, "dropped        {dropped}")?;
        writeln!(f, "connections    {}", self.connections)?;
        writeln!(f, "sessions       {}", self.sessions)?;
        writeln!(f, "subscriptions  {}", self.subscriptions)?;
        writeln!(f, "retained       {}", self.retained)?;
        writeln!(f, "outbox         {} records, {} bytes", self.outbox_records, self.outbox_bytes)?;
        writeln!(f, "dead letters   {}", self.dead_letters)?;
        writeln!(f, "restarts       {}", self.restarts)
    }
}

pub(super) fn table(heads: &[&str], right: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The lines before row `i`: one piece a level below the root.
fn branch(rows: &[ActorRow], i: usize) -> String {
    // Whether another child of the same parent follows, at this level.
    let goes_on = |level: usize| {
        rows[i + 1..]
            .iter()
            .take_while(|below| below.indent >= level)
            .any(|below| below.indent == level)
    };
    let own = rows[i].indent;
    (1..=own)
        .map(|level| match (level == own, goes_on(level)) {
            (true, true) => "├─ ",
            (true, false) => "└─ ",
            (false, true) => "│  ",
            (false, false) => "   ",
        })
        .collect()
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}
