//! Who plays: the clients of a history, by its seed.

use hydrant_protocol::QoS;

use crate::clients::state::{Client, Publisher, Role, Subscriber};
use crate::kinds::Kinds;
use crate::random::Random;

/// The publishers come first.
pub fn clients(random: &mut Random, kinds: Kinds) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..1 + random.below(3) {
        let window = 1 + random.below(10);
        clients.push(Client::new(
            format!("p{number}"),
            Role::Publisher(Publisher::new(window)),
            false,
        ));
    }
    for number in 0..2 + random.below(4) {
        let qos = |random: &mut Random| {
            [QoS::ExactlyOnce, QoS::ExactlyOnce, QoS::AtLeastOnce][random.below(3)]
        };
        let filters: &[&str] = match random.below(4) {
            0 => &["t/+"],
            1 => &["t/0"],
            2 => &["t/0", "t/1"],
            _ => &["t/#"],
        };
        let always: Vec<(String, QoS)> =
            filters.iter().map(|filter| ((*filter).to_owned(), qos(random))).collect();
        let churns = match filters.len() {
            1 if filters[0] == "t/0" && kinds.churn => {
                vec![("t/1".to_owned(), qos(random)), ("t/2".to_owned(), qos(random))]
            }
            2 if kinds.churn => vec![("t/2".to_owned(), qos(random))],
            _ => Vec::new(),
        };
        let clean = random.one_in(4);
        let role = Role::Subscriber(Subscriber::new(always, churns));
        clients.push(Client::new(format!("s{number}"), role, clean));
    }
    if kinds.wills {
        let always = vec![("w/#".to_owned(), QoS::AtLeastOnce)];
        let role = Role::Subscriber(Subscriber::new(always, Vec::new()));
        clients.push(Client::new("v".to_owned(), role, false));
    }
    clients
}
