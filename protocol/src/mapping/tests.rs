//! Tests of the mapping as a whole: tables and refusals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

/// Filter, topic, key ("" is none); lines are 10, 20, 30 …
pub fn routes(rules: &[(&str, &str, &str)]) -> Vec<RouteConfig> {
    let route = |(index, (filter, topic, key)): (usize, &(&str, &str, &str))| RouteConfig {
        filter: (*filter).to_owned(),
        topic: (*topic).to_owned(),
        key: (!key.is_empty()).then(|| (*key).to_owned()),
        ack: None,
        on_refused: None,
        line: 10 * (index + 1),
    };
    rules.iter().enumerate().map(route).collect()
}

pub fn accepted(rules: &[(&str, &str, &str)]) -> Mapping {
    match Mapping::new(&routes(rules), AckLevel::Stored) {
        Ok(mapping) => mapping,
        Err(errors) => panic!("{rules:?} refused: {}", errors[0]),
    }
}

fn refused(rules: &[(&str, &str, &str)]) -> Vec<RouteError> {
    match Mapping::new(&routes(rules), AckLevel::Stored) {
        Ok(_) => panic!("{rules:?} accepted"),
        Err(errors) => errors,
    }
}

pub fn place(mapping: &Mapping, topic: &str) -> (String, Option<String>, Option<usize>) {
    let mapped = mapping.map(topic);
    let key = mapped.key.map(|key| String::from_utf8(key.to_vec()).unwrap());
    (mapped.topic.to_string(), key, mapped.rule)
}

#[test]
fn the_designs_example() {
    let mapping = accepted(&[("device/{id}/thermo", "device-thermo", "{id}")]);
    for (topic, name, key, rule) in [
        ("device/42/thermo", "device-thermo", Some("42"), Some(0)),
        ("device/a-b é/thermo", "device-thermo", Some("a-b é"), Some(0)),
        ("device//thermo", "device-thermo", Some(""), Some(0)),
        ("device/42/thermo/x", "device-thermo-x", Some("42"), None),
        ("device/42", "device", Some("42"), None),
        ("device", "device", None, None),
    ] {
        assert_eq!(
            place(&mapping, topic),
            (name.to_owned(), key.map(str::to_owned), rule),
            "{topic}"
        );
        assert_eq!(mapping.unmap(name, key.map(str::as_bytes)).as_deref(), Some(topic));
    }
}

#[test]
fn captures_go_into_topic_and_key() {
    let mapping = accepted(&[
        ("t/{tenant}/{id}/{kind}", "tenant.{tenant}.{kind}", "{id}"),
        ("plant/{line}/{machine}/temp", "plant-temp", "{line}/{machine}"),
        ("log/{rest...}", "logs.all", "{rest}"),
        ("deep/{id}/{rest...}", "deep.{rest...}", "dev-{id}"),
        ("fixed", "one.fixed", "all"),
    ]);
    for (topic, name, key) in [
        ("t/a.c/7/x-y", "tenant.a_2Ec.x_2Dy", "7"),
        ("plant/l1/m/temp", "plant-temp", "l1/m"),
        ("log/a/b//", "logs.all", "a/b//"),
        ("log/", "logs.all", ""),
        ("deep/1/a/b-c", "deep.a-b_2Dc", "dev-1"),
        ("fixed", "one.fixed", "all"),
    ] {
        let (have, have_key, rule) = place(&mapping, topic);
        assert_eq!((have.as_str(), have_key.as_deref()), (name, Some(key)), "{topic}");
        assert!(rule.is_some(), "{topic}");
        assert_eq!(mapping.unmap(name, Some(key.as_bytes())).as_deref(), Some(topic));
    }
    assert_eq!(place(&mapping, "log").2, None, "the rest is at least one level");
}

#[test]
fn sensible_configurations_are_accepted() {
    // A special case before the general one, which would map it the same way.
    accepted(&[
        ("device/{id}/thermo", "device-thermo", "{id}"),
        ("device/{id}/{kind}", "device-{kind}", "{id}"),
    ]);
    // Two sources into one topic, apart by key.
    accepted(&[("a/{id}", "in.all", "a/{id}"), ("b/{id}", "in.all", "b/{id}")]);
    accepted(&[
        ("a/{id}", "in.a", "{id}"),
        ("b/{id}", "in.b", "{id}"),
        ("{all...}", "rest.all", "{all}"),
    ]);
    accepted(&[("{tenant}/{id}/{rest...}", "{tenant}.{rest}", "{id}")]);
    accepted(&[("a/{x}", "telemetry", "{x}"), ("telemetry/{x}", "old.telemetry", "{x}")]);
    accepted(&[
        ("device/{id}/thermo", "device.thermo.{id}", ""),
        ("device/{id}/{a}/{b}", "d.{a}.{b}", "{id}"),
    ]);
}

#[test]
fn rules_wrong_by_themselves_are_refused_all_at_once() {
    let cases: [(&str, &str, &str, &str); 24] = [
        ("", "t.a", "", "empty filter"),
        ("a/+", "t.a", "", "'{name}'"),
        ("a/#", "t.a", "", "'{name...}'"),
        ("a/b+", "t.a", "", "level 'b+'"),
        ("a/x{id}", "t.a", "{id}", "level 'x{id}'"),
        ("a/{}", "t.a", "", "level '{}'"),
        ("a/{x...}/b", "t.a", "{x}", "before its end"),
        ("a/{x}/{x}", "t.a", "{x}", "twice"),
        ("a/{x}", "t.{y}", "{x}", "captured are: x"),
        ("a/{x}", "t.a", "{y}", "'{y}' in its key"),
        ("a/{x}", "t.{x", "", "brace in its topic"),
        ("a/{x}", "t.a", "x}", "brace in its key"),
        ("a/b", "t/a", "", "'/' in its topic"),
        ("a/b", "tä", "", "'ä' in its topic"),
        ("a/b", "", "", "not empty"),
        ("a/b", "..", "", "'..'"),
        ("a/b", "__consumer_offsets", "", "Kafka's own"),
        ("a/{x}/{y}", "t.{x}_{y}", "", "put '-' or '.' between"),
        ("a/{x}/{y}", "t.a", "{x}-{y}", "put '/'"),
        ("a/{x...}", "t.a{x}", "", "set it off"),
        ("a/{x...}", "t.{x}.{x}", "", "use it once"),
        ("a/{x}/{y}", "t.a", "{y}", "loses '{x}': 'a/x1/x2' and 'a/y1/x2'"),
        ("a/{x...}", "t.a", "", "loses '{x}'"),
        ("a/{x}/b", "t.a", "all", "loses '{x}'"),
    ];
    for (filter, topic, key, text) in cases {
        let errors = refused(&[(filter, topic, key)]);
        let message = errors[0].to_string();
        assert!(message.contains(text), "{filter} -> {message}");
        assert!(message.starts_with(&format!("line 10: route '{filter}'")), "{message}");
    }
    let long = "a".repeat(249);
    assert!(matches!(
        refused(&[("a", &long, "")])[0],
        RouteError::TopicTooLong { length: 249, .. }
    ));
    let empty_key =
        RouteConfig { key: Some(String::new()), ..routes(&[("a", "t.a", "")]).remove(0) };
    let errors = Mapping::new(&[empty_key], AckLevel::Stored).unwrap_err();
    assert!(matches!(errors[..], [RouteError::EmptyKey { .. }]));

    // The filter does not hide what is wrong with topic and key.
    let errors = refused(&[("a/+", "t ä", "{id}")]);
    assert!(
        matches!(
            errors[..],
            [
                RouteError::Wildcard { .. },
                RouteError::IllegalCharacter { .. },
                RouteError::IllegalCharacter { .. },
                RouteError::UnknownCapture { field: Field::Key, .. }
            ]
        ),
        "{errors:?}"
    );

    let all: Vec<(&str, &str, &str)> =
        cases.iter().map(|(filter, topic, key, _)| (*filter, *topic, *key)).collect();
    let errors = refused(&all);
    for line in (1..=cases.len()).map(|number| 10 * number) {
        assert!(errors.iter().any(|error| error.line() == line), "nothing about line {line}");
    }
}

#[test]
fn dead_rules_are_refused() {
    for rules in [
        [("a/{x}", "t.a", "{x}"), ("a/b", "t.b", "")],
        [("a/{x}", "t.a", "{x}"), ("a/{y}", "t.b", "{y}")],
        [("a/{x...}", "t.a", "{x}"), ("a/b/{y}", "t.b", "{y}")],
        [("{x...}", "t.a", "{x}"), ("a/{y...}", "t.b", "{y}")],
    ] {
        let errors = refused(&rules);
        assert!(
            matches!(&errors[..], [RouteError::Dead { at, by }] if at.line == 20 && by.line == 10),
            "{rules:?}: {errors:?}"
        );
    }
    // Two rules together take everything.
    let errors = refused(&[
        ("{x}", "t.a", "{x}"),
        ("{x}/{y...}", "t.b", "{x}/{y}"),
        ("{z...}", "t.c", "{z}"),
    ]);
    assert!(matches!(&errors[..], [RouteError::Dead { at, .. }] if at.line == 30), "{errors:?}");
    // One level only is taken.
    accepted(&[("a/{x}", "t.a", "{x}"), ("a/{y...}", "t.b", "{y}")]);
}

#[test]
fn ambiguous_rules_are_refused_with_an_example() {
    for (rules, line, first, second) in [
        (&[("a/{x}", "t.a", "{x}"), ("b/{x}", "t.a", "{x}")][..], 20, "a/x1", "b/x1"),
        (&[("a/{x}", "t.{x}", ""), ("b", "t.b", "")], 20, "a/b", "b"),
        (&[("a/{x}", "t.a", "k{x}"), ("b/{x}", "t.a", "{x}")], 20, "a/x1", "b/kx1"),
        (&[("a/{x}/{y}", "{x}-m.", "{y}"), ("b/{x}/{y}", "n-{x}.", "{y}")], 20, "a/n/x1", "b/m/x1"),
        (&[("a/{r...}", "x.{r}", ""), ("b/{r}/{s}", "x.{r}-{s}", "")], 20, "a/x1/x2", "b/x1/x2"),
        (&[("a/{r...}", "x.{r}-e", ""), ("b/{r...}", "x.f-{r}", "")], 20, "a/f", "b/e"),
        (&[("a/{x}", "t.{x}", "{x}"), ("b/{x}/{y}", "t.{x}", "{y}")], 20, "a/x1", "b/x1/x1"),
        (&[("a/{x}", "telemetry", "{x}")], 10, "a/x1", "telemetry/x1"),
        (&[("a/{x}", "{x}", "")], 10, "a/x1", "x1"),
        (&[("a/{x}", "_{x}", "")], 10, "a/24x1", "$x1"),
        (&[("a", "b-c", "k")], 10, "a", "b/k/c"),
    ] {
        let errors = refused(rules);
        let [error] = &errors[..] else { panic!("{rules:?}: {errors:?}") };
        assert_eq!(error.line(), line);
        let (RouteError::Ambiguous { first: one, second: two, .. }
        | RouteError::AmbiguousDefault { first: one, second: two, .. }) = error
        else {
            panic!("{rules:?}: {error}")
        };
        assert_eq!((one.as_str(), two.as_str()), (first, second), "{rules:?}");
    }
    let errors = refused(&[("a", "in.a_b", ""), ("b", "in_a.b", "")]);
    assert!(matches!(&errors[..], [RouteError::NearlySame { .. }]), "{errors:?}");
}

#[test]
fn levels_of_acknowledgement() {
    let mut config = routes(&[("a/{x}", "t.a", "{x}"), ("b/{x}", "t.b", "{x}")]);
    config[0].ack = Some(AckLevel::Kafka);
    let mapping = Mapping::new(&config, AckLevel::Accepted).unwrap();
    assert_eq!(mapping.map("a/1").ack, AckLevel::Kafka);
    assert_eq!(mapping.map("b/1").ack, AckLevel::Accepted);
    assert_eq!(mapping.map("c/1").ack, AckLevel::Accepted);
    assert_eq!(mapping.map("a/1").on_refused, OnRefused::DeadLetter);
    config[1].on_refused = Some(OnRefused::DeadLetter);
    let mapping = Mapping::new(&config, AckLevel::Accepted).unwrap();
    let mapping = mapping.on_refused(OnRefused::Disconnect);
    let at = |topic| mapping.map(topic).on_refused;
    let dead = OnRefused::DeadLetter;
    assert_eq!(["a/1", "b/1", "c/1"].map(at), [OnRefused::Disconnect, dead, OnRefused::Disconnect]);
    assert_eq!(mapping.rules().len(), 2);
}

#[test]
fn explanations_say_why() {
    let mapping = accepted(&[
        ("a/{x}/b", "t.a", "{x}"),
        ("c/{x}", "t.c", "{x}"),
        ("d/{x}/{y}", "d.{y}", "{x}"),
    ]);
    let text = mapping.explain("d/21/p-q").to_string();
    for line in [
        "MQTT topic   d/21/p-q",
        "not          line 10: route 'a/{x}/b': level 1 is 'd', it wants 'a'",
        "not          line 20: route 'c/{x}': it is for another number of levels than 3",
        "by           line 30: route 'd/{x}/{y}', the first that matches",
        "Kafka topic  d.p_2Dq",
        "encoded      'p-q' as 'p_2Dq'",
        "key          '21' (2 bytes)",
        "murmur2      -973932308 (partition = 1173551340 modulo the number of partitions)",
        "ack          stored",
    ] {
        assert!(text.lines().any(|have| have == line), "no '{line}' in\n{text}");
    }
    let text = mapping.explain("d/21/p-q").without_log().to_string();
    assert!(
        text.contains("by           line 30") && text.ends_with("ack          stored"),
        "{text}"
    );
    assert!(!text.contains("Kafka topic") && !text.contains("key "), "{text}");
    let text = mapping.explain("x").to_string();
    assert!(text.contains("the default rule") && text.contains("none (null)"), "{text}");
    assert!(mapping.explain("a/#").to_string().contains("no client can publish"));
    let text = mapping.explain(&format!("x/1/{}", "é".repeat(60))).to_string();
    assert!(text.contains("shortened    from 362 characters"), "{text}");
}

#[test]
fn a_thousand_rules_are_checked() {
    let names: Vec<(String, String)> =
        (0..MAX_ROUTES).map(|n| (format!("s{n}/{{r...}}"), format!("in.s{n}"))).collect();
    let rules: Vec<(&str, &str, &str)> =
        names.iter().map(|(filter, topic)| (filter.as_str(), topic.as_str(), "{r}")).collect();
    assert_eq!(
        place(&accepted(&rules), "s999/a/b"),
        ("in.s999".into(), Some("a/b".into()), Some(999))
    );
    let mut more = rules.clone();
    more.push(("b", "t.b", ""));
    assert!(matches!(refused(&more)[..], [RouteError::TooMany { .. }]));
}
