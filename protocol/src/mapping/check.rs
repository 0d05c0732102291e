//! What is wrong between rules: dead ones, and topics whose records could not be told apart.
//!
//! Two different MQTT topics must never have the same Kafka topic and key, whichever rules they
//! take. Within a rule the template's form ensures it (see `rule`) once no capture is lost. Between
//! rules it is decided with *generic topics*: a capture that nothing forces to a value gets a text
//! that no filter spells out, so that another rule takes the generic topic only through a capture,
//! and then takes all the topics it stands for. Captures of several levels are tried with every
//! number of levels up to [`Checker::reach`], past which all filters and templates treat them alike.
//! Two rules are compared by solving "topic = topic, key = key" for their captures.
//!
//! So a refusal names two topics that really collide, with one exception: where captures are
//! joined with text on both sides ("a{x}" against "{y}b", in chains), a contradiction found after a
//! guess is not a proof, and the pair is refused as `MaybeAmbiguous`.

use std::collections::HashSet;

use super::encode::default_preimage;
use super::error::{Field, RouteError};
use super::filter::{Filter, Level};
use super::rule::{Rule, Template};

/// A segment with at most one unknown, of one level.
#[derive(Debug, Clone)]
struct Term<'a> {
    prefix: &'a str,
    unknown: Option<usize>,
    suffix: &'a str,
}

/// A rule with its last capture fixed to a number of levels: every unknown is one level.
#[derive(Debug)]
struct Flat<'a> {
    topic: Vec<Term<'a>>,
    separators: Vec<char>,
    key: Option<Vec<Term<'a>>>,
    /// Levels of the last capture, 1 where it has one.
    rest: usize,
    unknowns: usize,
}

impl<'a> Flat<'a> {
    fn new(rule: &'a Rule, rest: usize) -> Self {
        let (topic, separators) = Self::flatten(&rule.topic, rule.filter.rest(), rest);
        let key = rule.key.as_ref().map(|key| Self::flatten(key, rule.filter.rest(), rest).0);
        let unknowns = rule.filter.captures.len() + rest - 1;
        Self { topic, separators, key, rest, unknowns }
    }

    fn flatten(
        template: &'a Template,
        several: Option<usize>,
        rest: usize,
    ) -> (Vec<Term<'a>>, Vec<char>) {
        let (mut terms, mut separators) = (Vec::new(), Vec::new());
        for (index, segment) in template.segments.iter().enumerate() {
            if index > 0 {
                separators.push(template.separators[index - 1]);
            }
            let times =
                if segment.capture.is_some() && segment.capture == several { rest } else { 1 };
            for time in 0..times {
                if time > 0 {
                    separators.push('-');
                }
                let unknown = segment.capture.map(|number| number + time);
                terms.push(Term { prefix: &segment.prefix, unknown, suffix: &segment.suffix });
            }
        }
        (terms, separators)
    }

    /// The MQTT topic with these unknowns.
    fn topic_of(&self, filter: &Filter, unknowns: &[String]) -> String {
        let mut values: Vec<Vec<String>> =
            unknowns.iter().map(|value| vec![value.clone()]).collect();
        if filter.rest().is_some() {
            let tail = values.split_off(values.len() - self.rest);
            values.push(tail.into_iter().flatten().collect());
        }
        filter.fill(&values)
    }
}

/// How a comparison of two rules ended.
#[derive(Debug, PartialEq, Eq)]
enum Solution {
    /// No two topics of theirs share a record's place.
    Apart,
    /// The most general two that do: values of the unknowns on both sides.
    Same(Vec<String>, Vec<String>),
    /// Not decided.
    Unknown,
}

/// Everything the comparisons share.
pub struct Checker<'a> {
    filters: &'a [Filter],
    /// Levels that some filter spells out.
    literals: HashSet<&'a str>,
    reach: usize,
}

impl<'a> Checker<'a> {
    /// `filters` in the order of the rules; `rules` the compiled ones (for their sizes).
    pub fn new(filters: &'a [Filter], rules: &[Rule]) -> Self {
        let literals = filters.iter().flat_map(|filter| &filter.levels);
        let literals = literals.filter_map(|level| match level {
            Level::Literal(text) => Some(text.as_str()),
            _ => None,
        });
        let sizes = filters.iter().map(|filter| filter.levels.len());
        let templates = rules.iter().map(|rule| rule.topic.segments.len());
        let keys = rules.iter().filter_map(|rule| rule.key.as_ref()).map(|key| key.segments.len());
        let largest = sizes.chain(templates).chain(keys).max().unwrap_or(0);
        Self { filters, literals: literals.collect(), reach: 2 * largest + 1 }
    }

    /// A text that no filter spells out, another one for each number.
    fn fresh(&self, stem: &str, number: usize) -> String {
        let mut text = format!("{stem}{}", number + 1);
        while self.literals.contains(text.as_str()) {
            text.push('x');
        }
        text
    }

    fn generic(&self, stem: &str, count: usize) -> Vec<String> {
        (0..count).map(|number| self.fresh(stem, number)).collect()
    }

    /// Which rule takes a topic.
    fn taker(&self, topic: &str) -> Option<usize> {
        let levels: Vec<&str> = topic.split('/').collect();
        self.filters.iter().position(|filter| filter.captured(&levels).is_ok())
    }

    /// The earlier rule that takes (the shortest of) the topics of a rule that gets none itself.
    pub fn dead(&self, number: usize) -> Option<usize> {
        let filter = &self.filters[number];
        let mut by = None;
        for rest in 1..=filter.rest().map_or(1, |_| self.reach) {
            let mut values: Vec<Vec<String>> = self
                .generic("x", filter.captures.len())
                .into_iter()
                .map(|value| vec![value])
                .collect();
            if let (Some(last), Some(_)) = (values.last_mut(), filter.rest()) {
                *last = self.generic("y", rest);
            }
            let taker = self.taker(&filter.fill(&values))?;
            if taker == number {
                return None;
            }
            by.get_or_insert(taker);
        }
        by
    }

    /// A capture that neither topic nor key keeps.
    pub fn lossy(&self, rule: &Rule) -> Vec<RouteError> {
        let used = |number| {
            let templates = std::iter::once(&rule.topic).chain(rule.key.as_ref());
            templates
                .flat_map(|template| &template.segments)
                .any(|segment| segment.capture == Some(number))
        };
        let lost = (0..rule.filter.captures.len()).filter(|number| !used(*number));
        let error = |number: usize| {
            let generic = |stem| {
                self.generic(stem, rule.filter.captures.len()).into_iter().map(|value| vec![value])
            };
            let first: Vec<Vec<String>> = generic("x").collect();
            let mut second = first.clone();
            second[number] = vec![self.fresh("y", number)];
            RouteError::Lossy {
                at: rule.at.clone(),
                name: rule.filter.captures[number].clone(),
                first: rule.filter.fill(&first),
                second: rule.filter.fill(&second),
            }
        };
        lost.map(error).collect()
    }

    /// Every ambiguity among rules that are neither dead nor lossy, and with the default rule.
    pub fn ambiguities(&self, rules: &[Rule]) -> Vec<RouteError> {
        let flats: Vec<Vec<Flat<'_>>> = rules
            .iter()
            .map(|rule| {
                let lengths = 1..=rule.filter.rest().map_or(1, |_| self.reach);
                lengths.map(|rest| Flat::new(rule, rest)).collect()
            })
            .collect();
        let mut errors = Vec::new();
        for later in 0..rules.len() {
            for earlier in 0..later {
                errors.extend(self.pair(rules, &flats, earlier, later));
                let (one, two) = (&rules[earlier], &rules[later]);
                if let (Some(other_topic), Some(topic)) = (one.topic.fixed(), two.topic.fixed())
                    && topic != other_topic
                    && topic.replace('.', "_") == other_topic.replace('.', "_")
                {
                    let (at, other) = (two.at.clone(), one.at.clone());
                    errors.push(RouteError::NearlySame { at, other, topic, other_topic });
                }
            }
            errors.extend(self.with_default(&rules[later], later, &flats[later]));
        }
        errors
    }

    fn pair(
        &self,
        rules: &[Rule],
        flats: &[Vec<Flat<'_>>],
        earlier: usize,
        later: usize,
    ) -> Option<RouteError> {
        let (one, two) = (&rules[earlier], &rules[later]);
        let mut unknown = false;
        for a in &flats[earlier] {
            for b in &flats[later] {
                match self.solve(a, b) {
                    Solution::Apart => {}
                    Solution::Unknown => unknown = true,
                    Solution::Same(left, right) => {
                        let first = a.topic_of(&one.filter, &left);
                        let second = b.topic_of(&two.filter, &right);
                        if self.taker(&first) == Some(earlier) && self.taker(&second) == Some(later)
                        {
                            let (at, other) = (two.at.clone(), one.at.clone());
                            return Some(RouteError::Ambiguous { at, other, first, second });
                        }
                    }
                }
            }
        }
        unknown.then(|| RouteError::MaybeAmbiguous { at: two.at.clone(), other: one.at.clone() })
    }

    fn with_default(&self, rule: &Rule, number: usize, flats: &[Flat<'_>]) -> Option<RouteError> {
        for flat in flats {
            // The second stem: after a '_' in the template its digits complete an escape.
            for stem in ["x", "24x"] {
                let first = flat.topic_of(&rule.filter, &self.generic(stem, flat.unknowns));
                if self.taker(&first) != Some(number) {
                    continue;
                }
                let levels: Vec<&str> = first.split('/').collect();
                let Ok(values) = rule.filter.captured(&levels) else {
                    continue;
                };
                let (name, key) = rule.image(&values);
                if let Some(second) = default_preimage(&name, key.as_deref().map(str::as_bytes))
                    && self.taker(&second).is_none()
                {
                    return Some(RouteError::AmbiguousDefault {
                        at: rule.at.clone(),
                        first,
                        second,
                    });
                }
            }
        }
        None
    }

    fn solve(&self, a: &Flat<'_>, b: &Flat<'_>) -> Solution {
        // The quick way out, taken by almost every pair of a long list.
        let differ = |(left, right): (&Term<'_>, &Term<'_>)| {
            left.unknown.is_none() && right.unknown.is_none() && left.prefix != right.prefix
        };
        if a.separators != b.separators || a.topic.iter().zip(&b.topic).any(differ) {
            return Solution::Apart;
        }
        let mut open: Vec<Equation<'_>> = Vec::with_capacity(a.topic.len() + 2);
        open.extend(a.topic.iter().zip(&b.topic).map(|(left, right)| Equation {
            field: Field::Topic,
            left,
            right,
        }));
        match (&a.key, &b.key) {
            (None, None) => {}
            (Some(left), Some(right)) if left.len() == right.len() => {
                open.extend(left.iter().zip(right).map(|(left, right)| Equation {
                    field: Field::Key,
                    left,
                    right,
                }));
            }
            _ => return Solution::Apart,
        }
        if open.iter().any(|equation| !equation.possible()) {
            return Solution::Apart;
        }
        let (mut left, mut right) = (vec![None; a.unknowns], vec![None; b.unknowns]);
        let mut guessed = false;
        let mut guesses = 0;
        while !open.is_empty() {
            let before = open.len();
            let mut failed = false;
            open.retain(|equation| match equation.step(&mut left, &mut right) {
                Some(done) => !done,
                None => {
                    failed = true;
                    true
                }
            });
            if failed {
                return if guessed { Solution::Unknown } else { Solution::Apart };
            }
            if open.len() == before {
                // Nothing is forced any more: equations that add text first, so that the plain
                // ones, which cannot fail, follow them.
                let index = open.iter().position(Equation::adds_text).unwrap_or(0);
                guessed |= open[index].adds_text();
                if !open[index].guess(&self.fresh("x", guesses), &mut left) {
                    return Solution::Unknown;
                }
                guesses += 1;
            }
        }
        let (left, right): (Option<Vec<_>>, Option<Vec<_>>) =
            (left.into_iter().collect(), right.into_iter().collect());
        match (left, right) {
            (Some(left), Some(right)) => Solution::Same(left, right),
            _ => Solution::Unknown,
        }
    }
}

/// Two terms that shall have the same text.
struct Equation<'a> {
    field: Field,
    left: &'a Term<'a>,
    right: &'a Term<'a>,
}

impl Equation<'_> {
    /// False when the text around the unknowns already differs.
    fn possible(&self) -> bool {
        let (left, right) = (self.left, self.right);
        if left.unknown.is_none() || right.unknown.is_none() {
            return true;
        }
        (left.prefix.starts_with(right.prefix) || right.prefix.starts_with(left.prefix))
            && (left.suffix.ends_with(right.suffix) || right.suffix.ends_with(left.suffix))
    }

    fn adds_text(&self) -> bool {
        self.left.prefix != self.right.prefix || self.left.suffix != self.right.suffix
    }

    /// `Some(true)`: holds now; `Some(false)`: both sides are open; `None`: cannot hold.
    fn step(&self, left: &mut [Option<String>], right: &mut [Option<String>]) -> Option<bool> {
        match (self.text(self.left, left), self.text(self.right, right)) {
            (None, None) => Some(false),
            (Some(one), Some(two)) => (one == two).then_some(true),
            (Some(text), None) => self.bind(self.right, &text, right),
            (None, Some(text)) => self.bind(self.left, &text, left),
        }
    }

    fn text(&self, term: &Term<'_>, values: &[Option<String>]) -> Option<String> {
        match term.unknown {
            None => Some(term.prefix.to_owned()),
            Some(number) => {
                let value = values[number].as_deref()?;
                Some(format!("{}{}{}", term.prefix, self.field.encode(value), term.suffix))
            }
        }
    }

    fn bind(&self, term: &Term<'_>, text: &str, values: &mut [Option<String>]) -> Option<bool> {
        let inner = text.strip_prefix(term.prefix)?.strip_suffix(term.suffix)?;
        values[term.unknown?] = Some(self.field.decode(inner)?);
        Some(true)
    }

    /// Gives the left unknown the shortest general value that leaves the right one room.
    fn guess(&self, fresh: &str, left: &mut [Option<String>]) -> bool {
        let before = self.right.prefix.strip_prefix(self.left.prefix).unwrap_or("");
        let after = self.right.suffix.strip_suffix(self.left.suffix).unwrap_or("");
        let value = self.field.decode(&format!("{before}{fresh}{after}"));
        match (self.left.unknown, value) {
            (Some(number), Some(value)) => {
                left[number] = Some(value);
                true
            }
            _ => false,
        }
    }
}
