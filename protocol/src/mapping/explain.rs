//! What `broker route TOPIC` prints: where a topic goes, and why.

use std::fmt;

use super::filter::Mismatch;
use super::{At, Mapped, Mapping, encode, murmur2};
use crate::message::{AckLevel, OnRefused};

/// Where a topic goes and why; its `Display` is lines for a reader.
#[derive(Debug, Clone)]
pub struct Explanation {
    mqtt_topic: String,
    /// Rules that come before the one that matched, and why they do not match.
    passed: Vec<(At, Mismatch)>,
    rule: Option<At>,
    mapped: Mapped,
    /// Levels that were encoded, with their encoding.
    encoded: Vec<(String, String)>,
    /// The name before it was shortened.
    shortened: Option<String>,
    /// There is a log for the record to go to.
    logged: bool,
}

impl Mapping {
    /// The same as [`Self::map`], for a reader.
    pub fn explain(&self, topic: &str) -> Explanation {
        Explanation::new(self, topic)
    }
}

impl Explanation {
    fn new(mapping: &Mapping, topic: &str) -> Self {
        let levels: Vec<&str> = topic.split('/').collect();
        let mut passed = Vec::new();
        let mut rule = None;
        let mut image = None;
        let mut used: Vec<&str> = Vec::new();
        for candidate in mapping.rules.iter() {
            match candidate.filter.captured(&levels) {
                Err(mismatch) => passed.push((candidate.at.clone(), mismatch)),
                Ok(values) => {
                    rule = Some(candidate.at.clone());
                    image = Some(candidate.image(&values).0);
                    let captures =
                        candidate.topic.segments.iter().filter_map(|segment| segment.capture);
                    used.extend(captures.flat_map(|number| values[number]));
                    break;
                }
            }
        }
        if rule.is_none() {
            used.extend(
                levels.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, level)| level),
            );
        }
        let name = image.unwrap_or_else(|| encode::default_image(topic).0);
        let mut encoded: Vec<(String, String)> = Vec::new();
        for level in used {
            let mut text = String::new();
            encode::encode_level(level, &mut text);
            if text != level && !encoded.iter().any(|(known, _)| known == level) {
                encoded.push((level.to_owned(), text));
            }
        }
        let mapped = mapping.map(topic);
        let shortened = (*name != *mapped.topic).then_some(name);
        Self {
            mqtt_topic: topic.to_owned(),
            passed,
            rule,
            mapped,
            encoded,
            shortened,
            logged: true,
        }
    }

    /// For a node without a log: the rule and the acknowledgement, and no place of a record.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.logged = false;
        self
    }

    /// Where the topic goes.
    pub fn mapped(&self) -> &Mapped {
        &self.mapped
    }
}

/// Why no client may publish to a topic, if so (MQTT 3.1.1 sections 1.5.3, 3.3.2.1 and 4.7).
fn problem(topic: &str) -> Option<&'static str> {
    if topic.is_empty() {
        Some("a topic name has at least one character")
    } else if topic.len() > 65_535 {
        Some("a topic name has at most 65,535 bytes")
    } else if topic.contains(['+', '#']) {
        Some("'+' and '#' belong into topic filters, not into topic names")
    } else if topic.contains('\0') {
        Some("a topic name does not hold the character NUL")
    } else {
        None
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "MQTT topic   {}", self.mqtt_topic)?;
        if let Some(problem) = problem(&self.mqtt_topic) {
            return write!(f, "             no client can publish to it: {problem}");
        }
        for (at, mismatch) in &self.passed {
            write!(f, "not          {at}: ")?;
            match mismatch {
                Mismatch::Count(count) => {
                    writeln!(f, "it is for another number of levels than {count}")?;
                }
                Mismatch::Level(level, wanted) => {
                    let have = self.mqtt_topic.split('/').nth(level - 1).unwrap_or("");
                    writeln!(f, "level {level} is '{have}', it wants '{wanted}'")?;
                }
            }
        }
        match &self.rule {
            Some(at) => writeln!(f, "by           {at}, the first that matches")?,
            None => writeln!(
                f,
                "by           the default rule: the second level is the key, the others joined by '-' are the topic"
            )?,
        }
        if !self.logged {
            return write!(f, "ack          {}", self.mapped.ack.as_str());
        }
        writeln!(f, "Kafka topic  {}", self.mapped.topic)?;
        for (level, text) in &self.encoded {
            let why = if level.is_empty() { " (an empty level)" } else { "" };
            writeln!(f, "encoded      '{level}' as '{text}'{why}")?;
        }
        if let Some(name) = &self.shortened {
            let (length, limit) = (name.len(), encode::MAX_PLAIN);
            writeln!(
                f,
                "shortened    from {length} characters (more than {limit}): its beginning, '_FF', and the SHA-256 of the whole; \
                 read the record's header for the MQTT topic"
            )?;
        }
        match &self.mapped.key {
            None => writeln!(f, "key          none (null): no partition is preferred")?,
            Some(key) => {
                let hash = murmur2(key);
                let positive = hash & 0x7fff_ffff;
                writeln!(
                    f,
                    "key          '{}' ({} bytes)",
                    String::from_utf8_lossy(key),
                    key.len()
                )?;
                writeln!(
                    f,
                    "murmur2      {} (partition = {positive} modulo the number of partitions)",
                    hash as i32
                )?;
            }
        }
        write!(f, "ack          {}", self.mapped.ack.as_str())?;
        match (self.mapped.ack, self.mapped.on_refused) {
            (AckLevel::Kafka, OnRefused::Disconnect) => {
                write!(f, "; a refused record is not acknowledged, its publisher is disconnected")
            }
            _ => Ok(()),
        }
    }
}
