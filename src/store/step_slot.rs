//! Rows of `step_slot`: the plan of a step.

use serde::Serialize;
use sqlx::QueryBuilder;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, Named, int, serialize_name};
use super::step::require_running;
use super::tree::ROWS_PER_INSERT;
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{ProblemId, RunId, StepId, TreeKind};

/// A place in a step's batch, as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSlot {
    /// Its number, from 0.
    pub slot: u32,
    /// The problem.
    pub problem: ProblemId,
    /// How its trajectories are to come about.
    pub kind: TreeKind,
    /// Solutions kept for the problem when this was planned; later ones are not this slot's to use.
    pub known_solutions: u32,
}

/// A place in a step's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StepSlot {
    /// Its number, from 0.
    pub slot: u32,
    /// The problem.
    pub problem_id: ProblemId,
    /// How its trajectories come about.
    #[serde(serialize_with = "serialize_name")]
    pub kind: TreeKind,
    /// Solutions kept for the problem when this was planned.
    pub known_solutions: u32,
}

pub(super) const STEP_SLOTS: &str = "
    select slot, problem_id, kind, known_solutions
    from step_slot
    where run_id = ? and step_id = ?
    order by slot";

impl Store {
    /// Adds places to a step that is running, for problems drawn after the first ones.
    ///
    /// # Errors
    /// There is no such step, it is over, a slot is taken, or the database cannot be written.
    pub async fn extend_step(&self, run: RunId, step: StepId, slots: Vec<NewSlot>) -> Result<(), StoreError> {
        self.write(ExtendStep { run, step, slots }).await
    }
}

impl Reader {
    /// The plan of a step, by slot.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn step_slots(&self, run: RunId, step: StepId) -> Result<Vec<StepSlot>, StoreError> {
        self.all(sqlx::query(STEP_SLOTS).bind(run.0).bind(step.0), slot_row).await
    }
}

fn slot_row(row: &Cells<'_>) -> Result<StepSlot, StoreError> {
    Ok(StepSlot {
        slot: row.int("slot")?,
        problem_id: ProblemId(row.get("problem_id")?),
        kind: row.name("kind")?,
        known_solutions: row.int("known_solutions")?,
    })
}

struct ExtendStep {
    run: RunId,
    step: StepId,
    slots: Vec<NewSlot>,
}

impl Write for ExtendStep {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        require_running(conn, self.run, self.step).await?;
        sqlx::query("update step set problem_count = problem_count + ? where run_id = ? and step_id = ?")
            .bind(int(self.slots.len() as u64))
            .bind(self.run.0)
            .bind(self.step.0)
            .execute(&mut *conn)
            .await?;
        insert(conn, self.run, self.step, &self.slots).await
    }
}

/// Writes places as part of a larger event.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    run: RunId,
    step: StepId,
    slots: &[NewSlot],
) -> Result<(), StoreError> {
    for rows in slots.chunks(ROWS_PER_INSERT) {
        QueryBuilder::new("insert into step_slot (run_id, step_id, slot, problem_id, kind, known_solutions) ")
            .push_values(rows, |mut row, slot| {
                row.push_bind(run.0)
                    .push_bind(step.0)
                    .push_bind(slot.slot)
                    .push_bind(slot.problem.0)
                    .push_bind(slot.kind.name())
                    .push_bind(slot.known_solutions);
            })
            .build()
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
