//! `orchestrator db check` within the test's own process.
#![allow(dead_code)]

use std::path::Path;

use orchestrator::run::audit::{self, RecordedRun};
use orchestrator::store::Reader;

/// Every rule holds, also of the weights on disk, for the runs in the folder `dir`. One in which nothing was begun is sound.
pub async fn assert_sound(dir: &Path, what: &str) {
    let Ok(reader) = Reader::open(&dir.join(orchestrator::run::DATABASE)).await else { return };
    let mut findings = reader.check(false).await.unwrap();
    let rows = reader.runs().await.unwrap();
    let runs = rows.into_iter().map(|row| {
        let config = orchestrator::config::parse("recorded", &row.config_toml, &[]).unwrap();
        RecordedRun { row, config }
    });
    findings.extend(audit::weights_on_disk(&reader, dir, &runs.collect::<Vec<_>>(), false).await.unwrap());
    let broken: Vec<String> = findings
        .into_iter()
        .filter(|finding| !finding.holds())
        .map(|finding| format!("{}: {} places, {:?}", finding.rule, finding.count, finding.example))
        .collect();
    assert!(broken.is_empty(), "{what}: {broken:?}");
}
