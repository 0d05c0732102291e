//! What may happen in a history, and how often it did.

/// What may happen in a history.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kinds {
    pub crash: bool,
    pub pause: bool,
    pub isolate: bool,
    pub no_store: bool,
    pub links: bool,
    pub slow: bool,
    pub restart: bool,
    pub cold: bool,
    /// The store fails now and then.
    pub lossy_store: bool,
    /// At most one process is lost, stopped or cut off.
    pub one_loss: bool,
    /// A node stays away for good.
    pub away: bool,
    /// Clients leave wills.
    pub wills: bool,
    /// Some messages are retained.
    pub retained: bool,
    /// There is a message log, which fails now and then.
    pub log: bool,
    /// Nothing is published at QoS 2.
    pub no_exact: bool,
    /// Clients go from node to node.
    pub roam: bool,
    /// Subscriptions come and go.
    pub churn: bool,
}

impl Kinds {
    /// Nothing goes wrong, and nobody moves.
    pub const NONE: Self = Self {
        crash: false,
        pause: false,
        isolate: false,
        no_store: false,
        links: false,
        slow: false,
        restart: false,
        cold: false,
        lossy_store: false,
        one_loss: false,
        away: false,
        wills: false,
        retained: false,
        log: false,
        no_exact: false,
        roam: false,
        churn: false,
    };

    /// What a node has begun may be finished much later: the node is gone, taken for lost, or not reached.
    pub fn delays_nodes(self) -> bool {
        self.links
            || self.lossy_store
            || self.slow
            || self.crash
            || self.pause
            || self.isolate
            || self.no_store
            || self.restart
            || self.cold
            || self.away
    }
}

/// That histories meet what they are for.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub events: u64,
    pub steps: u64,
    pub writes: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    pub sent_again: u64,
    pub roams: u64,
    pub churns: u64,
    pub takes: u64,
    pub seals: u64,
    pub crashes: u64,
    pub ends: u64,
    pub stops: u64,
    pub cold_starts: u64,
    pub pauses: u64,
    pub isolations: u64,
    pub no_store: u64,
    pub withdrawn: u64,
    pub away: u64,
    pub wills: u64,
    pub retained: u64,
    pub cuts: u64,
    pub partitions: u64,
    pub store_failures: u64,
    pub records: u64,
    pub log_failures: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Self) {
        let Self {
            events,
            steps,
            writes,
            acknowledged,
            delivered,
            sent_again,
            roams,
            churns,
            takes,
            seals,
            crashes,
            ends,
            stops,
            cold_starts,
            pauses,
            isolations,
            no_store,
            withdrawn,
            away,
            wills,
            retained,
            cuts,
            partitions,
            store_failures,
            records,
            log_failures,
        } = other;
        self.events += events;
        self.steps += steps;
        self.writes += writes;
        self.acknowledged += acknowledged;
        self.delivered += delivered;
        self.sent_again += sent_again;
        self.roams += roams;
        self.churns += churns;
        self.takes += takes;
        self.seals += seals;
        self.crashes += crashes;
        self.ends += ends;
        self.stops += stops;
        self.cold_starts += cold_starts;
        self.pauses += pauses;
        self.isolations += isolations;
        self.no_store += no_store;
        self.withdrawn += withdrawn;
        self.away += away;
        self.wills += wills;
        self.retained += retained;
        self.cuts += cuts;
        self.partitions += partitions;
        self.store_failures += store_failures;
        self.records += records;
        self.log_failures += log_failures;
    }
}
