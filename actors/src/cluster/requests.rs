//! What PeersActor asks of the store; the answers are work for it.

use std::sync::Arc;

use super::Cluster;
use crate::mailboxes::Mailboxes;
use crate::messages::{PeerWork, Untold};

/// What is asked of the store.
#[derive(Debug)]
pub(crate) enum Request {
    /// [`PeerWork::Surveyed`] is the answer.
    Survey,
    /// [`PeerWork::Wanted`] is the answer.
    Wanted(Untold),
    /// [`PeerWork::RetainedAgain`] is the answer.
    Retained,
}

/// Asks the store and hands the answer to PeersActor.
pub(super) async fn ask(cluster: Arc<Cluster>, mailboxes: Arc<Mailboxes>, request: Request) {
    let work = match request {
        Request::Survey => {
            let rows = cluster.store.incarnations().await;
            PeerWork::Surveyed(rows.inspect_err(complain).ok())
        }
        Request::Wanted(untold) => {
            let mut all = Some(Vec::new());
            for lineage in &untold.lineages {
                let filters = cluster.store.wanted(*lineage).await.inspect_err(complain).ok();
                all = all.zip(filters).map(|(all, filters)| [all, filters].concat());
            }
            PeerWork::Wanted { untold, filters: all }
        }
        Request::Retained => {
            let found = cluster.store.retained().await;
            PeerWork::RetainedAgain(found.inspect_err(complain).ok())
        }
    };
    mailboxes.peers.push(work, 1024);
}

fn complain(why: &crate::ports::StoreError) {
    log::debug!(target: "hydrant::peers", "the store does not say what other nodes left there, it is asked again: {why}");
}
