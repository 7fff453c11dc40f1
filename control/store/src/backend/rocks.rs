//! The `RocksDB` backend: one database, one column family per [`Family`].
//!
//! Memory is bounded on purpose (write buffers and block cache together at 28 MiB), because current objects are served from
//! memory above and the database is read only at start and for old history. An idle server fills its write buffers too:
//! heartbeats alone write some 15 MiB a day for each node, and a buffer is kept until it is full.

use super::{Backend, BackendError, Batch, Family, Visitor, Write};
use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    ErrorKind, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::fs::DirBuilder;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// All write buffers together.
const WRITE_BUFFERS_BYTES_MAX: usize = 12 << 20;
/// One family's write buffer.
const WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Blocks read back from disk.
const BLOCK_CACHE_BYTES: usize = 16 << 20;
/// Write-ahead logs kept because some family has not been flushed.
const WAL_BYTES_MAX: u64 = 256 << 20;
/// The database's own text log.
const INFO_LOG_BYTES_MAX: usize = 4 << 20;

/// A database on disk.
pub struct RocksBackend {
    db: DB,
}

impl RocksBackend {
    /// Opens the database in `directory`, made if missing.
    ///
    /// # Errors
    /// `Locked` when another process has it, `Damaged` when its files do not fit together, `Io` otherwise.
    pub fn open(directory: &Path) -> Result<Self, BackendError> {
        // Secrets are in here: nobody else on the machine may look.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| BackendError::Io(format!("{}: {error}", directory.display())))?;
        let options = database_options();
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(&cache)));
        let db = DB::open_cf_descriptors(&options, directory, families).map_err(|error| failure(&error))?;
        Ok(Self { db })
    }

    fn handle(&self, family: Family) -> Result<&ColumnFamily, BackendError> {
        self.db
            .cf_handle(family.name())
            .ok_or_else(|| BackendError::Damaged(format!("column family {} is missing", family.name())))
    }
}

impl Backend for RocksBackend {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        let value = self.db.get_cf(self.handle(family)?, key).map_err(|error| failure(&error))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        // A scan runs over what will not be read again soon; it must not push the cache's blocks out.
        options.fill_cache(false);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mode = IteratorMode::From(start, Direction::Forward);
        for pair in self.db.iterator_cf_opt(self.handle(family)?, options, mode) {
            let (key, value) = pair.map_err(|error| failure(&error))?;
            if let ControlFlow::Break(()) = visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, family: Family) -> Result<Option<(Bytes, Bytes)>, BackendError> {
        let mut iterator = self.db.iterator_cf(self.handle(family)?, IteratorMode::End);
        let pair = iterator.next().transpose().map_err(|error| failure(&error))?;
        Ok(pair.map(|(key, value)| (Bytes::from(key), Bytes::from(value))))
    }

    fn write(&self, batch: &Batch, sync: bool) -> Result<(), BackendError> {
        let handles = [
            self.handle(Family::Log)?,
            self.handle(Family::Raft)?,
            self.handle(Family::Objects)?,
            self.handle(Family::History)?,
            self.handle(Family::Meta)?,
        ];
        let mut writes = WriteBatch::with_capacity_bytes(batch.byte_len() + 1024);
        for (family, write) in batch.iter() {
            let handle = handles[family.index()];
            match write {
                Write::Put { key, value } => writes.put_cf(handle, key, value),
                Write::Delete { key } => writes.delete_cf(handle, key),
                // The database takes an empty or reversed range for an error.
                Write::DeleteRange { start, end } if start < end => writes.delete_range_cf(handle, start, end),
                Write::DeleteRange { .. } => {}
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(writes, &options).map_err(|error| failure(&error))
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES_MAX);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_log_level(LogLevel::Warn);
    // After a power failure the log may end in a torn record behind the last synced one: stop there, keep what precedes it.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options
}

fn family_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(3);
    options
}

fn failure(error: &rocksdb::Error) -> BackendError {
    let message = error.to_string();
    match error.kind() {
        // The kind is the same for every failed file operation; only the text names the lock.
        ErrorKind::IOError if message.contains("lock ") || message.contains("LOCK") => BackendError::Locked(message),
        ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound => BackendError::Damaged(message),
        _ => BackendError::Io(message),
    }
}
