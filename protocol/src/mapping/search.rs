//! A search for two topics in one place: small random rule sets, every small topic.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::tests::{accepted, place, routes};
use super::*;

/// Every topic of up to four levels out of these: the texts that the generated rules use, others,
/// and such that complete an escape.
const LEVELS: [&str; 7] = ["a", "b", "ab", "", "a-b", "2D", "_b"];

fn small_topics() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for depth in 0..4 {
        let join = |start: &String, level: &&str| {
            if depth == 0 { (*level).to_owned() } else { format!("{start}/{level}") }
        };
        last = last
            .iter()
            .flat_map(|start| LEVELS.iter().map(move |level| join(start, level)))
            .collect();
        all.extend(last.iter().filter(|topic| !topic.is_empty()).cloned());
    }
    all
}

fn small_rules() -> impl Strategy<Value = Vec<RouteConfig>> {
    let filter = proptest::sample::select(vec![
        "a",
        "{x}",
        "a/{x}",
        "{x}/a",
        "{x}/{y}",
        "{x}/b/{y}",
        "a/{x}/b",
        "a/{x}/{y}",
        "{x...}",
        "a/{x...}",
        "{y}/{x...}",
        "b/{x}/{y...}",
        "b/{x}",
        "a/b/{x}/{y}",
    ]);
    let topic = proptest::sample::select(vec![
        "a",
        "a-b",
        "{x}",
        "a-{x}",
        "{x}-b",
        "{x}-{y}",
        "{y}-a",
        "a{x}",
        "{x}b",
        "a_{x}",
        "a.{x}",
        "a.b",
        "{x}.a",
        "_{x}",
        "a-{x}-{y}",
        "{y}.{x}",
        "ab",
    ]);
    let key = proptest::sample::select(vec![
        "", "a", "{x}", "{y}", "{x}/{y}", "{y}/{x}", "a{x}", "{x}b", "a/{x}",
    ]);
    let rule =
        (filter, topic, key).prop_filter("captures are known and kept", |(filter, topic, key)| {
            ["x", "y"].iter().all(|name| {
                let uses = |text: &&str| text.contains(&format!("{{{name}"));
                uses(filter) == (uses(topic) || uses(key))
            })
        });
    proptest::collection::vec(rule, 1..4).prop_map(|rules| routes(&rules))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is accepted brings no two topics to one place and can be read backwards; what is
    /// refused as ambiguous names two topics that really meet.
    #[test]
    fn accepted_rules_keep_topics_apart(config in small_rules()) {
        match Mapping::new(&config, AckLevel::Stored) {
            Ok(mapping) => {
                let mut seen = HashMap::new();
                for topic in small_topics() {
                    let (name, key, _) = place(&mapping, &topic);
                    prop_assert_eq!(mapping.unmap(&name, key.as_deref().map(str::as_bytes)), Some(topic.clone()));
                    if let Some(other) = seen.insert((name, key), topic.clone()) {
                        prop_assert!(false, "{} and {} meet under {:?}", other, topic, config);
                    }
                }
            }
            Err(errors) => {
                for error in errors {
                    let (RouteError::Ambiguous { first, second, .. } | RouteError::AmbiguousDefault { first, second, .. }) = &error
                    else { continue };
                    let image = |topic: &str| unchecked(&config).map(topic);
                    let (one, two) = (image(first), image(second));
                    prop_assert_ne!(first, second);
                    prop_assert!(one.topic == two.topic && one.key == two.key, "{} under {:?}", error, config);
                }
            }
        }
    }

    #[test]
    fn every_topic_has_a_legal_place(topic in "[^\u{0}+#]{1,90}") {
        let mapping = accepted(&[("a/{x}", "t.{x}", ""), ("{x}/{y}/{r...}", "{x}.{r}", "{y}")]);
        let mapped = mapping.map(&topic);
        prop_assert!(!mapped.topic.is_empty() && mapped.topic.len() <= MAX_NAME);
        prop_assert!(mapped.topic.chars().all(encode::is_legal), "{}", mapped.topic);
        prop_assert!(&*mapped.topic != "." && &*mapped.topic != "..");
        if mapped.topic.len() < MAX_NAME {
            prop_assert_eq!(mapping.unmap(&mapped.topic, mapped.key.as_deref()), Some(topic));
        }
        prop_assert!(mapping.explain("x").to_string().contains("ack"));
    }
}

/// A mapping that the checks between rules would refuse.
fn unchecked(config: &[RouteConfig]) -> Mapping {
    let mut errors = Vec::new();
    let rules: Vec<Rule> =
        config.iter().filter_map(|route| Rule::compile(route, &mut errors).rule).collect();
    assert!(errors.is_empty(), "{errors:?}");
    Mapping {
        rules: rules.into(),
        routes: config.into(),
        default_ack: AckLevel::Stored,
        default_on_refused: OnRefused::DeadLetter,
    }
}
