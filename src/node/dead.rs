//! The dead letters of this node, for the admin endpoints.

use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::log::{DeadState, Marked, Which};
use hydrant_actors::mailboxes::Mailboxes;
use hydrant_actors::node_tables::NodeTables;
use hydrant_actors::ports::{DeadId, SessionStore};

use crate::admin::{DeadDone, DeadRequest, DeadRow, Reply};

/// How long an answer waits for what was asked for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Dead letters read at once, and their bytes.
const READ_LETTERS: usize = 100;
const READ_BYTES: usize = 4 << 20;
/// Bytes of a text that somebody else has chosen: a page of rows has to be bounded, and `broker dead list` shows less.
const SHOWN: usize = 300;

/// Does what is asked. The error is one sentence for the user.
pub(super) async fn answer(
    shared: Arc<NodeTables>,
    mailboxes: Arc<Mailboxes>,
    store: Arc<dyn SessionStore>,
    request: DeadRequest,
) -> Result<Vec<Reply>, String> {
    match request {
        DeadRequest::List { after, count } => {
            let after = after.map(|id| parse(&id)).transpose()?;
            let rows = list(&shared, &*store, after, count).await?;
            Ok(rows.into_iter().map(Reply::DeadLetter).collect())
        }
        DeadRequest::Replay { ids } => {
            let marked = mailboxes.replay_dead_letters(&shared, &which(ids)?);
            Ok(vec![done(&shared, &mailboxes, marked).await])
        }
        DeadRequest::Drop { ids } => {
            let marked = mailboxes.drop_dead_letters(&shared, &which(ids)?);
            Ok(vec![done(&shared, &mailboxes, marked).await])
        }
    }
}

fn parse(id: &str) -> Result<DeadId, String> {
    id.parse().map_err(|error| format!("{id:?} is none: {error}"))
}

fn which(ids: Option<Vec<String>>) -> Result<Which, String> {
    let Some(ids) = ids else { return Ok(Which::All) };
    Ok(Which::These(ids.iter().map(|id| parse(id)).collect::<Result<_, _>>()?))
}

async fn done(shared: &NodeTables, mailboxes: &Mailboxes, marked: Marked) -> Reply {
    let settled = mailboxes.settle_dead_letters(shared, &marked.ids, PATIENCE).await;
    let shown = |ids: Vec<DeadId>| ids.iter().map(ToString::to_string).collect();
    Reply::DeadDone(DeadDone {
        gone: settled.gone as u64,
        kept: settled.kept as u64,
        pending: settled.pending as u64,
        busy: shown(marked.busy),
        unknown: shown(marked.unknown),
    })
}

fn cut(text: &str) -> String {
    match text.floor_char_boundary(SHOWN) {
        end if end < text.len() => format!("{}...", &text[..end]),
        _ => text.to_owned(),
    }
}

async fn list(
    shared: &NodeTables,
    store: &dyn SessionStore,
    after: Option<DeadId>,
    count: usize,
) -> Result<Vec<DeadRow>, String> {
    let mut rows = Vec::new();
    let mut from = after.map_or(DeadId::default(), DeadId::next);
    while rows.len() < count {
        let limit = (count - rows.len()).min(READ_LETTERS);
        let page = store.dead_letters(from, limit, READ_BYTES).await;
        let page = page.map_err(|error| error.to_string())?;
        let Some(last) = page.last() else { break };
        from = last.id.next();
        for letter in page {
            let state = shared.dead_letters.book.lock().state(letter.id);
            let replaying = match state {
                None | Some(DeadState::Dropping) => continue,
                Some(DeadState::Queued | DeadState::Sending) => true,
                Some(DeadState::Writing | DeadState::Kept) => false,
            };
            rows.push(DeadRow {
                id: letter.id.to_string(),
                refused_ms: letter.refused_ms,
                client_id: letter.record.client_id.to_string(),
                mqtt_topic: cut(&letter.record.mqtt_topic),
                topic: cut(&letter.record.topic),
                qos: letter.record.qos as u8,
                bytes: letter.record.payload.len() as u64,
                replaying,
                reason: letter.reason.to_string(),
            });
        }
    }
    Ok(rows)
}
