//! Clients that want to connect here: their claims at the owner of their client id, and the sessions
//! that are taken over from other nodes.

use std::sync::Arc;
use std::time::Duration;

use hydrant_protocol::cluster::message::Handed;

use super::coordinator::Coordinator;
use super::state::claims::{Claiming, Release};
use super::state::requests::{Lookup, Purpose, Recover, Request};
use crate::messages::ManagerWork;
use crate::ports::{Holder, StoreError, StoredSession};

/// A claim that waits for so long asks the store.
const LONG: Duration = Duration::from_secs(1);
/// It is looked again so soon whether what was sealed is in force.
const SOON: Duration = Duration::from_millis(10);
/// The store is asked again so long after it did not answer.
const AGAIN: Duration = Duration::from_millis(200);

type StoreResult<T> = Result<Option<T>, StoreError>;

impl Coordinator {
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

    /// Takes a session that was handed over, or asks who holds it.
    fn look(&mut self, claim: u64, handed: Option<(Holder, u64)>) {
        let Some(claiming) = self.claims.get(&claim) else { return };
        let (client, asked) = (Arc::clone(&claiming.client), claiming.asked);
        let lookup = Lookup { claim, client, asked };
        match handed {
            Some((from, until)) => self.take(lookup, from, until),
            None => self.locate(lookup),
        }
    }

    fn take(&mut self, lookup: Lookup, from: Holder, until: u64) {
        let client = Arc::clone(&lookup.client);
        self.ask(Purpose::Lookup(lookup), Request::Take { client, from, until });
    }

    fn locate(&mut self, lookup: Lookup) {
        let client = Arc::clone(&lookup.client);
        self.ask(Purpose::Lookup(lookup), Request::Locate { client });
    }

    fn locate_in(&mut self, wait: Duration, lookup: Lookup) {
        let (at, client) = (self.now.boot + wait, Arc::clone(&lookup.client));
        self.requests.open_at(at, Purpose::Lookup(lookup), Request::Locate { client });
    }

    /// The store has taken the session of a claim, or it was not as it was said to be.
    pub(super) fn taken(&mut self, lookup: Lookup, taken: StoreResult<Box<StoredSession>>) {
        match taken {
            Ok(Some(taken)) => self.looked(lookup.claim, None, Some(taken)),
            Ok(None) => self.locate(lookup),
            Err(error) => {
                complain(&lookup.client, &error);
                self.locate_in(AGAIN, lookup);
            }
        }
    }

    /// The store has said who holds the session of a claim.
    pub(super) fn located(&mut self, lookup: Lookup, holder: StoreResult<Holder>) {
        let me = self.cluster.incarnation;
        match holder {
            Ok(None) => self.looked(lookup.claim, None, None),
            // It is this node's because it takes over, and not in force yet.
            Ok(Some(holder)) if holder.incarnation == me && self.sealing > 0 => {
                self.locate_in(SOON, lookup);
            }
            // Given up by its holder, who was asked; or by this node, and never taken.
            Ok(Some(holder))
                if lookup.asked == Some(holder.incarnation) || holder.incarnation == me =>
            {
                self.take(lookup, holder, u64::MAX);
            }
            Ok(Some(holder)) => self.looked(lookup.claim, Some(holder.incarnation), None),
            Err(error) => {
                complain(&lookup.client, &error);
                self.locate_in(AGAIN, lookup);
            }
        }
    }

    /// The store has said who holds the session of a claim that has waited long. One that does not answer is asked
    /// again when the claim has waited as long again.
    pub(super) fn long_claim_located(&mut self, claim: u64, holder: StoreResult<Holder>) {
        // Once it is granted the answer to its lookup counts.
        let waits = self.claims.get(&claim).is_some_and(|claim| !claim.granted);
        if let Ok(holder) = holder
            && waits
        {
            self.looked(claim, holder.map(|holder| holder.incarnation), None);
        }
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
        self.effects.manager(claim.worker, work, 256);
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
        let home = self.shared.home(&client);
        self.effects.manager(home, ManagerWork::Release { owner, ticket, client, to }, 64);
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
    pub(super) fn recover(&mut self, of: Recover) {
        let client = Arc::clone(&of.client);
        self.ask(Purpose::Recover(of), Request::Locate { client });
    }

    /// The store has said whose it is.
    pub(super) fn recover_located(&mut self, of: Recover, holder: StoreResult<Holder>) {
        let own = Holder { id: of.session, incarnation: self.cluster.incarnation };
        match holder {
            Ok(Some(found)) if found == own => {
                let (client, from, until) = (Arc::clone(&of.client), own, u64::MAX);
                self.ask(Purpose::Recover(of), Request::Take { client, from, until });
            }
            Ok(_) => self.recovered(of, None),
            Err(error) => self.recover_again(of, &error),
        }
    }

    /// The store has taken it back, or it has changed hands just then.
    pub(super) fn recover_taken(&mut self, of: Recover, taken: StoreResult<Box<StoredSession>>) {
        match taken {
            Ok(Some(taken)) => self.recovered(of, Some(taken)),
            Ok(None) => self.recover(of),
            Err(error) => self.recover_again(of, &error),
        }
    }

    fn recover_again(&mut self, of: Recover, error: &StoreError) {
        complain(&of.client, error);
        let (at, client) = (self.now.boot + AGAIN, Arc::clone(&of.client));
        self.requests.open_at(at, Purpose::Recover(of), Request::Locate { client });
    }

    fn recovered(&mut self, of: Recover, taken: Option<Box<StoredSession>>) {
        let Recover { worker, id, client, .. } = of;
        let work = ManagerWork::Recovered { id, client, taken };
        self.effects.manager(worker, work, 256);
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
            let (client, claim) = (Arc::clone(&claim.client), request);
            self.ask(Purpose::LongClaim { claim }, Request::Locate { client });
        }
    }
}

fn complain(client: &str, error: &StoreError) {
    log::debug!(target: "hydrant::peers", "session of {client}: {error}");
}
