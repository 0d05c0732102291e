//! `broker dead`: the dead letters of a running node, over the admin socket. The command line's
//! end of it, and how it is shown.
//!
//! Bounds: a page of [`MAX_PAGE_SIZE`] rows; `IDS_AT_ONCE` ids in a request.

use std::fmt;
use std::path::Path;

use hydrant_actors::ports::DeadId;

use super::client::{ClientError, ask};
use super::render::{escape, table};
use super::rows::{DeadDone, DeadRequest, DeadRow};
use super::wire::{MAX_PAGE_SIZE, Reply, Request};

/// Ids in one request: below the smallest `admin.max_request_size`, with the rest of the line.
const IDS_AT_ONCE: usize = 10;
/// What a terminal shows of one column.
const SHOWN: usize = 200;

/// A page of dead letters; its `Display` is a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadPage {
    /// At most as many as were asked for.
    pub rows: Vec<DeadRow>,
    /// How many were.
    pub count: usize,
}

/// A page of the dead letters of the node with this data directory.
///
/// # Errors
/// [`ClientError`].
pub fn list(data_dir: &Path, after: Option<DeadId>, count: usize) -> Result<DeadPage, ClientError> {
    let mut rows = Vec::new();
    let after = after.map(|id| id.to_string());
    let action = DeadRequest::List { after, count: count.min(MAX_PAGE_SIZE) };
    ask(data_dir, &Request::Dead { action }, |reply| {
        if let Reply::DeadLetter(row) = reply {
            rows.push(row);
        }
    })?;
    Ok(DeadPage { rows, count })
}

/// Sends dead letters to the log again; no ids: all of them.
///
/// # Errors
/// [`ClientError`].
pub fn replay(data_dir: &Path, ids: &[DeadId]) -> Result<DeadDone, ClientError> {
    each(data_dir, ids, |ids| DeadRequest::Replay { ids })
}

/// Removes dead letters; no ids: all of them.
///
/// # Errors
/// [`ClientError`].
pub fn remove(data_dir: &Path, ids: &[DeadId]) -> Result<DeadDone, ClientError> {
    each(data_dir, ids, |ids| DeadRequest::Drop { ids })
}

fn each(
    data_dir: &Path,
    ids: &[DeadId],
    request: impl Fn(Option<Vec<String>>) -> DeadRequest,
) -> Result<DeadDone, ClientError> {
    let mut all = DeadDone::default();
    let mut parts: Vec<Option<Vec<String>>> = ids
        .chunks(IDS_AT_ONCE)
        .map(|ids| Some(ids.iter().map(ToString::to_string).collect()))
        .collect();
    if ids.is_empty() {
        parts.push(None);
    }
    for part in parts {
        let mut answer = None;
        ask(data_dir, &Request::Dead { action: request(part) }, |reply| {
            if let Reply::DeadDone(done) = reply {
                answer = Some(done);
            }
        })?;
        let done = answer.ok_or_else(|| ClientError::Protocol("no answer came".to_owned()))?;
        all.gone += done.gone;
        all.kept += done.kept;
        all.pending += done.pending;
        all.busy.extend(done.busy);
        all.unknown.extend(done.unknown);
    }
    Ok(all)
}

impl DeadDone {
    /// What a person is told: what was done, and what was not (then the command fails).
    pub fn report(&self, done: &str) -> (String, Option<String>) {
        let mut said = format!("{} {done}", self.gone);
        if self.pending > 0 {
            said.push_str(&format!(
                ", {} under way: `broker dead list` shows those that are left",
                self.pending
            ));
        }
        let mut wrong = Vec::new();
        if self.kept > 0 {
            wrong.push(format!("{} refused again: `broker dead list` shows why", self.kept));
        }
        if !self.busy.is_empty() {
            wrong.push(format!("under way already: {}", self.busy.join(", ")));
        }
        if !self.unknown.is_empty() {
            wrong.push(format!("no such dead letters: {}", self.unknown.join(", ")));
        }
        (said, (!wrong.is_empty()).then(|| wrong.join("; ")))
    }
}

impl fmt::Display for DeadPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.rows.last() else { return writeln!(f, "no dead letters") };
        let heads =
            ["id", "refused", "client id", "MQTT topic", "log topic", "QoS", "bytes", "reason"];
        let mut table = table(&heads, 5..7);
        for row in &self.rows {
            let time = i64::try_from(row.refused_ms).ok();
            let time = time.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
            let shown = |text: &str| {
                let end = text.char_indices().nth(SHOWN).map(|(at, _)| at);
                let cut = end.map_or(text, |end| &text[..end]);
                format!("{}{}", escape(cut.as_bytes()), if end.is_some() { "..." } else { "" })
            };
            let replaying = if row.replaying { "(on its way again) " } else { "" };
            table.add_row([
                row.id.clone(),
                time.map_or_else(|| format!("{}ms", row.refused_ms), |time| format!("{time:.0}")),
                shown(&row.client_id),
                shown(&row.mqtt_topic),
                shown(&row.topic),
                row.qos.to_string(),
                row.bytes.to_string(),
                format!("{replaying}{}", shown(&row.reason)),
            ]);
        }
        writeln!(f, "{}", table.trim_fmt())?;
        if self.rows.len() >= self.count {
            writeln!(f, "there may be more: --after {}", last.id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_nothing_raw_and_says_how_to_go_on() {
        assert_eq!(DeadPage::default().to_string(), "no dead letters\n");
        let row = DeadRow {
            id: "19a3f2c1b40-2-1f-00001d9e02a4b8f6".to_owned(),
            refused_ms: 1_700_000_000_123,
            client_id: "a\u{1b}[2J".to_owned(),
            mqtt_topic: "x".repeat(300),
            topic: "t".to_owned(),
            qos: 1,
            bytes: 77,
            replaying: true,
            reason: "too large".to_owned(),
        };
        let mut page = DeadPage { rows: vec![row], count: 1 };
        let shown = page.to_string();
        assert!(shown.contains(r"a\u{1b}[2J") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("2023-11-14T22:13:20Z"), "{shown}");
        assert!(shown.contains(&format!("{}...", "x".repeat(200))), "{shown}");
        assert!(shown.contains("(on its way again) too large"), "{shown}");
        let more = "there may be more: --after 19a3f2c1b40-2-1f-00001d9e02a4b8f6\n";
        assert!(shown.ends_with(more), "{shown}");
        page.count = 2;
        assert!(!page.to_string().contains("more"));
    }

    #[test]
    fn what_was_not_done_is_an_error() {
        let done = DeadDone { gone: 2, ..DeadDone::default() };
        assert_eq!(done.report("dropped"), ("2 dropped".to_owned(), None));
        let done = DeadDone { pending: 3, kept: 1, unknown: vec!["x".to_owned()], ..done };
        let (said, wrong) = done.report("delivered");
        assert!(said.starts_with("2 delivered, 3 under way"), "{said}");
        let wrong = wrong.unwrap_or_default();
        assert_eq!(wrong, "1 refused again: `broker dead list` shows why; no such dead letters: x");
    }
}
