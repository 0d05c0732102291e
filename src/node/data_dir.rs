//! A node's data directory: one process at a time, and a name that stays with it.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use super::error::NodeError;

/// The folder of the embedded store, in the data directory.
pub const STORE_FOLDER: &str = "store";

/// The directory, locked until this is dropped or the process ends, however it ends.
pub struct DataDir {
    /// Random text that is made once, with the directory. Who holds the lock knows that no earlier
    /// process with this text lives (unless somebody copied the directory).
    pub instance: String,
    _lock: File,
}

impl DataDir {
    /// Makes the directory where there is none, and locks it.
    ///
    /// # Errors
    /// Another process has it, or it cannot be made or written.
    pub fn lock(dir: &Path) -> Result<Self, NodeError> {
        let failed = |source| NodeError::DataDir { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::create(dir.join("node.lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(NodeError::DataDirTaken { dir: dir.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let file = dir.join("instance");
        let instance = match std::fs::read_to_string(&file) {
            Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
            Ok(_) => fresh(dir, &file).map_err(failed)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fresh(dir, &file).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { instance, _lock: lock })
    }
}

/// Written whole or not at all.
fn fresh(dir: &Path, file: &Path) -> std::io::Result<String> {
    let instance = format!("{:032x}", rand::random::<u128>());
    let new = dir.join("instance.new");
    std::fs::write(&new, &instance)?;
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, file)?;
    File::open(dir)?.sync_all()?;
    Ok(instance)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_a_directory_and_its_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path()).unwrap();
        let taken = DataDir::lock(dir.path()).err().unwrap().to_string();
        assert!(taken.contains("another broker"), "{taken}");
        let name = first.instance.clone();
        assert_eq!(name.len(), 32);
        drop(first);
        assert_eq!(DataDir::lock(dir.path()).unwrap().instance, name);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(DataDir::lock(other.path()).unwrap().instance, name);
    }
}
