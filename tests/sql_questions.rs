//! `docs/sql.md`: every question is asked of one real run (`tests/fixtures/run.sql`), and the answer on the page is what comes
//! of it. `UPDATE_SNAPSHOTS=1` writes the answers into the page.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use orchestrator::store::{Reader, Store};
use sqlx::{AssertSqlSafe, Column, Connection, Row, SqliteConnection, TypeInfo, ValueRef};

/// Longer cells are cut on the page.
const CELL_CHARS: usize = 44;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The run in a database that the product's own migrations made.
async fn sample(folder: &Path) -> PathBuf {
    let path = folder.join("orchestrator.sqlite");
    Store::open(&path).await.unwrap().close().await.unwrap();
    let rows = std::fs::read_to_string(root().join("tests/fixtures/run.sql")).unwrap();
    let mut conn = connect(&path).await;
    let text = format!("pragma foreign_keys = off; begin; {rows} commit; analyze;");
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    path
}

async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap()
}

/// One cell as `sqlite3` prints it, on one line and no longer than a page is wide.
fn cell(row: &sqlx::sqlite::SqliteRow, index: usize) -> String {
    let value = row.try_get_raw(index).unwrap();
    if value.is_null() {
        return "-".to_owned();
    }
    let text = match value.type_info().name() {
        "INTEGER" => row.get::<i64, _>(index).to_string(),
        "REAL" => format!("{:?}", row.get::<f64, _>(index)),
        _ => row.get::<String, _>(index).trim().replace('\n', "⏎"),
    };
    match text.char_indices().nth(CELL_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Columns with a line below their names; numbers to the right.
async fn answer(conn: &mut SqliteConnection, question: &str) -> String {
    let rows = sqlx::query(AssertSqlSafe(question)).fetch_all(&mut *conn).await.expect(question);
    assert!(!rows.is_empty(), "nothing came of {question}");
    let names: Vec<String> = rows[0].columns().iter().map(|column| column.name().to_owned()).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| (0..names.len()).map(|index| cell(row, index)).collect()).collect();
    let width = |index: usize| {
        let own = cells.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
        own.max(names[index].len())
    };
    let is_number = |index: usize| cells.iter().all(|row| row[index] == "-" || row[index].parse::<f64>().is_ok());
    let line = |row: &[String]| {
        let padded = row.iter().enumerate().map(|(index, text)| {
            let room = " ".repeat(width(index) - text.chars().count());
            if is_number(index) { format!("{room}{text}") } else { format!("{text}{room}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rule: Vec<String> = (0..names.len()).map(|index| "-".repeat(width(index))).collect();
    [&names, &rule].into_iter().chain(&cells).map(|row| line(row)).collect()
}

/// The page with its answers made anew, and how many there are.
async fn answered(page: &str, conn: &mut SqliteConnection) -> (String, usize) {
    let (mut text, mut count, mut rest) = (String::new(), 0, page);
    while let Some((before, after)) = rest.split_once("```sql\n") {
        let (question, after) = after.split_once("```\n").unwrap();
        text += &format!("{before}```sql\n{question}```\n");
        rest = after;
        if let Some((_, after)) = after.strip_prefix("\n```text\n").and_then(|answer| answer.split_once("```\n")) {
            text += &format!("\n```text\n{}```\n", answer(conn, question).await);
            count += 1;
            rest = after;
        }
    }
    (text + rest, count)
}

#[tokio::test]
async fn the_answers_on_the_page_are_those_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut conn = connect(&sample(folder.path()).await).await;
    let path = root().join("docs/sql.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (made, count) = answered(&page, &mut conn).await;
    assert!(count >= 20, "{count} answers");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &made).unwrap();
        return;
    }
    for (made, found) in made.lines().zip(page.lines()) {
        assert_eq!(made, found, "`UPDATE_SNAPSHOTS=1 cargo test` accepts this");
    }
    assert_eq!(made.len(), page.len());
}

#[tokio::test]
async fn the_page_names_every_table_and_view() {
    let folder = tempfile::tempdir().unwrap();
    let mut conn = connect(&sample(folder.path()).await).await;
    let page = std::fs::read_to_string(root().join("docs/sql.md")).unwrap();
    let names: Vec<String> = sqlx::query_scalar(
        "select name from sqlite_schema
         where type in ('table', 'view') and name not like 'sqlite%' and name not like '\\_sqlx%' escape '\\'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/sql.md does not name `{name}`");
    }
}

/// The parts of a score are recorded with every choice, and add up to it.
#[tokio::test]
async fn scores_have_their_parts() {
    let folder = tempfile::tempdir().unwrap();
    let mut conn = connect(&sample(folder.path()).await).await;
    let wrong: Vec<String> = sqlx::query_scalar(
        "select tree_id || '/' || node_id
         from node
         where selected_score is not null
             and not abs(selected_score - selected_value - coalesce(selected_exploration, 0.0)
                         - coalesce(selected_entropy, 0.0) - coalesce(selected_depth, 0.0)) < 1e-9",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(wrong, Vec::<String>::new());
    let kinds: i64 = sqlx::query_scalar(
        "select count(distinct selected_kind) from node where selected_value is not null and
             (selected_exploration is not null) = (selected_kind in ('uct_child', 'uct_root'))",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert!(kinds >= 1, "{kinds} kinds of choices");
}

#[tokio::test]
async fn the_sample_is_sound() {
    let folder = tempfile::tempdir().unwrap();
    let reader = Reader::open(&sample(folder.path()).await).await.unwrap();
    let broken: Vec<_> = reader.check(true).await.unwrap().into_iter().filter(|finding| !finding.holds()).collect();
    assert_eq!(broken, []);
}

/// Every view can be read by the `sqlite3` of the system, which has no functions of ours. Datasette needs no more.
#[tokio::test]
async fn plain_sqlite_reads_every_view() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample(folder.path()).await;
    let views: Vec<String> = sqlx::query_scalar("select name from sqlite_schema where type = 'view'")
        .fetch_all(&mut connect(&path).await)
        .await
        .unwrap();
    assert!(views.len() >= 20, "{views:?}");
    for view in views {
        let select = format!("select * from {view} limit 3");
        // Not every machine has the command line tool.
        let Ok(said) = std::process::Command::new("sqlite3").arg("-readonly").arg(&path).arg(select).output() else {
            return;
        };
        assert!(said.status.success(), "{view}: {said:?}");
    }
}
