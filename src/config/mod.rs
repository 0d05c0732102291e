//! Configuration: built-in defaults, `config.toml`, environment, `--set`, flags; each wins over
//! those before it. Past [`load`] everything is checked and nobody checks again.
//!
//! - `keys`: the one table of keys, from which all the rest is derived.
//! - `source`: the layers, and which value wins.
//! - `environment`: names that begin with `HYDRANT_` and are no key; `RUST_LOG`.
//! - `value`: one value's check; `units`: sizes and times; `servers`: lists of host and port.
//! - `switches`: a section that is set while its switch is elsewhere.
//! - `routes`, `properties`: the two parts with names of their own.
//! - `cassandra`: `[cassandra]`; `cluster`: `[cluster]` and `[zookeeper]`; `listener`: who may connect.
//! - `reader`: values by their paths; `check`: from values to [`Config`] (`checked`), and what must hold between keys.
//! - `preflight`: what else a start would refuse, for `broker config check`.
//! - `print`: `broker config print`, and the text of `config.toml`.
//!
//! All mistakes are reported at once, each with line, variable or flag ([`ConfigErrors`]).

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod bounds;
mod cassandra;
mod check;
mod checked;
mod cluster;
mod environment;
mod error;
mod keys;
mod listener;
mod preflight;
mod print;
mod properties;
mod reader;
mod records;
mod routes;
mod servers;
mod source;
mod switches;
#[cfg(test)]
mod tests;
mod units;
mod value;

use std::fmt;

pub use checked::{ClusterConfig, Config, ListenerConfig};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use print::shipped;
use source::Effective;
pub use source::Sources;

/// A checked configuration and where each of its values came from.
#[derive(Clone)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    effective: Effective,
}

impl Loaded {
    /// The effective configuration as TOML, the source of each value as a comment, secrets as
    /// "***".
    pub fn print(&self) -> String {
        print::effective(&self.effective, &self.config)
    }

    /// What a start would refuse beyond the text of the configuration, short of asking a server:
    /// files that cannot be read, a data directory of another node, settings of Kafka that do not go
    /// together.
    ///
    /// # Errors
    /// Every such mistake.
    pub fn preflight(&self) -> Result<(), ConfigErrors> {
        preflight::check(&self.effective, &self.config)
    }

    /// What is no mistake and often not what was meant, and addresses that another machine may have; a
    /// line each.
    pub fn notes(&self) -> Vec<String> {
        preflight::notes(&self.effective, &self.config)
    }

    /// Whether somebody has set this key, be it to its default.
    pub fn is_set(&self, key: &str) -> bool {
        self.effective.values.get(key).is_some_and(|found| found.origin != Origin::Default)
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print())
    }
}

/// Puts the layers together and checks them.
///
/// # Errors
/// Every mistake in every layer, at once.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let effective = source::resolve(sources, &mut errors);
    let config = check::config(&effective, errors)?;
    Ok(Loaded { config, effective })
}
