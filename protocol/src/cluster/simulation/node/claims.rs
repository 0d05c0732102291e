//! Clients that want to connect, and sessions that are taken from other nodes
//! (`engine/src/cluster/sessions.rs`).

use std::sync::Arc;

use super::super::clock::SECOND;
use super::super::store::{Answer, Request, Stored};
use super::{ManagerWork, Node, PeerWork, Purpose};
use crate::cluster::message::Handed;

/// A claim that waits for so long asks the store.
const LONG: u64 = SECOND;

#[derive(Debug)]
pub(super) struct Release {
    pub owner: Arc<str>,
    pub ticket: u64,
    pub client: Arc<str>,
    pub to: Arc<str>,
}

#[derive(Debug)]
pub(super) struct Claiming {
    worker: u16,
    connection: u64,
    client: Arc<str>,
    known: bool,
    /// Session and holder, as the store named them when the claim was made.
    asked: Option<(u64, u64)>,
    since: u64,
    granted: bool,
}

/// A session is being taken, or it is asked who holds it.
#[derive(Debug)]
pub(super) struct Look {
    request: u64,
    client: Arc<str>,
    asked: Option<(u64, u64)>,
    takes: bool,
}

impl Node {
    pub(super) fn claim(&mut self, worker: u16, connection: u64, client: Arc<str>, known: bool) {
        let request = self.directory.claim(&client, false, None);
        let since = self.now;
        let claim =
            Claiming { worker, connection, client, known, asked: None, since, granted: false };
        self.claims.insert(request, claim);
    }

    pub(super) fn grant(&mut self, request: u64, from: Option<Handed>) {
        let Some(claim) = self.claims.get_mut(&request) else { return };
        if from.is_none() && claim.known {
            return self.let_in(request, None);
        }
        claim.granted = true;
        let look = Look {
            request,
            client: Arc::clone(&claim.client),
            asked: claim.asked,
            takes: from.is_some(),
        };
        match from {
            Some(Handed { session, incarnation, .. }) => self.take(look, session, incarnation),
            None => self.locate(look),
        }
    }

    /// It was known here when these were made, and is not any more.
    pub(super) fn is_released(&mut self, client: &str) {
        let its = self.claims.values_mut().filter(|claim| *claim.client == *client);
        its.for_each(|claim| claim.known = false);
    }

    fn take(&mut self, mut look: Look, session: u64, from: u64) {
        look.takes = true;
        self.ask(Purpose::Look(look), Request::Take { session, from });
    }

    fn locate(&mut self, mut look: Look) {
        look.takes = false;
        let client = Arc::clone(&look.client);
        self.ask(Purpose::Look(look), Request::Locate(client));
    }

    pub(super) fn looks(&mut self, look: Look, answer: Answer) {
        let request = look.request;
        match answer {
            Answer::Taken(Some(taken)) => {
                let taken = Some(taken);
                self.work.push_back(PeerWork::Looked { request, holder: None, taken });
            }
            Answer::Located(None) => {
                self.work.push_back(PeerWork::Looked { request, holder: None, taken: None });
            }
            Answer::Located(Some((_, holder)))
                if holder == self.incarnation
                    && self.known(self.home(&look.client), &look.client).is_some() =>
            {
                self.work.push_back(PeerWork::Looked { request, holder: None, taken: None });
            }
            Answer::Located(Some((_, holder)))
                if holder == self.incarnation && self.is_taking_over() =>
            {
                // It may be of what a lost one held, which is not here before that is marked.
                self.locate(look);
            }
            Answer::Located(Some((session, holder)))
                if look.asked == Some((session, holder)) || holder == self.incarnation =>
            {
                self.take(look, session, holder);
            }
            Answer::Located(found @ Some(_)) => {
                let holder = found;
                self.work.push_back(PeerWork::Looked { request, holder, taken: None });
            }
            _ => self.locate(look),
        }
    }

    pub(super) fn looked(
        &mut self,
        request: u64,
        holder: Option<(u64, u64)>,
        taken: Option<Box<Stored>>,
    ) {
        let taking_over = self.is_taking_over();
        let Some(claim) = self.claims.get_mut(&request) else { return };
        match holder {
            None if claim.granted => self.let_in(request, taken),
            Some((_, holder)) if !claim.granted && holder == self.incarnation && taking_over => {}
            holder if !claim.granted => {
                // Not asked yet: what is granted may be what was claimed before.
                claim.asked = None;
                self.directory.claim_again(request, holder.map(|it| it.1));
            }
            holder => {
                let Some(mut claim) = self.claims.remove(&request) else { return };
                (claim.asked, claim.granted) = (holder, false);
                let client = Arc::clone(&claim.client);
                let hint = holder.map(|it| it.1);
                let request = self.directory.claim(&client, false, hint);
                self.claims.insert(request, claim);
                self.release_deferred(&client);
            }
        }
    }

    fn let_in(&mut self, request: u64, taken: Option<Box<Stored>>) {
        let Some(claim) = self.claims.remove(&request) else { return };
        let Claiming { worker, connection, client, .. } = claim;
        self.last_admission += 1;
        let admission = self.last_admission;
        self.directory.admitted(&client, admission);
        let work =
            ManagerWork::Granted { client: Arc::clone(&client), connection, taken, admission };
        self.worker(worker).manager.push_back(work);
        self.handovers.granted(&client);
        self.release_deferred(&client);
    }

    pub(super) fn release(&mut self, release: Release) {
        let granted = |claim: &Claiming| claim.granted && claim.client == release.client;
        if self.claims.values().any(granted) {
            return self.deferred_releases.push(release);
        }
        self.push_home(&Arc::clone(&release.client), ManagerWork::Release(release));
    }

    fn release_deferred(&mut self, client: &str) {
        let its = |release: &mut Release| *release.client == *client;
        let releases: Vec<Release> = self.deferred_releases.extract_if(.., its).collect();
        releases.into_iter().for_each(|release| self.release(release));
    }

    /// Finds out whose a session is that was given up, and takes it back where it is nobody's.
    pub(super) fn ask_whose(&mut self, id: u64, client: Arc<str>, session: u64) {
        let request = Request::Locate(Arc::clone(&client));
        self.ask(Purpose::Recover { id, client, session, takes: false }, request);
    }

    pub(super) fn recovering(
        &mut self,
        id: u64,
        client: Arc<str>,
        session: u64,
        takes: bool,
        answer: Answer,
    ) {
        let taken = match answer {
            Answer::Located(Some((session, holder))) if holder == self.incarnation => {
                let request = Request::Take { session, from: self.incarnation };
                let purpose = Purpose::Recover { id, client, session, takes: true };
                return self.ask(purpose, request);
            }
            Answer::Located(_) => None,
            Answer::Taken(Some(taken)) if takes => Some(taken),
            _ => return self.ask_whose(id, client, session),
        };
        let work = ManagerWork::Recovered { id, client: Arc::clone(&client), taken };
        self.push_home(&client, work);
    }

    /// Claims that have waited long ask the store who holds the session.
    pub(super) fn ask_again(&mut self) {
        let now = self.now;
        let mut long = Vec::new();
        for (request, claim) in &mut self.claims {
            if !claim.granted && now - claim.since > LONG {
                claim.since = now;
                long.push((*request, Arc::clone(&claim.client)));
            }
        }
        for (request, client) in long {
            self.ask(Purpose::Ask { request }, Request::Locate(client));
        }
    }
}
