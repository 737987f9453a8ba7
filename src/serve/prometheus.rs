//! The newest figures of each run in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::source::{Lent, Source, Sources};
use super::{ServeError, curves};
use crate::store::RunStatus;

/// Values by the name of their figure and by their labels: Prometheus wants those of one name together, and each series
/// once.
pub type Lines = BTreeMap<String, BTreeMap<String, f64>>;

/// Every figure is a gauge: it is what the newest step, measurement or round says. A database that cannot be read says so
/// by `orchestrator_database_is_readable` and keeps no other from being heard.
pub async fn metrics(sources: &Sources) -> String {
    let all: Vec<_> = sources.all().into_iter().filter(|source| !source.is_removed()).collect();
    let found = all.iter().map(|source| sources.figures(source, figures));
    let found = futures_util::future::join_all(found).await;
    let mut lines = Lines::new();
    for (source, found) in all.iter().zip(found) {
        let readable = lines.entry("orchestrator_database_is_readable".to_owned()).or_default();
        readable.insert(database_label(source), f64::from(u8::from(found.is_ok())));
        for (name, found) in found.iter().flat_map(|found| found.iter()) {
            let line = lines.entry(name.clone()).or_default();
            line.extend(found.iter().map(|(labels, value)| (labels.clone(), *value)));
        }
    }
    let mut text = String::new();
    for (name, lines) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# TYPE {name} gauge");
        for (labels, value) in lines {
            let _ = writeln!(text, "{name}{{{labels}}} {}", shown(value));
        }
    }
    text
}

/// The folder and not its last part, which two may have.
fn database_label(source: &Source) -> String {
    format!("database=\"{}\"", escaped(&source.place))
}

/// The figures of the runs of one database.
async fn figures(lent: Lent) -> Result<Lines, ServeError> {
    let mut lines = Lines::new();
    let database = database_label(&lent.source);
    for run in lent.reader.runs().await? {
        let labels = format!("{database},run=\"{}\",name=\"{}\"", run.run_id, escaped(&run.name));
        let mut set = |name: &str, value: f64| {
            let name = format!("orchestrator_{}", cleaned(name));
            lines.entry(name).or_default().insert(labels.clone(), value);
        };
        set("run_is_running", f64::from(u8::from(run.status == RunStatus::Running)));
        set("run_is_failed", f64::from(u8::from(run.status == RunStatus::Failed)));
        if let Some(written) = lent.stamp.written_at_ms() {
            set("run_written_timestamp_seconds", written as f64 / 1000.0);
        }
        if let Some(planned) = run.planned_steps() {
            set("run_planned_steps", planned as f64);
        }
        let curves = curves::curves(&lent.reader, run.run_id, 1).await?;
        for (group, prefix) in [("steps", "step_"), ("held_out", ""), ("rounds", "")] {
            let Some(group) = curves.get(group) else { continue };
            for axis in ["step", "generated_tokens", "seconds"] {
                if let Some(value) = newest(group.get(axis)).filter(|_| prefix == "step_") {
                    set(["run_", axis].concat().as_str(), value);
                }
            }
            for (name, column) in group.get("series").and_then(Value::as_object).into_iter().flatten() {
                if let Some(value) = newest(Some(column)) {
                    set(&format!("{prefix}{name}"), value);
                }
            }
        }
    }
    Ok(lines)
}

fn newest(column: Option<&Value>) -> Option<f64> {
    column?.as_array()?.iter().rev().find_map(Value::as_f64)
}

/// A text between the quotes of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A name that Prometheus takes.
fn cleaned(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

fn shown(value: f64) -> String {
    if value.is_nan() { "NaN".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_cannot_break_the_format() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(cleaned("reload_a b-c_s"), "reload_a_b_c_s");
        assert_eq!(newest(Some(&serde_json::json!([1.0, 2.5, null]))), Some(2.5));
    }
}
