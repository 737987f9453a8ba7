//! Opening: is this a database of ours, which schema has it, and with which settings is it used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::StoreOptions;
use super::error::StoreError;

/// The schema, compiled in.
static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// `pragma application_id` of our databases, set by the first migration.
const APPLICATION_ID: i64 = 0x5447_5250;

/// How long to wait for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Readers at the same time; further ones wait for one to finish.
const READERS: u32 = 4;

/// How a database is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// How long to wait for whoever keeps it locked, when it is opened and with every question.
    pub patience: Duration,
    /// Questions at the same time. Each has a connection: two files and a thread.
    pub connections: u32,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions { patience: BUSY_TIMEOUT, connections: READERS }
    }
}

/// Size of a database page, SQLite's default; named because a limit in bytes is given to SQLite in pages.
const PAGE_BYTES: u64 = 4096;

/// Size to which the write-ahead log is cut back after a checkpoint.
const LOG_BYTES: &str = "67108864";

/// Opens or creates the database and migrates it.
pub(super) async fn writing_connection(path: &Path, options: StoreOptions) -> Result<SqliteConnection, StoreError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && !folder.is_dir()
    {
        return Err(StoreError::NoFolder { path: path.to_owned(), folder: folder.to_owned() });
    }
    let mut schema = 0;
    if path.exists() {
        // Before anything is written to the file: a foreign database would be switched to WAL mode.
        let found = inspect(path, BUSY_TIMEOUT).await?;
        found.refuse_foreign(path)?;
        found.refuse_newer(path)?;
        schema = found.schema;
    }
    if schema == 0 {
        create_private(path);
    }
    let mut connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .page_size(PAGE_BYTES as u32)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", LOG_BYTES)
        .thread_name(|_| "store-writer".to_owned())
        .disable_statement_logging();
    if let Some(bytes) = options.max_bytes {
        connect = connect.pragma("max_page_count", (bytes / PAGE_BYTES).max(1).to_string());
    }
    let mut conn = connect.connect().await.map_err(|error| StoreError::from(error).at(path))?;
    migrate(&mut conn, path, schema).await?;
    Ok(conn)
}

/// Makes the file for its owner only; its log and index take their permissions from it. One that is there stays as it is, and
/// where it cannot be made, opening it says why.
fn create_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let _ = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Brings a database of the given schema up to date. Tables that others refer to can only be made anew while foreign keys
/// are not enforced and a renamed table is not followed into the views that name it; neither can be switched inside a
/// transaction, so both are switched around one that holds all migrations and the check of the references. A database
/// whose references are broken is left as it was.
async fn migrate(conn: &mut SqliteConnection, path: &Path, schema: i64) -> Result<(), StoreError> {
    // Also where nothing is to be done: it compares the migrations with those that were applied.
    if schema == newest_schema() {
        return MIGRATOR.run(conn).await.map_err(|error| migration_error(path, error));
    }
    let at = |error: sqlx::Error| StoreError::from(error).at(path);
    let switch = "pragma foreign_keys = off; pragma legacy_alter_table = on";
    sqlx::raw_sql(switch).execute(&mut *conn).await.map_err(at)?;
    let mut all = conn.begin_with("begin immediate").await.map_err(at)?;
    MIGRATOR.run(&mut *all).await.map_err(|error| migration_error(path, error))?;
    let broken = sqlx::query("pragma foreign_key_check").fetch_all(&mut *all).await.map_err(at)?.len();
    if broken > 0 {
        all.rollback().await.map_err(at)?;
        return Err(StoreError::BrokenReferences { path: path.to_owned(), count: broken });
    }
    all.commit().await.map_err(at)?;
    let switch = "pragma legacy_alter_table = off; pragma foreign_keys = on";
    sqlx::raw_sql(switch).execute(&mut *conn).await.map_err(at)?;
    Ok(())
}

/// Opens an existing database of the present schema for reading.
pub(super) async fn reading_pool(path: &Path, options: ReadOptions) -> Result<SqlitePool, StoreError> {
    let ReadOptions { patience, connections } = options;
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let found = inspect(path, patience).await?;
    found.refuse_foreign(path)?;
    found.refuse_newer(path)?;
    if found.schema < newest_schema() {
        return Err(StoreError::OlderSchema { path: path.to_owned(), found: found.schema, known: newest_schema() });
    }
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        // A connection to a file does not go stale.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None);
    pool.connect_with(read_only(path, patience)).await.map_err(|error| StoreError::from(error).at(path))
}

/// Whether a database lies where this user may not write and nobody has it open: its index of the log cannot be made, without
/// which SQLite refuses to read. Nothing can be in a log then, so the file is the whole database as it is.
pub(super) fn is_frozen(path: &Path) -> bool {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).is_err()
        && !beside("-shm").exists()
        && beside("-wal").metadata().map_or(true, |log| log.len() == 0)
}

fn read_only(path: &Path, patience: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(is_frozen(path))
        .pragma("query_only", "on")
        .busy_timeout(patience)
        .thread_name(|number| format!("store-reader-{number}"))
        .disable_statement_logging()
}

/// What a file says of itself.
struct Found {
    application_id: i64,
    /// Tables and views, but for the list of migrations.
    object_count: i64,
    /// Newest migration; 0 if none.
    schema: i64,
}

impl Found {
    fn refuse_foreign(&self, path: &Path) -> Result<(), StoreError> {
        // An empty database is ours to take, also one that was cut off before the first migration was applied.
        let is_empty = self.application_id == 0 && self.object_count == 0 && self.schema == 0;
        if self.application_id == APPLICATION_ID || is_empty {
            return Ok(());
        }
        Err(StoreError::Foreign { path: path.to_owned() })
    }

    fn refuse_newer(&self, path: &Path) -> Result<(), StoreError> {
        if self.schema > newest_schema() {
            return Err(StoreError::NewerSchema { path: path.to_owned(), found: self.schema, known: newest_schema() });
        }
        Ok(())
    }
}

async fn inspect(path: &Path, patience: Duration) -> Result<Found, StoreError> {
    let inspect = async {
        let mut conn = read_only(path, patience).connect().await?;
        let application_id = sqlx::query_scalar("pragma application_id").fetch_one(&mut conn).await?;
        let object_count = sqlx::query_scalar(
            "select count(*) from sqlite_schema where type in ('table', 'view') and name <> '_sqlx_migrations'",
        )
        .fetch_one(&mut conn)
        .await?;
        let is_migrated: bool =
            sqlx::query_scalar("select count(*) > 0 from sqlite_schema where name = '_sqlx_migrations'")
                .fetch_one(&mut conn)
                .await?;
        let schema = if is_migrated {
            sqlx::query_scalar("select coalesce(max(version), 0) from _sqlx_migrations").fetch_one(&mut conn).await?
        } else {
            0
        };
        conn.close().await?;
        Ok(Found { application_id, object_count, schema })
    };
    inspect.await.map_err(|error: sqlx::Error| StoreError::from(error).at(path))
}

fn newest_schema() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn migration_error(path: &Path, error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::from(error).at(path),
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            StoreError::ChangedSchema { path: path.to_owned(), version }
        }
        other => StoreError::from(sqlx::Error::from(other)),
    }
}
