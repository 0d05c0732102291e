//! The node's end of `broker tail`: streams records of the embedded log and follows its end.
//!
//! A group starts where it left off; its first start without a committed offset commits where it
//! begins, so that records which come between two runs are not skipped. What is committed was
//! printed: a group reads at least once.
//!
//! Bounds: one batch in memory, of about [`BATCH_BYTES`] or one record if that is larger. A client
//! that does not read is waited for; the log does not know of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::peer::Peer;
use super::view::TailSource;
use super::wire::{FollowUp, Reply, TailRequest, read_line};

/// The answer where there is nothing to tail.
pub(super) const NO_EMBEDDED_LOG: &str = "this node has no embedded log (log.kind is not \"embedded\"): read the \
     records with kcat -C -t TOPIC or any other Kafka consumer";

/// A batch this large makes the next one smaller.
const BATCH_BYTES: usize = 1 << 20;
const MAX_BATCH: usize = 512;
/// Appends to any topic wake every tail: this long a pause bounds how often one looks in vain.
const COALESCE: Duration = Duration::from_millis(5);

type Source = Arc<dyn TailSource>;

/// Runs a tail to its count, its client's end or an error, which is one sentence for the user.
/// The outer error is a client that went away.
pub(super) async fn run(
    source: Source,
    request: TailRequest,
    peer: &mut Peer,
    max_line: usize,
) -> io::Result<Result<(), String>> {
    if request.topic.is_empty()
        || request.group.as_ref().is_some_and(String::is_empty)
        || request.count == Some(0)
    {
        return Ok(Err(
            "the topic, the group and the count of a tail must not be empty or 0".to_owned()
        ));
    }
    let mut changed = source.changed();
    let (mut next, notice) = match start(&source, &request).await {
        Ok(start) => start,
        Err(error) => return Ok(Err(error)),
    };
    if let Some(notice) = notice {
        peer.send(&Reply::Notice(notice)).await?;
    }
    peer.flush().await?;
    let mut left = request.count.unwrap_or(u64::MAX);
    let mut limit = 16;
    while left > 0 {
        changed.borrow_and_update();
        let want = limit.min(usize::try_from(left).unwrap_or(usize::MAX));
        let topic = request.topic.clone();
        let rows = match blocking(&source, move |log| log.read(&topic, next, want))
            .await
            .and_then(|rows| rows)
        {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        let Some(last) = rows.last().map(|row| row.offset) else {
            tokio::select! {
                more = changed.changed() => if more.is_err() {
                    return Ok(Err("the node is shutting down".to_owned()));
                },
                line = read_line(&mut peer.input, &mut peer.line, max_line) => return match line? {
                    false => Err(io::ErrorKind::BrokenPipe.into()),
                    true => Ok(Err("a tail takes no request but the commit of a batch".to_owned())),
                },
            }
            tokio::time::sleep(COALESCE).await;
            continue;
        };
        if let Some(first) = rows.first().map(|row| row.offset).filter(|first| *first > next) {
            peer.send(&Reply::Notice(gone(&request.topic, next, first))).await?;
        }
        let bytes: usize = rows.iter().map(|row| row.payload.len()).sum();
        limit = if bytes > BATCH_BYTES { (limit / 2).max(1) } else { (limit * 2).min(MAX_BATCH) };
        left = left.saturating_sub(rows.len() as u64);
        for row in rows {
            peer.send(&Reply::Record(row)).await?;
        }
        next = last + 1;
        peer.send(&Reply::Batch { next }).await?;
        peer.flush().await?;
        if let Some(group) = &request.group
            && let Err(error) =
                commit_printed(&source, group, &request.topic, next, peer, max_line).await?
        {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// Where to begin, and what the user should know about it.
async fn start(source: &Source, request: &TailRequest) -> Result<(u64, Option<String>), String> {
    let request = request.clone();
    blocking(source, move |log| {
        let topic = &request.topic;
        let (first, end) = (log.first(topic), log.end(topic));
        let committed = request.group.as_ref().and_then(|group| log.committed(group, topic));
        if let Some(committed) = committed {
            return Ok(match committed {
                // The log is not the one the group read: all of it is new to the group.
                beyond if beyond > end => (
                    first,
                    Some(format!("the committed offset {beyond} is past the end {end} of {topic}: starting at {first}")),
                ),
                old if old < first => (first, Some(gone(topic, old, first))),
                known => (known, None),
            });
        }
        let next = if request.from_start { first } else { end };
        if let Some(group) = &request.group {
            log.commit(group, topic, next)?;
        }
        let topics = log.topics();
        let unknown = (!topics.contains(topic)).then(|| match topics.len() {
            0 => format!("there is no record of {topic} yet, nor of any other topic: waiting for the first, Ctrl-C ends"),
            n => {
                let some = topics.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if n > 10 { format!(" and {} more", n - 10) } else { String::new() };
                format!("there is no record of {topic} yet: waiting for the first, Ctrl-C ends (there are {some}{more})")
            }
        });
        Ok((next, unknown))
    })
    .await?
}

/// Waits for the client to say that it has printed the batch, and commits it.
async fn commit_printed(
    source: &Source,
    group: &str,
    topic: &str,
    next: u64,
    peer: &mut Peer,
    max_line: usize,
) -> io::Result<Result<(), String>> {
    if !read_line(&mut peer.input, &mut peer.line, max_line).await? {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let said = serde_json::from_slice(&peer.line);
    peer.line.clear();
    match said {
        Ok(FollowUp::Commit(offset)) if offset == next => {}
        _ => {
            return Ok(Err(format!(
                "a batch that ends at {next} is answered by {{\"commit\":{next}}}"
            )));
        }
    }
    let (group, topic) = (group.to_owned(), topic.to_owned());
    if let Err(error) =
        blocking(source, move |log| log.commit(&group, &topic, next)).await.and_then(|done| done)
    {
        return Ok(Err(error));
    }
    peer.send(&Reply::Committed(next)).await?;
    peer.flush().await?;
    Ok(Ok(()))
}

fn gone(topic: &str, from: u64, first: u64) -> String {
    format!("offsets {from} to {} of {topic} are gone (log retention)", first - 1)
}

/// Files are read and synced away from the admin thread, which also answers `/health`.
async fn blocking<T: Send + 'static>(
    source: &Source,
    work: impl FnOnce(&dyn TailSource) -> T + Send + 'static,
) -> Result<T, String> {
    let source = source.clone();
    tokio::task::spawn_blocking(move || work(&*source))
        .await
        .map_err(|error| format!("reading the log failed: {error}"))
}
