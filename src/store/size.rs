//! How large a database is and what takes the room; giving back what is free.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sqlx::{Connection, Executor};

use super::{Reader, Store, StoreError, open};

/// What takes the room in a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatabaseSize {
    /// The file and its write-ahead log.
    pub file_bytes: u64,
    /// Of these, pages that hold nothing: `vacuum` gives them back.
    pub free_bytes: u64,
    /// Trees.
    pub tree_count: u64,
    /// Bytes of all that a tree brings (its rows and their indexes, kept solutions not among them), divided by the trees;
    /// `None` without any.
    pub tree_bytes_mean: Option<f64>,
    /// Tables with their indexes, the largest first.
    pub tables: Vec<TableSize>,
}

/// One table with its indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableSize {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub row_count: u64,
    /// Pages of the table.
    pub table_bytes: u64,
    /// Pages of its indexes.
    pub index_bytes: u64,
}

impl TableSize {
    /// Both.
    pub fn bytes(&self) -> u64 {
        self.table_bytes + self.index_bytes
    }
}

/// What a vacuum gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    /// File and log before.
    pub before_bytes: u64,
    /// The same after.
    pub after_bytes: u64,
}

/// Tables of which a tree has rows.
const OF_TREES: [&str; 5] = ["tree", "node", "node_content", "trajectory", "trajectory_node"];

const SIZES: &str = "
    select o.tbl_name as name, coalesce(sum(case when o.type = 'table' then p.pgsize end), 0) as table_bytes,
           coalesce(sum(case when o.type = 'index' then p.pgsize end), 0) as index_bytes
    from sqlite_schema o
    join dbstat p on p.name = o.name and p.aggregate = 1
    where o.type in ('table', 'index') and o.tbl_name not like 'sqlite\\_%' escape '\\'
        and o.tbl_name not like '\\_sqlx%' escape '\\'
    group by o.tbl_name
    order by sum(p.pgsize) desc, o.tbl_name";

const FREE: &str = "
    select (select freelist_count from pragma_freelist_count) * (select page_size from pragma_page_size) as bytes";

impl Reader {
    /// What takes the room. Reads all pages once.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn size(&self) -> Result<DatabaseSize, StoreError> {
        let mut tables = self
            .all(sqlx::query(SIZES), |row| {
                Ok(TableSize {
                    name: row.get("name")?,
                    row_count: 0,
                    table_bytes: row.int("table_bytes")?,
                    index_bytes: row.int("index_bytes")?,
                })
            })
            .await?;
        for table in &mut tables {
            // The name is one of the schema's own.
            let count = format!("select count(*) as row_count from \"{}\"", table.name);
            let query = sqlx::query(sqlx::AssertSqlSafe(count));
            table.row_count = self.optional(query, |row| row.int("row_count")).await?.unwrap_or_default();
        }
        let free_bytes = self.optional(sqlx::query(FREE), |row| row.int("bytes")).await?.unwrap_or_default();
        let tree_count = tables.iter().find(|table| table.name == "tree").map_or(0, |table| table.row_count);
        let of_trees: u64 =
            tables.iter().filter(|table| OF_TREES.contains(&table.name.as_str())).map(TableSize::bytes).sum();
        Ok(DatabaseSize {
            file_bytes: file_bytes(&self.path),
            free_bytes,
            tree_count,
            tree_bytes_mean: (tree_count > 0).then(|| of_trees as f64 / tree_count as f64),
            tables,
        })
    }
}

impl Store {
    /// Writes the database at `path` anew without its free pages, its schema brought up to date. Nobody else may write
    /// meanwhile; the disk must have room for a second copy.
    ///
    /// # Errors
    /// As [`Store::open`]; another process reads or writes, or there is no room.
    pub async fn vacuum(path: &Path) -> Result<Vacuumed, StoreError> {
        if !path.is_file() {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        let before_bytes = file_bytes(path);
        let mut conn = open::writing_connection(path, super::StoreOptions::default()).await?;
        let failed = |error: sqlx::Error| StoreError::from(error).at(path);
        conn.execute("vacuum").await.map_err(failed)?;
        conn.execute("pragma wal_checkpoint(truncate)").await.map_err(failed)?;
        conn.close().await.map_err(failed)?;
        Ok(Vacuumed { before_bytes, after_bytes: file_bytes(path) })
    }
}

/// Size of the database and of its log.
fn file_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let bytes = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    bytes(path.to_owned()) + bytes(log.into())
}
