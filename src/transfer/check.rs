//! `broker storage check`: a line for everything that was looked at.

use std::io::Write;

use super::progress::Progress;
use super::{export, store_folder};
use crate::cassandra;
use crate::cassandra::check::{Finding, Grade};
use crate::config::Config;
use crate::node::{NodeError, NodeStore};

/// Looks over the configured store. Findings go to `out`, progress to `err`.
///
/// Cassandra is asked for its schema, replication, clocks and commit logs, and a row is written and
/// read; a node may run meanwhile. The embedded store is read from end to end; its node has to be
/// stopped.
///
/// True: nothing has failed.
pub async fn check(config: &Config, out: &mut dyn Write, err: &mut dyn Write) -> bool {
    let mut failed = false;
    let mut found = |finding: Finding| {
        failed |= finding.grade == Grade::Fail;
        // Who closed the pipe has seen enough; the exit code is still right.
        let _ = writeln!(out, "{finding}");
    };
    match &config.cassandra {
        Some(options) => cassandra::check::run(options, &mut found).await,
        None => embedded(config, err, &mut found).await,
    }
    !failed
}

async fn embedded(config: &Config, err: &mut dyn Write, found: &mut dyn FnMut(Finding)) {
    let folder = store_folder(config);
    if !folder.exists() {
        let sentence = format!("there is none in {} yet; the node makes it", folder.display());
        return found(Finding::new(Grade::Warn, "store", sentence));
    }
    let opened = match NodeStore::open(config).await {
        Ok(opened) => opened,
        Err(error) => {
            let taken = matches!(error, NodeError::DataDirTaken { .. });
            let hint = if taken { " (`broker status` asks a running node)" } else { "" };
            return found(Finding::new(Grade::Fail, "store", format!("{error}{hint}")));
        }
    };
    found(Finding::new(Grade::Ok, "store", opened.store.describe()));
    let mut progress = Progress::new(err, "read");
    found(match export::walk(&*opened.store, &mut progress, &mut |_| Ok(())).await {
        Ok(counts) => {
            Finding::new(Grade::Ok, "content", format!("all of it can be read: {counts}"))
        }
        Err(error) => Finding::new(
            Grade::Fail,
            "content",
            format!("{error}; restore the data directory from a backup"),
        ),
    });
    opened.release().await;
}
