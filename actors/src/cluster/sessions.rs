//! Clients that want to connect here: their claims at the owner of their client id, and the sessions
//! that are taken over from other nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hydrant_protocol::cluster::message::Handed;

use super::coordinator::Peers;
use super::state::claims::{Claiming, Release};
use crate::messages::{ManagerWork, PeerWork};
use crate::ports::{Holder, SessionId, StoredSession};

/// A claim that waits for so long asks the store.
const LONG: Duration = Duration::from_secs(1);
/// It is looked again so soon whether what was sealed is in force.
const SOON: Duration = Duration::from_millis(10);
/// The store is asked again so long after it did not answer.
const AGAIN: Duration = Duration::from_millis(200);

impl Peers {
    pub(super) fn claim(
        &mut self,
        worker: u16,
        conn: (usize, u32),
        client: Arc<str>,
        clean: bool,
        known: bool,
    ) {
        let request = self.directory.claim(&client, clean, None);
        let since = self.now.boot;
        let (asked, granted, left) = (None, false, false);
        let claim = Claiming { worker, conn, client, clean, known, asked, since, granted, left };
        self.claimants.insert((worker, conn.1), request);
        self.claims.insert(request, claim);
    }

    /// The client of a claim has left: what is not granted is withdrawn. A session that another gave up for it
    /// comes here all the same, without a connection.
    pub(super) fn unclaim(&mut self, worker: u16, claim: u32) {
        let Some(request) = self.claimants.get(&(worker, claim)).copied() else { return };
        if let Some(claim) = self.claims.get_mut(&request) {
            claim.left = true;
            self.directory.withdraw(request);
        }
    }

    /// It is granted to nobody.
    pub(super) fn forget_claim(&mut self, request: u64) {
        if let Some(claim) = self.end_claim(request) {
            self.release_deferred(&claim.client);
        }
    }

    fn end_claim(&mut self, request: u64) -> Option<Claiming> {
        let claim = self.claims.remove(&request)?;
        self.claimants.remove(&(claim.worker, claim.conn.1));
        Some(claim)
    }

    /// The owner has let it in. What another node gave up is taken; where none did, the store is
    /// asked whether it knows better.
    pub(super) fn grant(&mut self, request: u64, from: Option<Handed>) {
        // A clean one, too, has to end the session that an absent node holds.
        let no_loss = self.nobody_is_absent();
        let Some(claim) = self.claims.get_mut(&request) else { return };
        if from.is_none() && (claim.known || claim.clean && no_loss) {
            return self.let_in(request, None);
        }
        claim.granted = true;
        let handed = from.map(|from| {
            (Holder { id: from.session, incarnation: from.incarnation }, from.given_up)
        });
        self.look(request, handed);
    }

    /// Takes a session, or asks who holds it.
    fn look(&self, request: u64, handed: Option<(Holder, u64)>) {
        let Some(claim) = self.claims.get(&request) else { return };
        let (cluster, client) = (Arc::clone(&self.cluster), Arc::clone(&claim.client));
        let (mailboxes, asked) = (Arc::clone(&self.mailboxes), claim.asked);
        tokio::task::spawn_local(async move {
            let mut from = handed;
            loop {
                if let Some((holder, until)) = from.take() {
                    match cluster.store.take(Arc::clone(&client), holder, until).await {
                        Ok(Some(taken)) => {
                            let taken = Some(Box::new(taken));
                            let looked = PeerWork::Looked { request, holder: None, taken };
                            return mailboxes.peers.push(looked, 256);
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
                        return mailboxes.peers.push(looked, 64);
                    }
                    // Given up by its holder, who was asked; or by this node, and never taken.
                    // It is this node's because it takes over, and not in force yet.
                    Ok(Some(holder))
                        if holder.incarnation == cluster.incarnation
                            && cluster.sealing.load(Ordering::SeqCst) > 0 =>
                    {
                        tokio::time::sleep(SOON).await;
                    }
                    Ok(Some(holder))
                        if asked == Some(holder.incarnation)
                            || holder.incarnation == cluster.incarnation =>
                    {
                        from = Some((holder, u64::MAX));
                    }
                    Ok(Some(holder)) => {
                        let holder = Some(holder.incarnation);
                        let looked = PeerWork::Looked { request, holder, taken: None };
                        return mailboxes.peers.push(looked, 64);
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
                // The grant of the copy before this may be on its way.
                claim.asked = None;
                self.directory.claim_again(request, holder);
            }
            _ if claim.left => {
                // It is another's, and nobody here wants it any more.
                let client = Arc::clone(&claim.client);
                self.forget_claim(request);
                self.directory.gone(&client, u64::MAX);
            }
            holder => {
                let Some(mut claim) = self.claims.remove(&request) else { return };
                (claim.asked, claim.granted) = (holder, false);
                let client = Arc::clone(&claim.client);
                let request = self.directory.claim(&client, claim.clean, holder);
                self.claimants.insert((claim.worker, claim.conn.1), request);
                self.claims.insert(request, claim);
                self.release_deferred(&client);
            }
        }
    }

    fn let_in(&mut self, request: u64, taken: Option<Box<StoredSession>>) {
        let Some(claim) = self.end_claim(request) else { return };
        let client = Arc::clone(&claim.client);
        self.last_admission += 1;
        let admission = self.last_admission;
        self.directory.admitted(&client, admission);
        let work =
            ManagerWork::Granted { conn: claim.conn, client: claim.client, taken, admission };
        self.mailboxes.managers[usize::from(claim.worker)].push(work, 256);
        self.handovers.granted(&client);
        self.release_deferred(&client);
    }

    /// Has a worker give a session up. One that this node is about to let in is given up only then:
    /// else it would come when nobody expects it any more.
    pub(super) fn release(&mut self, release: Release) {
        let client = &release.client;
        let granted = |claim: &Claiming| claim.granted && claim.client == *client;
        if self.claims.values().any(granted) || !self.may_give_up() {
            return self.deferred_releases.push(release);
        }
        let Release { owner, ticket, client, to } = release;
        let home = usize::from(self.shared.home(&client));
        self.mailboxes.managers[home].push(ManagerWork::Release { owner, ticket, client, to }, 64);
    }

    fn release_deferred(&mut self, client: &str) {
        let its = |release: &mut Release| *release.client == *client;
        let releases: Vec<Release> = self.deferred_releases.extract_if(.., its).collect();
        releases.into_iter().for_each(|release| self.release(release));
    }

    /// Those that can be now.
    pub(super) fn release_all(&mut self) {
        let releases = std::mem::take(&mut self.deferred_releases);
        releases.into_iter().for_each(|release| self.release(release));
    }

    /// A session of this node is given up: who claims it here does not find it.
    pub(super) fn is_not_here(&mut self, client: &str) {
        for claim in self.claims.values_mut().filter(|claim| *claim.client == *client) {
            claim.known = false;
        }
    }

    /// Finds out whose a session is that was given up to a node that is lost, and takes it back where it
    /// is nobody's.
    pub(super) fn recover(&self, worker: u16, id: u64, client: Arc<str>, session: SessionId) {
        let (cluster, mailboxes) = (Arc::clone(&self.cluster), Arc::clone(&self.mailboxes));
        tokio::task::spawn_local(async move {
            let holder = Holder { id: session, incarnation: cluster.incarnation };
            let taken = loop {
                let answer = match cluster.store.locate(Arc::clone(&client)).await {
                    Ok(Some(found)) if found == holder => {
                        cluster.store.take(Arc::clone(&client), holder, u64::MAX).await
                    }
                    Ok(_) => break None,
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(Some(taken)) => break Some(Box::new(taken)),
                    // It changes hands just now.
                    Ok(None) => {}
                    Err(error) => {
                        log::debug!(target: "hydrant::peers", "session of {client}: {error}");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            let work = ManagerWork::Recovered { id, client, taken };
            mailboxes.managers[usize::from(worker)].push(work, 256);
        });
    }

    /// Claims that have waited long ask the store who holds the session.
    pub(super) fn ask_again(&mut self) {
        let now = self.now.boot;
        let mut long = Vec::new();
        for (request, claim) in &mut self.claims {
            if !claim.granted && !claim.left && now.since(claim.since) > LONG {
                claim.since = now;
                long.push(*request);
            }
        }
        for request in long {
            let Some(claim) = self.claims.get(&request) else { continue };
            let (cluster, client) = (Arc::clone(&self.cluster), Arc::clone(&claim.client));
            let mailboxes = Arc::clone(&self.mailboxes);
            tokio::task::spawn_local(async move {
                if let Ok(holder) = cluster.store.locate(client).await {
                    let holder = holder.map(|holder| holder.incarnation);
                    let looked = PeerWork::Looked { request, holder, taken: None };
                    mailboxes.peers.push(looked, 64);
                }
            });
        }
    }
}
