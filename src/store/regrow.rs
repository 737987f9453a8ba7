//! The one removal of rows: trees that failed in a step that was cut off, before it is taken up again.

use sqlx::sqlite::SqliteConnection;

use super::writer::Write;
use super::{Store, StoreError};
use crate::types::{RunId, StepId};

impl Store {
    /// Forgets the failed trees of a step, so that they are grown again; solutions that they found stay. Returns how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn remove_failed_trees(&self, run: RunId, step: StepId) -> Result<u64, StoreError> {
        self.write(RemoveFailed { run, step }).await
    }
}

struct RemoveFailed {
    run: RunId,
    step: StepId,
}

/// In the order of the foreign keys. The step has to be running: what was trained on is never touched.
const STATEMENTS: [&str; 6] = [
    "update solution set tree_id = null where tree_id in (select tree_id from failed_tree)",
    "delete from trajectory_node where tree_id in (select tree_id from failed_tree)",
    "delete from trajectory where tree_id in (select tree_id from failed_tree)",
    "delete from node_content where tree_id in (select tree_id from failed_tree)",
    "delete from node where tree_id in (select tree_id from failed_tree)",
    "delete from tree where tree_id in (select tree_id from failed_tree)",
];

impl Write for RemoveFailed {
    type Output = u64;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<u64, StoreError> {
        sqlx::query("create temp table if not exists failed_tree (tree_id integer primary key)")
            .execute(&mut *conn)
            .await?;
        sqlx::query("delete from failed_tree").execute(&mut *conn).await?;
        sqlx::query(
            "insert into failed_tree
             select t.tree_id
             from tree t
             join step s on s.run_id = t.run_id and s.step_id = t.step_id
             where t.run_id = ? and t.step_id = ? and t.status = 'failed' and s.status = 'running'",
        )
        .bind(self.run.0)
        .bind(self.step.0)
        .execute(&mut *conn)
        .await?;
        let mut removed = 0;
        for statement in STATEMENTS {
            removed = sqlx::query(statement).execute(&mut *conn).await?.rows_affected();
        }
        Ok(removed)
    }
}
