//! Carries out what the coordinator asks of the store and of this node's workers; the answers are work for it.

use std::sync::Arc;

use super::Cluster;
use super::state::requests::{Request, RequestId};
use crate::mailboxes::Mailboxes;
use crate::messages::{Answer, PeerWork};
use crate::ports::StoreError;

/// Bytes that an answer counts in the inbox, about.
const LIST: usize = 1024;
const SESSION: usize = 256;
const SHORT: usize = 64;

/// Asks, and hands the answer to PeersActor.
pub(super) async fn ask(
    cluster: Arc<Cluster>,
    mailboxes: Arc<Mailboxes>,
    id: RequestId,
    request: Request,
) {
    let store = &cluster.store;
    let (answer, cost) = match request {
        Request::Incarnations => (Answer::Incarnations(store.incarnations().await), LIST),
        Request::Wanted { lineages } => (Answer::Wanted(wanted(&cluster, &lineages).await), LIST),
        Request::Retained => (Answer::Retained(store.retained().await), LIST),
        Request::Locate { client } => (Answer::Located(store.locate(client).await), SHORT),
        Request::Take { client, from, until } => {
            let taken = store.take(client, from, until).await;
            (Answer::Taken(taken.map(|taken| taken.map(Box::new))), SESSION)
        }
        Request::Seal { incarnation } => (Answer::Sealed(store.seal(incarnation).await), SHORT),
        Request::TakenOver { workers } => {
            for worker in workers {
                let _ = worker.await;
            }
            (Answer::TakenOver, SHORT)
        }
    };
    mailboxes.peers.push(PeerWork::Answered { request: id, answer }, cost);
}

async fn wanted(cluster: &Cluster, lineages: &[u64]) -> Result<Vec<Arc<str>>, StoreError> {
    let mut all = Vec::new();
    for lineage in lineages {
        all.append(&mut cluster.store.wanted(*lineage).await?);
    }
    Ok(all)
}
