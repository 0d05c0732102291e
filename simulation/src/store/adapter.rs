//! The simulated store behind the traits of the real ones, so that it passes their suite: [`Place`] is where stores are
//! opened, [`SimulatedStore`] what a node has.
//!
//! A request is done when it is made, and its future is ready. Time goes on by a millisecond a request, and by as much
//! as a request waits; meanwhile every incarnation renews its lease that is neither dropped nor frozen.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydrant_actors::now::Boot;
use hydrant_actors::ports::{
    DeadId, DeadLetter, Holder, KnownIncarnation, Lanes, LogRecord, PreparedPublish, QueueEntry,
    SealedIncarnation, Sealing, SessionId, SessionStore, SharedStore, StoreError, StoreFuture,
    StoreOp, StoredBatch, StoredSession, StoredWill,
};
use hydrant_protocol::Message;

use super::{Answer, Request, Shape, Step, Store, Task};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Where stores are opened that share what they have.
#[derive(Debug, Clone)]
pub struct Place(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    store: Store,
    now: Boot,
    /// Incarnations whose process lives.
    alive: BTreeMap<u64, Process>,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    lease: Duration,
    renews: Boot,
    /// Since when.
    frozen: Option<Boot>,
}

impl Inner {
    /// Time goes on, and with it the leases.
    fn wait(&mut self, until: Boot) {
        while let Some((due, who)) = self
            .alive
            .iter()
            .filter(|(_, process)| process.frozen.is_none())
            .map(|(who, process)| (process.renews, *who))
            .min()
            .filter(|(due, _)| *due <= until)
        {
            self.now = self.now.max(due);
            if let Some(process) = self.alive.get_mut(&who) {
                process.renews = due + process.lease / 3;
            }
            // What becomes of it is seen by who asks for the lease.
            drop(self.store.execute(self.now, who, Request::Renew));
        }
        self.now = self.now.max(until);
    }

    fn run(&mut self, mut task: Task) -> Result<Answer, StoreError> {
        // Frozen just behind its first step: it had seen its lease by then.
        let frozen = self.alive.get(&task.who()).and_then(|process| process.frozen);
        let mut at = frozen;
        loop {
            self.wait(self.now + MILLISECOND);
            match self.store.step(at.take().unwrap_or(self.now), &mut task, 0) {
                Step::More => {}
                Step::Until(due) => self.wait(due),
                Step::Blocked => return Err(self.store.fail(task, "it waits for ever").0),
                Step::Done(answer) => return answer,
            }
        }
    }

    fn ask(&mut self, who: u64, request: Request) -> Result<Answer, StoreError> {
        let task = self.store.begin(self.now, who, request);
        let answer = self.run(task);
        self.store.tidy(who);
        answer
    }
}

impl Place {
    /// A place where nothing is stored yet.
    pub fn new(shape: Shape, outbox_lanes: u16) -> Self {
        let store = Store::new(shape, outbox_lanes);
        let inner = Inner { store, now: Boot::default(), alive: BTreeMap::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the store as a node with this data directory would.
    ///
    /// # Errors
    /// Another process has this node id.
    pub fn start(
        &self,
        node: &str,
        instance: &str,
        lease: Duration,
    ) -> Result<Arc<SimulatedStore>, StoreError> {
        let mut inner = self.lock();
        let task = inner.store.start(inner.now, node, instance, lease);
        match inner.run(task)? {
            Answer::Started(who) => {
                let renews = inner.now + lease / 3;
                inner.alive.insert(who, Process { lease, renews, frozen: None });
                Ok(Arc::new(SimulatedStore { place: self.clone(), who }))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Time goes on.
    pub fn wait(&self, time: Duration) {
        let mut inner = self.lock();
        let until = inner.now + time;
        inner.wait(until);
    }

    /// Looks at the store, and may change what is in it.
    pub fn with<T>(&self, look: impl FnOnce(&mut Store) -> T) -> T {
        look(&mut self.lock().store)
    }
}

fn unexpected(answer: &Answer) -> StoreError {
    StoreError::Unusable(format!("the simulated store answers {answer:?}"))
}

/// What a node has of a [`Place`]: its process ends with it.
#[derive(Debug)]
pub struct SimulatedStore {
    place: Place,
    who: u64,
}

impl Drop for SimulatedStore {
    fn drop(&mut self) {
        let mut inner = self.place.lock();
        inner.alive.remove(&self.who);
        inner.store.crash(self.who);
    }
}

/// Asks, and takes the answer that is meant.
macro_rules! ask {
    ($store:expr, $request:expr, $answer:pat => $value:expr) => {{
        let answer = $store.place.lock().ask($store.who, $request);
        let value = answer.and_then(|answer| match answer {
            $answer => Ok($value),
            other => Err(unexpected(&other)),
        });
        Box::pin(ready(value))
    }};
}

impl SimulatedStore {
    /// Ends the incarnation in order.
    pub fn release(&self) {
        drop(self.place.lock().ask(self.who, Request::Release));
    }

    /// From now on it does not renew its lease, as a process that is frozen does not.
    pub fn freeze(&self) {
        let mut inner = self.place.lock();
        let now = inner.now;
        if let Some(process) = inner.alive.get_mut(&self.who) {
            process.frozen.get_or_insert(now);
        }
    }
}

impl SessionStore for SimulatedStore {
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        ask!(self, Request::Write(ops), Answer::Written => ())
    }

    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        ask!(self, Request::Sessions, Answer::Sessions(found) => found)
    }

    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        ask!(self, Request::Retained, Answer::Retained(found) => found)
    }

    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        ask!(self, Request::Wills, Answer::Wills(found) => found)
    }

    fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<QueueEntry>> {
        let request = Request::ReadQueue { id, from, limit, max_bytes };
        ask!(self, request, Answer::Queue(found) => found)
    }

    fn lanes(&self) -> StoreFuture<Lanes> {
        ask!(self, Request::Lanes, Answer::Lanes(found) => found)
    }

    fn read_outbox(
        &self,
        lane: u16,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<LogRecord>> {
        let request = Request::ReadOutbox { lane, from, limit, max_bytes };
        ask!(self, request, Answer::Records(found) => found)
    }

    fn dead_letters(
        &self,
        from: DeadId,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<DeadLetter>> {
        let request = Request::DeadLetters { from, limit, max_bytes };
        ask!(self, request, Answer::DeadLetters(found) => found)
    }

    fn describe(&self) -> String {
        format!("simulated, incarnation {}", self.who)
    }
}

impl SharedStore for SimulatedStore {
    fn incarnation(&self) -> u64 {
        self.who
    }

    fn continues(&self) -> Vec<SealedIncarnation> {
        self.place.lock().store.continues(self.who)
    }

    fn lineage(&self) -> u64 {
        self.place.lock().store.lineage(self.who)
    }

    fn incarnations(&self) -> StoreFuture<Vec<KnownIncarnation>> {
        ask!(self, Request::Incarnations, Answer::Incarnations(found) => found)
    }

    fn wanted(&self, lineage: u64) -> StoreFuture<Vec<Arc<str>>> {
        ask!(self, Request::Wanted(lineage), Answer::Wanted(found) => found)
    }

    fn stored_batches(&self) -> Vec<StoredBatch> {
        self.place.lock().store.stored_batches(self.who)
    }

    fn prepared_publishes(&self) -> Vec<PreparedPublish> {
        self.place.lock().store.prepared_publishes(self.who)
    }

    fn holds_lease(&self) -> bool {
        let inner = self.place.lock();
        inner.store.holds_lease(inner.now, self.who)
    }

    fn locate(&self, client_id: Arc<str>) -> StoreFuture<Option<Holder>> {
        ask!(self, Request::Locate(client_id), Answer::Located(holder) => holder)
    }

    fn take(
        &self,
        client_id: Arc<str>,
        from: Holder,
        until: u64,
    ) -> StoreFuture<Option<StoredSession>> {
        let request = Request::Take { client_id, from, until };
        ask!(self, request, Answer::Taken(session) => session.map(|session| *session))
    }

    fn give_up(&self, id: SessionId) -> u64 {
        let mut inner = self.place.lock();
        let stamp = inner.store.give_up(self.who, id);
        inner.store.tidy(self.who);
        stamp
    }

    fn seal(&self, incarnation: u64) -> StoreFuture<Sealing> {
        ask!(self, Request::Seal(incarnation), Answer::Sealed(sealing) => sealing)
    }
}
