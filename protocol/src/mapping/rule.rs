//! One rule: its filter, its two templates, and how a topic is taken apart and put together.
//!
//! Invariants of a compiled rule, which make it reversible: every capture is in the topic or the
//! key; two captures of a template are separated by a character that their text never holds ('-'
//! or '.' in the topic, '/' in the key); at most one capture has several levels, and it stands
//! alone between separators.

use super::encode::{MAX_PLAIN, decode_level, encode_level, encode_levels, is_legal};
use super::error::{At, Field, RouteError};
use super::filter::{Filter, is_name};
use super::route::RouteConfig;

/// What stands between two separators of a template: text with at most one capture in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    pub prefix: String,
    /// The capture's number.
    pub capture: Option<usize>,
    pub suffix: String,
}

/// A template of a Kafka topic or key.
#[derive(Debug, Clone)]
pub struct Template {
    pub field: Field,
    pub segments: Vec<Segment>,
    /// One fewer than segments.
    pub separators: Vec<char>,
}

impl Field {
    /// The characters that separate captures: their text never holds one.
    const fn separators(self) -> &'static [char] {
        match self {
            Self::Topic => &['-', '.'],
            Self::Key => &['/'],
        }
    }

    /// What joins the levels of a capture that has several.
    const fn joiner(self) -> char {
        match self {
            Self::Topic => '-',
            Self::Key => '/',
        }
    }

    /// A level's text in this field.
    pub fn encode(self, level: &str) -> String {
        match self {
            Self::Key => level.to_owned(),
            Self::Topic => {
                let mut text = String::new();
                encode_level(level, &mut text);
                text
            }
        }
    }

    /// The level with this text in this field.
    pub fn decode(self, text: &str) -> Option<String> {
        match self {
            Self::Key => (!text.contains(['\0', '/', '+', '#'])).then(|| text.to_owned()),
            Self::Topic => decode_level(text),
        }
    }
}

impl Template {
    fn parse(
        field: Field,
        text: &str,
        filter: &Filter,
        at: &At,
        errors: &mut Vec<RouteError>,
    ) -> Option<Self> {
        let at = || at.clone();
        let before = errors.len();
        let mut template = Self { field, segments: Vec::new(), separators: Vec::new() };
        let mut segment = Segment::default();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            if character == '{' {
                let Some((name, after)) = rest
                    .split_once('}')
                    .filter(|(name, _)| is_name(name.strip_suffix("...").unwrap_or(name)))
                else {
                    errors.push(RouteError::BadBrace { at: at(), field });
                    return None;
                };
                rest = after;
                let name = name.strip_suffix("...").unwrap_or(name);
                let Some(number) = filter.captures.iter().position(|known| known == name) else {
                    let known = if filter.captures.is_empty() {
                        "none".to_owned()
                    } else {
                        filter.captures.join(", ")
                    };
                    errors.push(RouteError::UnknownCapture {
                        at: at(),
                        field,
                        name: name.to_owned(),
                        known,
                    });
                    continue;
                };
                if let Some(first) = segment.capture.replace(number) {
                    let first = filter.captures[first].clone();
                    errors.push(RouteError::Inseparable {
                        at: at(),
                        field,
                        first,
                        second: name.to_owned(),
                    });
                }
            } else if character == '}' {
                errors.push(RouteError::BadBrace { at: at(), field });
                return None;
            } else if field.separators().contains(&character) {
                template.segments.push(std::mem::take(&mut segment));
                template.separators.push(character);
            } else {
                if field == Field::Topic && !is_legal(character) {
                    errors.push(RouteError::IllegalCharacter { at: at(), character });
                }
                let place = if segment.capture.is_some() {
                    &mut segment.suffix
                } else {
                    &mut segment.prefix
                };
                place.push(character);
            }
        }
        template.segments.push(segment);
        if let Some(number) = filter.rest() {
            let mut uses =
                template.segments.iter().filter(|segment| segment.capture == Some(number));
            let name = || filter.captures[number].clone();
            if uses.clone().any(|segment| !segment.prefix.is_empty() || !segment.suffix.is_empty())
            {
                errors.push(RouteError::RestJoined { at: at(), field, name: name() });
            }
            if uses.nth(1).is_some() {
                errors.push(RouteError::RestTwice { at: at(), field, name: name() });
            }
        }
        (errors.len() == before).then_some(template)
    }

    /// The text when it holds no capture.
    pub fn fixed(&self) -> Option<String> {
        let none = self.segments.iter().all(|segment| segment.capture.is_none());
        none.then(|| self.render(&[]))
    }

    /// The text with these captures, before [`super::encode::fit`].
    pub fn render(&self, values: &[&[&str]]) -> String {
        let mut out = String::new();
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                out.push(self.separators[index - 1]);
            }
            out.push_str(&segment.prefix);
            if let Some(number) = segment.capture {
                match self.field {
                    Field::Topic => encode_levels(values[number], &mut out),
                    Field::Key => out.push_str(&values[number].join("/")),
                }
            }
            out.push_str(&segment.suffix);
        }
        out
    }

    /// Undoes [`Self::render`]: puts what the text says of the captures into `values`. False when
    /// the template never makes the text, or when it contradicts what `values` holds.
    fn read(&self, text: &str, rest: Option<usize>, values: &mut [Option<Vec<String>>]) -> bool {
        let parts: Vec<&str> = text.split(self.field.separators()).collect();
        let separators: Vec<char> =
            text.chars().filter(|c| self.field.separators().contains(c)).collect();
        let has_rest =
            rest.is_some() && self.segments.iter().any(|segment| segment.capture == rest);
        let fixed = self.segments.len();
        if if has_rest { parts.len() < fixed } else { parts.len() != fixed } {
            return false;
        }
        let mut next = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            let take = if segment.capture.is_some() && segment.capture == rest {
                parts.len() - fixed + 1
            } else {
                1
            };
            let taken = &parts[next..next + take];
            if separators[next..next + take - 1]
                .iter()
                .any(|&separator| separator != self.field.joiner())
                || (index > 0 && separators[next - 1] != self.separators[index - 1])
            {
                return false;
            }
            next += take;
            let Some(number) = segment.capture else {
                if taken[0] != segment.prefix {
                    return false;
                }
                continue;
            };
            let inner = |text: &&str| {
                let inner = text
                    .strip_prefix(segment.prefix.as_str())?
                    .strip_suffix(segment.suffix.as_str())?;
                self.field.decode(inner)
            };
            let Some(value) = taken.iter().map(inner).collect::<Option<Vec<String>>>() else {
                return false;
            };
            if values[number].get_or_insert_with(|| value.clone()) != &value {
                return false;
            }
        }
        true
    }
}

/// A compiled rule.
#[derive(Debug, Clone)]
pub struct Rule {
    pub at: At,
    pub filter: Filter,
    pub topic: Template,
    pub key: Option<Template>,
}

/// What the parts of a route compile to; the rule only when all of them do.
pub struct Compiled {
    /// The filter, when it is in order.
    pub filter: Option<Filter>,
    /// The rule.
    pub rule: Option<Rule>,
}

impl Rule {
    /// Compiles a route and reports everything that is wrong with it alone.
    pub fn compile(route: &RouteConfig, errors: &mut Vec<RouteError>) -> Compiled {
        let at = At { line: route.line, filter: route.filter.clone() };
        let before = errors.len();
        // Topic and key are looked at also where the filter is wrong: all at once.
        let filter = Filter::parse(&at, errors);
        let sound = errors.len() == before;
        let topic = Template::parse(Field::Topic, &route.topic, &filter, &at, errors);
        if matches!(route.topic.as_str(), "" | "." | "..") {
            errors.push(RouteError::IllegalTopic { at: at.clone(), topic: route.topic.clone() });
        }
        if route.topic.starts_with("__") {
            errors.push(RouteError::InternalTopic { at: at.clone() });
        }
        if let Some(topic) = &topic {
            let text =
                topic.segments.iter().map(|segment| segment.prefix.len() + segment.suffix.len());
            let length = text.sum::<usize>() + topic.separators.len();
            if length > MAX_PLAIN {
                errors.push(RouteError::TopicTooLong { at: at.clone(), length });
            }
        }
        let key = route.key.as_deref().map(|key| {
            if key.is_empty() {
                errors.push(RouteError::EmptyKey { at: at.clone() });
            }
            Template::parse(Field::Key, key, &filter, &at, errors)
        });
        if errors.len() > before {
            return Compiled { filter: sound.then_some(filter), rule: None };
        }
        let rule = match (topic, key) {
            (Some(topic), None) => Some(Self { at, filter: filter.clone(), topic, key: None }),
            (Some(topic), Some(Some(key))) => {
                Some(Self { at, filter: filter.clone(), topic, key: Some(key) })
            }
            _ => None,
        };
        Compiled { filter: Some(filter), rule }
    }

    /// Name (before [`super::encode::fit`]) and key of a topic that the filter matches.
    pub fn image(&self, values: &[&[&str]]) -> (String, Option<String>) {
        (self.topic.render(values), self.key.as_ref().map(|key| key.render(values)))
    }

    /// Whether some topic's name (before [`super::encode::fit`]) is this one, with a key that is not the
    /// whole MQTT topic.
    pub fn makes(&self, name: &str, route: &RouteConfig) -> bool {
        let whole = route.filter.replace("...}", "}");
        let mut values = vec![None; self.filter.captures.len()];
        route.key.as_ref() != Some(&whole) && self.topic.read(name, self.filter.rest(), &mut values)
    }

    /// The MQTT topic whose image this is, if the filter has one.
    pub fn preimage(&self, name: &str, key: Option<&str>) -> Option<String> {
        let rest = self.filter.rest();
        let mut values = vec![None; self.filter.captures.len()];
        let whole = self.topic.read(name, rest, &mut values)
            && match (&self.key, key) {
                (None, None) => true,
                (Some(template), Some(key)) => template.read(key, rest, &mut values),
                _ => false,
            };
        if !whole {
            return None;
        }
        let topic = self.filter.fill(&values.into_iter().collect::<Option<Vec<_>>>()?);
        (!topic.is_empty()).then_some(topic)
    }
}
