//! Clients that want to connect here: their claims at the owner of their client id, and the sessions
//! that are taken over from other nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_protocol::cluster::message::Handed;

use super::PeerWork;
use super::peers::Peers;
use crate::ports::{Holder, StoredSession};
use crate::shared::ManagerWork;

/// A claim that waits for so long asks the store.
const LONG: Duration = Duration::from_secs(1);
/// The store is asked again so long after it did not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// A client that waits to be let in.
#[derive(Debug)]
pub(super) struct Claiming {
    shard: u16,
    conn: (usize, u32),
    client: Arc<str>,
    clean: bool,
    known: bool,
    /// What the store said last: the holder's incarnation.
    asked: Option<u64>,
    since: Instant,
    /// It was granted; the store is being asked.
    granted: bool,
}

impl Peers {
    pub(super) fn claim(
        &mut self,
        shard: u16,
        conn: (usize, u32),
        client: Arc<str>,
        clean: bool,
        known: bool,
    ) {
        let request = self.directory.claim(&client, clean, None);
        let since = Instant::now();
        let claim =
            Claiming { shard, conn, client, clean, known, asked: None, since, granted: false };
        self.claims.insert(request, claim);
    }

    /// The owner has let it in. What another node gave up is taken; where none did, the store is
    /// asked whether it knows better.
    pub(super) fn grant(&mut self, request: u64, from: Option<Handed>) {
        let no_loss = self.lost.is_empty();
        let Some(claim) = self.claims.get_mut(&request) else { return };
        if from.is_none() && (claim.known || claim.clean && no_loss) {
            return self.let_in(request, None);
        }
        claim.granted = true;
        let handed = from.map(|from| Holder { id: from.session, incarnation: from.incarnation });
        self.look(request, handed);
    }

    /// Takes a session, or asks who holds it.
    fn look(&self, request: u64, handed: Option<Holder>) {
        let Some(claim) = self.claims.get(&request) else { return };
        let (cluster, client) = (Arc::clone(&self.cluster), Arc::clone(&claim.client));
        let asked = claim.asked;
        tokio::task::spawn_local(async move {
            let mut from = handed;
            loop {
                if let Some(holder) = from.take() {
                    match cluster.store.take(Arc::clone(&client), holder).await {
                        Ok(Some(taken)) => {
                            let taken = Some(Box::new(taken));
                            let looked = PeerWork::Looked { request, holder: None, taken };
                            return cluster.work.push(looked, 256);
                        }
                        Ok(None) => {}
                        Err(error) => {
                            log::debug!(target: "hydrant::peers", "session of {client}: {error}");
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                }
                match cluster.store.locate(Arc::clone(&client)).await {
                    Ok(None) => {
                        let looked = PeerWork::Looked { request, holder: None, taken: None };
                        return cluster.work.push(looked, 64);
                    }
                    // Given up by its holder, who was asked; or by this node, and never taken.
                    Ok(Some(holder))
                        if asked == Some(holder.incarnation)
                            || holder.incarnation == cluster.incarnation =>
                    {
                        from = Some(holder);
                    }
                    Ok(Some(holder)) => {
                        let holder = Some(holder.incarnation);
                        let looked = PeerWork::Looked { request, holder, taken: None };
                        return cluster.work.push(looked, 64);
                    }
                    Err(error) => {
                        log::debug!(target: "hydrant::peers", "session of {client}: {error}");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        });
    }

    /// The store has answered.
    pub(super) fn looked(
        &mut self,
        request: u64,
        holder: Option<u64>,
        taken: Option<Box<StoredSession>>,
    ) {
        let Some(claim) = self.claims.get_mut(&request) else { return };
        match holder {
            None if claim.granted => self.let_in(request, taken),
            // It waited long, and the store knows nobody or its holder.
            holder if !claim.granted => {
                claim.asked = holder;
                self.directory.claim_again(request, holder);
            }
            holder => {
                let Some(mut claim) = self.claims.remove(&request) else { return };
                (claim.asked, claim.granted) = (holder, false);
                let request = self.directory.claim(&claim.client, claim.clean, holder);
                self.claims.insert(request, claim);
            }
        }
    }

    fn let_in(&mut self, request: u64, taken: Option<Box<StoredSession>>) {
        let Some(claim) = self.claims.remove(&request) else { return };
        let client = Arc::clone(&claim.client);
        let work = ManagerWork::Granted { conn: claim.conn, client: claim.client, taken };
        self.shared.managers[usize::from(claim.shard)].push(work, 256);
        self.came(&client);
    }

    /// Claims that have waited long ask the store who holds the session.
    pub(super) fn ask_again(&mut self) {
        let now = Instant::now();
        let mut long = Vec::new();
        for (request, claim) in &mut self.claims {
            if !claim.granted && now.duration_since(claim.since) > LONG {
                claim.since = now;
                long.push(*request);
            }
        }
        for request in long {
            let Some(claim) = self.claims.get(&request) else { continue };
            let (cluster, client) = (Arc::clone(&self.cluster), Arc::clone(&claim.client));
            tokio::task::spawn_local(async move {
                if let Ok(holder) = cluster.store.locate(client).await {
                    let holder = holder.map(|holder| holder.incarnation);
                    let looked = PeerWork::Looked { request, holder, taken: None };
                    cluster.work.push(looked, 64);
                }
            });
        }
    }
}
