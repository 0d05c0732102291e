//! Routes: how they reach the mapping, and what becomes of a record that is refused.

use hydrant_protocol::{AckLevel, OnRefused};

use super::super::load;
use super::{assert_mistakes, from, mistakes};

#[test]
fn routes_reach_the_mapping_in_order() {
    let file = "[route_default]\nack = \"accepted\"\n\n[[route]]\nfilter = \"device/{id}/thermo\"\ntopic = \"device-thermo\"\nkey = \"{id}\"\nack = \"kafka\"\n\n[[route]]\nfilter = \"log/{rest...}\"\ntopic = \"logs.all\"\nkey = \"{rest}\"\n";
    let loaded = load(&from(file)).unwrap();
    let rules: Vec<_> =
        loaded.config.settings.mapping.rules().map(|r| (r.filter.clone(), r.line, r.ack)).collect();
    assert_eq!(
        rules,
        [
            ("device/{id}/thermo".to_string(), 4, Some(AckLevel::Kafka)),
            ("log/{rest...}".to_string(), 10, None),
        ]
    );
    assert_eq!(loaded.config.settings.mapping.map("x/1/y").ack, AckLevel::Accepted);
}

#[test]
fn refused_routes_come_with_the_other_mistakes() {
    let file = "[log]\nknid = 1\n[[route]]\nfilter = \"a/#/b\"\ntopic = \"t\"\n";
    let found = mistakes(&from(file));
    assert!(
        found.len() >= 2
            && found[0].starts_with("c.toml:2: ")
            && found[1].starts_with("c.toml:3: route "),
        "{found:#?}"
    );
}

#[test]
fn what_becomes_of_a_refused_record_is_chosen_by_route() {
    let route =
        |line: &str| format!("[[route]]\nfilter = \"a/{{x}}\"\ntopic = \"t.{{x}}\"\n{line}");
    let file = format!(
        "[log]\ndead_letter_max_bytes = \"3MiB\"\n[route_default]\non_refused = \"disconnect\"\n{}",
        route("on_refused = \"dead-letter\"\n")
    );
    let loaded = load(&from(&file)).unwrap();
    let settings = &loaded.config.settings;
    assert_eq!(settings.log.dead_letter_max_bytes, 3 << 20);
    let of = |topic: &str| settings.mapping.map(topic).on_refused;
    assert_eq!([of("a/b"), of("b/a/c")], [OnRefused::DeadLetter, OnRefused::Disconnect]);
    assert!(loaded.print().contains("on_refused = \"dead-letter\""), "{}", loaded.print());
    assert_mistakes(&route("on_refused = \"drop\"\n"), &["c.toml:4: on_refused "]);
}
