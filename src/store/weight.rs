//! Rows of `weight_version`.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, int, now_ms};
use super::writer::Write;
use super::{Reader, Store, StoreError};
use crate::types::{RunId, StepId, WeightVersion};

/// Weights that were exported and are complete on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWeightVersion {
    /// The run.
    pub run: RunId,
    /// Their number.
    pub version: WeightVersion,
    /// The step that made them; `None` for version 0 and only there.
    pub step: Option<StepId>,
    /// `WeightManifest::digest`.
    pub digest: String,
    /// Folder in the Hugging Face layout.
    pub path: String,
    /// Size of the weights in bytes.
    pub size_bytes: u64,
    /// They may differ from the ones recorded under this number: an update that was repeated after a resume, on a device
    /// that does not repeat itself to the bit.
    pub may_differ: bool,
}

/// What was found once every replica held the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confirmation {
    /// From the pause to the confirmation of the last replica, in milliseconds.
    pub reload_ms: u64,
    /// Mean absolute difference of the canary's logprobs, server against trainer, in nats.
    pub canary_mean_abs_nats: Option<f64>,
    /// Largest such difference.
    pub canary_max_abs_nats: Option<f64>,
}

/// One set of weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightVersionRow {
    /// The run.
    pub run_id: RunId,
    /// Its number.
    pub weight_version: WeightVersion,
    /// The step that made it.
    pub step_id: Option<StepId>,
    /// `WeightManifest::digest`.
    pub digest: String,
    /// Folder in the Hugging Face layout.
    pub path: String,
    /// Size of the weights in bytes.
    pub size_bytes: u64,
    /// When the export was recorded.
    pub created_at_ms: i64,
    /// When every replica had confirmed the load.
    pub confirmed_at_ms: Option<i64>,
    /// How long that took.
    pub reload_ms: Option<u64>,
    /// Mean absolute difference of the canary's logprobs.
    pub canary_mean_abs_nats: Option<f64>,
    /// Largest such difference.
    pub canary_max_abs_nats: Option<f64>,
    /// When the folder was given up; `None` while it is kept.
    pub dropped_at_ms: Option<i64>,
}

pub(super) const WEIGHT_VERSIONS: &str = "
    select run_id, weight_version, step_id, digest, path, size_bytes, created_at_ms, confirmed_at_ms, reload_ms,
           canary_mean_abs_nats, canary_max_abs_nats, dropped_at_ms
    from weight_version
    where run_id = ?1 and (?2 is null or weight_version = ?2)
    order by weight_version";

impl Store {
    /// Records exported weights, before a server is asked to load them. The same weights may be recorded again, in another
    /// folder and as made by another step too (the one that made them before a stop may come to no update after it); other
    /// weights take the place of the recorded ones only if they may differ, and are unconfirmed then.
    ///
    /// # Errors
    /// The version is recorded with another digest ([`StoreError::Conflict`]), there is no such run or step, or the
    /// database cannot be written.
    pub async fn record_weight_version(&self, weights: NewWeightVersion) -> Result<(), StoreError> {
        self.write(weights).await
    }

    /// Records that every replica holds the weights. On a resume the same version may be confirmed again; the latest
    /// confirmation stays.
    ///
    /// # Errors
    /// The version was not recorded, or the database cannot be written.
    pub async fn confirm_weight_version(
        &self,
        run: RunId,
        version: WeightVersion,
        confirmation: Confirmation,
    ) -> Result<(), StoreError> {
        self.write(Confirm { run, version, confirmation }).await
    }

    /// Notes that the folders of these weights are given up, before they are removed. Numbers that are not recorded are passed
    /// over.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn drop_weight_versions(&self, run: RunId, versions: Vec<WeightVersion>) -> Result<(), StoreError> {
        self.write(DropWeights { run, versions }).await
    }
}

impl Reader {
    /// One set of weights of a run, confirmed or not.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn weight_version(
        &self,
        run: RunId,
        version: WeightVersion,
    ) -> Result<Option<WeightVersionRow>, StoreError> {
        self.optional(sqlx::query(WEIGHT_VERSIONS).bind(run.0).bind(int(version.0)), weight_row).await
    }

    /// All weights of a run, oldest first, confirmed or not, kept or given up.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn weight_versions(&self, run: RunId) -> Result<Vec<WeightVersionRow>, StoreError> {
        self.all(sqlx::query(WEIGHT_VERSIONS).bind(run.0).bind(None::<i64>), weight_row).await
    }
}

fn weight_row(row: &Cells<'_>) -> Result<WeightVersionRow, StoreError> {
    Ok(WeightVersionRow {
        run_id: RunId(row.get("run_id")?),
        weight_version: WeightVersion(row.int("weight_version")?),
        step_id: row.get::<Option<i64>>("step_id")?.map(StepId),
        digest: row.get("digest")?,
        path: row.get("path")?,
        size_bytes: row.int("size_bytes")?,
        created_at_ms: row.get("created_at_ms")?,
        confirmed_at_ms: row.get("confirmed_at_ms")?,
        reload_ms: row.int_option("reload_ms")?,
        canary_mean_abs_nats: row.get("canary_mean_abs_nats")?,
        canary_max_abs_nats: row.get("canary_max_abs_nats")?,
        dropped_at_ms: row.get("dropped_at_ms")?,
    })
}

impl Write for NewWeightVersion {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let recorded: Option<String> =
            sqlx::query_scalar("select digest from weight_version where run_id = ? and weight_version = ?")
                .bind(self.run.0)
                .bind(int(self.version.0))
                .fetch_optional(&mut *conn)
                .await?;
        match recorded {
            Some(digest) if digest == self.digest => return self.write_again(conn).await,
            Some(_) if self.may_differ => return self.replace(conn).await,
            Some(digest) => {
                return Err(StoreError::Conflict {
                    what: format!("the digest of weight version `{}` of run `{}`", self.version, self.run),
                    stored: digest,
                    given: self.digest.clone(),
                });
            }
            None => {}
        }
        sqlx::query(
            "insert into weight_version (run_id, weight_version, step_id, digest, path, size_bytes, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.run.0)
        .bind(int(self.version.0))
        .bind(self.step.map(|step| step.0))
        .bind(&self.digest)
        .bind(&self.path)
        .bind(int(self.size_bytes))
        .bind(now_ms())
        .execute(conn)
        .await?;
        Ok(())
    }
}

impl NewWeightVersion {
    /// The recorded weights, wherever they lie now and whichever step made them.
    async fn write_again(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query(
            "update weight_version set step_id = ?, path = ?, dropped_at_ms = null where run_id = ? and weight_version = ?",
        )
        .bind(self.step.map(|step| step.0))
        .bind(&self.path)
        .bind(self.run.0)
        .bind(int(self.version.0))
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn replace(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query(
            "update weight_version
             set step_id = ?, digest = ?, path = ?, size_bytes = ?, created_at_ms = ?, confirmed_at_ms = null,
                 reload_ms = null, canary_mean_abs_nats = null, canary_max_abs_nats = null, dropped_at_ms = null
             where run_id = ? and weight_version = ?",
        )
        .bind(self.step.map(|step| step.0))
        .bind(&self.digest)
        .bind(&self.path)
        .bind(int(self.size_bytes))
        .bind(now_ms())
        .bind(self.run.0)
        .bind(int(self.version.0))
        .execute(conn)
        .await?;
        Ok(())
    }
}

struct Confirm {
    run: RunId,
    version: WeightVersion,
    confirmation: Confirmation,
}

impl Write for Confirm {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let changed = sqlx::query(
            "update weight_version
             set confirmed_at_ms = ?, reload_ms = ?, canary_mean_abs_nats = ?, canary_max_abs_nats = ?
             where run_id = ? and weight_version = ?",
        )
        .bind(now_ms())
        .bind(int(self.confirmation.reload_ms))
        .bind(self.confirmation.canary_mean_abs_nats)
        .bind(self.confirmation.canary_max_abs_nats)
        .bind(self.run.0)
        .bind(int(self.version.0))
        .execute(conn)
        .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "weight version", id: self.version.to_string() });
        }
        Ok(())
    }
}

struct DropWeights {
    run: RunId,
    versions: Vec<WeightVersion>,
}

impl Write for DropWeights {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        for version in &self.versions {
            sqlx::query(
                "update weight_version set dropped_at_ms = ?
                 where run_id = ? and weight_version = ? and dropped_at_ms is null",
            )
            .bind(now_ms())
            .bind(self.run.0)
            .bind(int(version.0))
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }
}
