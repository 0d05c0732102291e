//! Repairing what a power cut can do to fjall's newest journal.
//!
//! The last batch was not synced when the power went, so it was not acknowledged; but its pages may
//! have reached the disk in any order, also its end before its middle. fjall 3.1 cuts a batch off
//! that lacks its end, yet refuses the whole database when one has an end and a wrong checksum.
//! [`cut_torn_batch`] cuts such a batch off, provided no valid batch lies behind it: a wrong batch
//! with valid ones behind is damage, and is left as it is.
//!
//! The layout is that of fjall 3's `journal/entry.rs`, with little-endian numbers: start (1, count
//! u32, sequence u64); items (2, kind u8, compression u8, keyspace u64, key length u16, value length
//! u32, length on disk u32, key, value) and clears (4, keyspace u64); end (3, xxh3 of the items u64,
//! "FJL" 3).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hydrant_actors::say;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8] = b"FJL\x03";

/// Cuts a torn batch off the newest journal in `dir`. True when there was one.
///
/// # Errors
/// What the file system says; nothing was changed then.
pub(super) fn cut_torn_batch(dir: &Path) -> io::Result<bool> {
    let lock = File::open(dir.join("lock"))?;
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    let Some(journal) = newest(dir)? else {
        return Ok(false);
    };
    let bytes = fs::read(&journal)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut good = 0;
    while let Some(end) = batch_end(&bytes, good) {
        good = end;
    }
    // Where all is well up to the last byte used, something else is wrong.
    if good >= used || (good + 1..used).any(|at| batch_end(&bytes, at).is_some()) {
        return Ok(false);
    }
    say::warn!(
        "{}: cut {} bytes of a batch that was being written when the power went",
        journal.display(),
        used - good
    );
    let file = File::options().write(true).open(&journal)?;
    file.set_len(good as u64)?;
    file.sync_all()?;
    Ok(true)
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut found = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|extension| extension == "jnl")
            && let Some(number) = stem.and_then(|stem| stem.parse::<u64>().ok())
        {
            found = found.max(Some((number, path)));
        }
    }
    Ok(found.map(|(_, path)| path))
}

/// Where the valid batch that begins at `at` ends.
fn batch_end(bytes: &[u8], at: usize) -> Option<usize> {
    let number = |at: usize, len: usize| {
        let part = bytes.get(at..at.checked_add(len)?)?;
        Some(part.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)))
    };
    if *bytes.get(at)? != 1 {
        return None;
    }
    let first = at + 13;
    let mut next = first;
    for _ in 0..number(at + 1, 4)? {
        next = match *bytes.get(next)? {
            2 => {
                let lengths = number(next + 11, 2)? + number(next + 17, 4)?;
                next.checked_add(21)?.checked_add(usize::try_from(lengths).ok()?)?
            }
            4 => next + 9,
            _ => return None,
        };
    }
    let whole = *bytes.get(next)? == 3
        && bytes.get(next + 9..next + 13)? == MAGIC
        && number(next + 1, 8)? == xxh3_64(&bytes[first..next]);
    whole.then_some(next + 13)
}
