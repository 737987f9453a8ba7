//! Is a database what it should be? Read only, one snapshot, also while a run writes.
//!
//! SQLite's own checks, then rules of ours (`rules.rs`): each is a query for the rows that break it. A rule says only what
//! holds at every instant of every run, killed ones among them; the schema's constraints are checked again, since a damaged
//! index or another program may have got past them.

mod rules;

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::codec::{Cells, sha256, sha256_of_parts};
use super::{Reader, StoreError};

pub(super) use rules::RULES;

/// What one rule came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the rule.
    pub rule: String,
    /// What must hold.
    pub meaning: String,
    /// Places where it does not.
    pub count: u64,
    /// One of them.
    pub example: Option<String>,
}

impl Finding {
    /// What `broken` places came to.
    pub fn of(rule: &str, meaning: &str, broken: &[String]) -> Finding {
        Finding {
            rule: rule.to_owned(),
            meaning: meaning.to_owned(),
            count: broken.len() as u64,
            example: broken.first().cloned(),
        }
    }

    /// Whether the rule holds.
    pub fn holds(&self) -> bool {
        self.count == 0
    }
}

/// A row whose checksum is stored beside it: what it was made of, and what is stored.
const CHECKSUMS: [(&str, &str); 2] = [
    (
        "run",
        "select 'run ' || run_id as place, config_sha256 as stored, config_toml as a, null as b, null as c from run",
    ),
    (
        "problem",
        "select 'problem ' || problem_id as place, content_sha256 as stored, name as a, text as b, answer as c from problem",
    ),
];

impl Reader {
    /// Checks the whole database, rule by rule. `deep` also works out the checksums of tokens again.
    ///
    /// # Errors
    /// The database cannot be read. Damage that SQLite can describe is a finding; damage that keeps it from reading is an
    /// error.
    pub async fn check(&self, deep: bool) -> Result<Vec<Finding>, StoreError> {
        let failed = |error: sqlx::Error| StoreError::from(error).at(&self.path);
        let mut conn = self.pool.acquire().await.map_err(failed)?;
        let mut snapshot = conn.begin().await.map_err(failed)?;
        let found = check(&mut snapshot, deep).await.map_err(|error| error.at(&self.path))?;
        snapshot.rollback().await.map_err(failed)?;
        Ok(found)
    }
}

async fn check(conn: &mut SqliteConnection, deep: bool) -> Result<Vec<Finding>, StoreError> {
    let mut found = vec![integrity(conn).await?, references(conn).await?];
    for rule in RULES {
        let counted = format!("select count(*) as broken, min(place) as example from ({})", rule.broken);
        let row = sqlx::query(sqlx::AssertSqlSafe(counted)).fetch_one(&mut *conn).await?;
        let cells = Cells(&row);
        found.push(Finding {
            rule: rule.name.to_owned(),
            meaning: rule.meaning.to_owned(),
            count: cells.int("broken")?,
            example: cells.get("example")?,
        });
    }
    found.push(checksums(conn, deep).await?);
    Ok(found)
}

async fn integrity(conn: &mut SqliteConnection) -> Result<Finding, StoreError> {
    let said: Vec<String> = sqlx::query_scalar("pragma integrity_check").fetch_all(conn).await?;
    let broken: Vec<String> = said.into_iter().filter(|line| line != "ok").collect();
    Ok(Finding::of("integrity", "pages and indexes are whole, as SQLite sees it", &broken))
}

async fn references(conn: &mut SqliteConnection) -> Result<Finding, StoreError> {
    let rows = sqlx::query("pragma foreign_key_check").fetch_all(conn).await?;
    let broken = rows.iter().map(|row| -> Result<String, StoreError> {
        let (table, rowid, parent): (String, Option<i64>, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let row = rowid.map_or_else(|| "a row".to_owned(), |rowid| format!("row {rowid}"));
        Ok(format!("{row} of `{table}` refers to `{parent}`"))
    });
    let broken = broken.collect::<Result<Vec<_>, _>>()?;
    Ok(Finding::of("references", "rows that are referred to exist", &broken))
}

async fn checksums(conn: &mut SqliteConnection, deep: bool) -> Result<Finding, StoreError> {
    let mut broken = Vec::new();
    for (table, statement) in CHECKSUMS {
        for row in sqlx::query(statement).fetch_all(&mut *conn).await? {
            let cells = Cells(&row);
            let (stored, a): (String, String) = (cells.get("stored")?, cells.get("a")?);
            let (b, c): (Option<String>, Option<String>) = (cells.get("b")?, cells.get("c")?);
            let found = match (table, b, c) {
                ("problem", Some(b), Some(c)) => sha256_of_parts(&[&a, &b, &c]),
                _ => sha256(a.as_bytes()),
            };
            if found != stored {
                broken.push(cells.get("place")?);
            }
        }
    }
    if deep {
        for row in sqlx::query("select solution_id, tokens, tokens_sha256 from solution").fetch_all(&mut *conn).await? {
            let cells = Cells(&row);
            if sha256(cells.get("tokens")?) != cells.get::<String>("tokens_sha256")? {
                broken.push(format!("solution {}", cells.get::<i64>("solution_id")?));
            }
        }
    }
    Ok(Finding::of(
        "checksums",
        "configurations, problems and, looked at deeply, solutions have their checksums",
        &broken,
    ))
}
