//! Where a value came from, and what is wrong with it.

use std::fmt;

/// Where a value came from. Later ones win, in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// Line of a file; 0 for the file as a whole.
    File { file: String, line: usize },
    /// The environment variable of that name.
    Env(String),
    /// `--set` of that key.
    Set(String),
    /// The flag of that name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line: 0 } => f.write_str(file),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Set(key) => write!(f, "--set {key}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One mistake: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    /// Where it is.
    pub origin: Origin,
    /// One sentence.
    pub message: String,
}

/// Every mistake there is, a line each: the file's by line, then environment, `--set`, flags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// A single mistake.
    pub fn one(origin: Origin, message: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.push(origin, message);
        errors
    }

    pub(super) fn push(&mut self, origin: Origin, message: impl Into<String>) {
        self.0.push(ConfigError { origin, message: message.into() });
    }

    /// Sorted and each once; `Err` when there is any.
    pub(super) fn into_result(mut self) -> Result<(), Self> {
        self.0.sort();
        self.0.dedup();
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
