//! Carries out what the coordinator asks of the store and of this node's workers; the answers are work for it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::cluster::state::requests::{Request, RequestId, TakeOverPart};
use crate::inbox::Inbox;
use crate::mailboxes::Mailboxes;
use crate::messages::{Answer, ManagerTask, ManagerWork, PeerWork};
use crate::ports::{SharedStore, StoreError};

/// Bytes that an answer counts in the inbox, about.
const LIST: usize = 1024;
const SESSION: usize = 256;
const SHORT: usize = 64;

/// Begins it. The answer goes to PeersActor.
pub(super) fn begin(
    store: &Arc<dyn SharedStore>,
    mailboxes: &Arc<Mailboxes>,
    id: RequestId,
    request: Request,
) {
    let (store, mailboxes) = (Arc::clone(store), Arc::clone(mailboxes));
    if let Request::TakeOver { incarnation, batches, parts } = request {
        let give = |(manager, part): (&Inbox<ManagerTask>, TakeOverPart)| {
            let TakeOverPart { sessions, wills, prepared } = part;
            let (done, told) = oneshot::channel();
            let batches = Arc::clone(&batches);
            let work = ManagerWork::TakeOver { sessions, wills, prepared, incarnation, batches };
            manager.push(ManagerTask::Told { work, done }, SESSION);
            told
        };
        let told: Vec<_> = mailboxes.managers.iter().zip(parts).map(give).collect();
        tokio::task::spawn_local(async move {
            for told in told {
                let _ = told.await;
            }
            answer(&mailboxes, id, Answer::TakenOver, SHORT);
        });
    } else {
        tokio::task::spawn_local(ask(store, mailboxes, id, request));
    }
}

fn answer(mailboxes: &Mailboxes, request: RequestId, answer: Answer, cost: usize) {
    mailboxes.peers.push(PeerWork::Answered { request, answer }, cost);
}

async fn ask(
    store: Arc<dyn SharedStore>,
    mailboxes: Arc<Mailboxes>,
    id: RequestId,
    request: Request,
) {
    let (answer, cost) = match request {
        Request::Incarnations => (Answer::Incarnations(store.incarnations().await), LIST),
        Request::Wanted { lineages } => (Answer::Wanted(wanted(&*store, &lineages).await), LIST),
        Request::Retained => (Answer::Retained(store.retained().await), LIST),
        Request::Locate { client } => (Answer::Located(store.locate(client).await), SHORT),
        Request::Take { client, from, until } => {
            let taken = store.take(client, from, until).await;
            (Answer::Taken(taken.map(|taken| taken.map(Box::new))), SESSION)
        }
        Request::Seal { incarnation } => (Answer::Sealed(store.seal(incarnation).await), SHORT),
        // Begun above.
        Request::TakeOver { .. } => return,
    };
    self::answer(&mailboxes, id, answer, cost);
}

async fn wanted(store: &dyn SharedStore, lineages: &[u64]) -> Result<Vec<Arc<str>>, StoreError> {
    let mut all = Vec::new();
    for lineage in lineages {
        all.append(&mut store.wanted(*lineage).await?);
    }
    Ok(all)
}
