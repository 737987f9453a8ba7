//! Rows of `metric`: numbers without a column of their own.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, now_ms};
use super::{Reader, StoreError};
use crate::types::{RunId, StepId};

/// A number to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, with the unit as suffix.
    pub name: String,
    /// Its value; stored as null if NaN.
    pub value: f64,
}

/// A recorded number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricRow {
    /// The step.
    pub step_id: StepId,
    /// Its name.
    pub name: String,
    /// Its value; `None` if it was NaN.
    pub value: Option<f64>,
}

pub(super) const METRICS: &str =
    "select step_id, name, value from metric where run_id = ? and name = ? order by step_id";

impl Reader {
    /// One number over the steps of a run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn metrics(&self, run: RunId, name: &str) -> Result<Vec<MetricRow>, StoreError> {
        self.all(sqlx::query(METRICS).bind(run.0).bind(name), metric_row).await
    }
}

fn metric_row(row: &Cells<'_>) -> Result<MetricRow, StoreError> {
    Ok(MetricRow { step_id: StepId(row.get("step_id")?), name: row.get("name")?, value: row.get("value")? })
}

/// Writes metrics as part of a larger event. Of two with the same name the later one counts.
pub(super) async fn upsert(
    conn: &mut SqliteConnection,
    run: RunId,
    step: StepId,
    metrics: &[Metric],
) -> Result<(), StoreError> {
    let now = now_ms();
    for metric in metrics {
        sqlx::query(
            "insert into metric (run_id, step_id, name, value, created_at_ms) values (?, ?, ?, ?, ?)
             on conflict (run_id, name, step_id)
             do update set value = excluded.value, created_at_ms = excluded.created_at_ms",
        )
        .bind(run.0)
        .bind(step.0)
        .bind(&metric.name)
        .bind(metric.value)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
