//! A run as one file: the same page, with the answers of the API inside.

use serde_json::{Map, Value, json};

use super::text::{NodeText, Tokenizers};
use super::{ServeError, api, assets, curves, tree};
use crate::store::{ProblemFilter, Reader, RunRow, TreeFilter, TreeOrder, TreePageFilter};
use crate::types::{ProblemId, RunId};

/// The only run of the file has this name in addresses.
const KEY: &str = "0-0";
/// Wrong answers in the file.
const MISTAKES: u32 = 50;
/// Trees that are looked at for the file at all.
const CANDIDATES: u32 = 2000;

/// A page that needs nothing else.
#[derive(Clone, Debug)]
pub struct PageFile {
    /// The whole page.
    pub html: String,
    /// Trees that are in it.
    pub trees: usize,
    /// Trees of the run.
    pub trees_total: u64,
}

/// Makes the page of a run. Figures, rounds and the surest mistakes are always in it; trees, those first in which search
/// helped most, until it has about `max_bytes`.
///
/// # Errors
/// The database cannot be read.
pub async fn page_file(reader: &Reader, row: RunRow, label: &str, max_bytes: usize) -> Result<PageFile, ServeError> {
    let run = row.run_id;
    let (config, model) = (row.config_toml.clone(), row.model.clone());
    let mut answers = Map::new();
    let base = format!("/api/runs/{KEY}");
    let spent = reader.run_comparison().await?.into_iter().find(|spent| spent.run_id == run);
    let item = api::run_item(reader, row, spent.as_ref(), (KEY, label), None).await?;
    answers.insert("/api/runs".into(), json!({ "runs": [&item], "refused": [] }));
    answers.insert(base.clone(), api::detail(reader, run, item, &config).await?);
    answers.insert(format!("{base}/curves"), curves::curves(reader, run, api::MAX_STEPS).await?);
    let mistakes = reader.mistake_page(run, 0, MISTAKES).await?;
    answers.insert(format!("{base}/mistakes"), serde_json::to_value(mistakes)?);
    let mut size: usize = answers.values().map(|value| value.to_string().len()).sum();

    let first = TreeFilter { limit: Some(CANDIDATES), ..TreeFilter::of(run) };
    let order = TreePageFilter { order: TreeOrder::Gain, ..TreePageFilter::of(first) };
    let candidates = reader.tree_page(order).await?;
    let tokenizers = std::sync::Arc::new(Tokenizers::default());
    let mut listed = Vec::new();
    let mut problems = std::collections::BTreeSet::new();
    for candidate in candidates.trees {
        let id = candidate.tree.tree_id;
        let Some(mut drawn) = tree::tree(reader, run, id).await? else { continue };
        let kept = reader.kept_content(id).await?;
        let (tokenizers, model) = (tokenizers.clone(), model.clone());
        let texts: Vec<NodeText> = api::in_background(move || tokenizers.texts(model.as_ref(), kept)).await;
        if let Some(cells) = drawn.as_object_mut() {
            cells.insert("texts".into(), serde_json::to_value(texts)?);
        }
        let problem = candidate.tree.problem_id;
        let history = if problems.contains(&problem) { None } else { problem_of(reader, run, problem).await? };
        let needed = drawn.to_string().len() + history.as_ref().map_or(0, |history| history.to_string().len());
        if size + needed > max_bytes {
            // A smaller one may still fit, but then the best ones would be missing without a word.
            break;
        }
        size += needed;
        answers.insert(format!("{base}/trees/{id}"), drawn);
        if let Some(history) = history {
            answers.insert(format!("{base}/problems/{problem}"), history);
        }
        problems.insert(problem);
        listed.push(candidate);
    }
    let trees = listed.len();
    let page = reader.problem_page(ProblemFilter::of(run)).await?;
    let shown: Vec<_> = page.problems.into_iter().filter(|item| problems.contains(&item.problem_id)).collect();
    answers.insert(format!("{base}/problems"), json!({ "total": page.total, "problems": shown }));
    answers.insert(format!("{base}/trees"), json!({ "total": trees, "trees": listed }));
    let data = json!({
        "answers": answers,
        "note": { "trees": trees, "trees_total": candidates.total, "program_version": env!("CARGO_PKG_VERSION") },
    });
    Ok(PageFile { html: assets::single_file(&data.to_string()), trees, trees_total: candidates.total })
}

async fn problem_of(reader: &Reader, run: RunId, problem: ProblemId) -> Result<Option<Value>, ServeError> {
    api::problem(reader, run, problem.0).await
}
