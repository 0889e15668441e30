//! Which directory of a data directory holds the rows.
//!
//! `store` at first. A snapshot from a peer is read into the next one, `store-1`, `store-2`, …, while
//! readers go on with what they have; then that one is used, and the former goes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_store::{Store, StoreError};

/// The store's directories, by number.
pub(crate) struct Stores {
    data_dir: PathBuf,
    cache_bytes: u64,
    current: AtomicU64,
}

/// How long readers of a former store are waited for; the next start removes what stays.
const READERS: Duration = Duration::from_secs(600);

impl Stores {
    /// Finds the newest directory.
    pub(crate) fn find(data_dir: &Path, cache_bytes: u64) -> Self {
        let stores = Self { data_dir: data_dir.into(), cache_bytes, current: AtomicU64::new(0) };
        let newest = stores.numbers().into_iter().max().unwrap_or(0);
        stores.current.store(newest, Ordering::Release);
        stores
    }

    /// The directory that is used.
    pub(crate) fn path(&self) -> PathBuf {
        self.path_of(self.current.load(Ordering::Acquire))
    }

    /// Opens the store. One that was not complete when a crash came is passed over.
    pub(crate) fn open(&self) -> Result<Arc<Store>, StoreError> {
        loop {
            let number = self.current.load(Ordering::Acquire);
            let opened = Store::open(&self.path_of(number), self.cache_bytes);
            let incomplete = match &opened {
                Ok(store) => store.applied().log_id.is_none(),
                Err(StoreError::Locked { .. }) => false,
                Err(_) => true,
            };
            let former = self.numbers().into_iter().filter(|other| *other < number).max();
            match former {
                Some(former) if incomplete => {
                    drop(opened);
                    self.remove(number);
                    self.current.store(former, Ordering::Release);
                }
                _ => return opened,
            }
        }
    }

    /// Opens an empty store beside the one in use.
    pub(crate) fn begin_next(&self) -> Result<(u64, Arc<Store>), StoreError> {
        let number = self.current.load(Ordering::Acquire) + 1;
        self.remove(number);
        Ok((number, Store::open(&self.path_of(number), self.cache_bytes)?))
    }

    /// From now on that one is used.
    pub(crate) fn switch(&self, number: u64) {
        self.current.store(number, Ordering::Release);
    }

    /// Removes a store that nobody uses.
    pub(crate) fn remove(&self, number: u64) {
        let path = self.path_of(number);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = path.display().to_string();
                tracing::warn!(path, %error, "a former store could not be removed; the next start tries again");
            }
            _ => {}
        }
    }

    /// Removes the directories of former stores: to be called when the newest is in use.
    pub(crate) fn remove_former(&self) {
        let current = self.current.load(Ordering::Acquire);
        for number in self.numbers().into_iter().filter(|number| *number != current) {
            self.remove(number);
        }
    }

    /// Removes a former store once its last reader is done.
    pub(crate) fn retire(self: &Arc<Self>, store: Arc<Store>) {
        let stores = self.clone();
        tokio::spawn(async move {
            let given_up = tokio::time::Instant::now() + READERS;
            while Arc::strong_count(&store) > 1 && tokio::time::Instant::now() < given_up {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            drop(store);
            stores.remove_former();
        });
    }

    fn path_of(&self, number: u64) -> PathBuf {
        match number {
            0 => self.data_dir.join("store"),
            number => self.data_dir.join(format!("store-{number}")),
        }
    }

    fn numbers(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.data_dir) else { return Vec::new() };
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        names
            .filter_map(|name| match name.strip_prefix("store")? {
                "" => Some(0),
                rest => rest.strip_prefix('-')?.parse().ok(),
            })
            .collect()
    }
}
