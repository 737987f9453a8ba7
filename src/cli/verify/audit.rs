//! The stored answers of a run, graded again: tree after tree, read only.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;

use super::super::{Printer, recorded_config};
use super::lines::Counts;
use super::{Args, VerifyError, cores, rules, tell_failure};
use crate::data::ModelTokenizer;
use crate::error::Failure;
use crate::report::text::one_line;
use crate::run::{DATABASE, RunError};
use crate::store::{NodeRow, Reader};
use crate::types::{FinishReason, NodeId, RunId, TokenId, TreeId, Verdict};
use crate::verify::{DecidedBy, Grader, Judged};

/// An answer that is judged otherwise than before.
#[derive(Debug, Serialize)]
struct Change {
    tree: TreeId,
    node: NodeId,
    problem: String,
    stored: Verdict,
    verdict: Verdict,
    decided_by: &'static str,
    extracted: Option<String>,
    reference: String,
}

/// What was looked at, as the last line of `--json`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    run: i64,
    trees: u64,
    answers: u64,
    /// Answers whose tokens were not kept.
    without_text: u64,
    changed: u64,
    /// `stored -> new`, and how many.
    changes: BTreeMap<String, u64>,
}

/// One tree, graded.
struct Graded {
    judged: Vec<Judged>,
    changes: Vec<Change>,
    without_text: u64,
}

/// Grades the stored answers of a run. 1 if a verdict changed, else 0.
///
/// # Errors
/// A database without that run, a tokenizer that cannot be read.
pub(super) async fn audit(path: &Path, args: &Args, printer: &Printer) -> Result<u8, Failure> {
    let started = Instant::now();
    let path = if path.is_dir() { path.join(DATABASE) } else { path.to_owned() };
    let reader = Reader::open(&path).await?;
    let (row, what) = match args.run {
        Some(run) => (reader.run(RunId(run)).await?, format!("run `{run}`")),
        None => (reader.latest_run().await?, "run yet".to_owned()),
    };
    let row = row.ok_or(VerifyError::Missing { path: path.clone(), what })?;
    let name = format!("configuration of run {} in {}", row.run_id, path.display());
    let config = recorded_config(&name, &row.config_toml, &args.sets)?;
    let verify = match &args.config {
        Some(_) => rules(args)?,
        None => {
            let mut rules = config.verify_rules();
            rules.sidecar &= !args.no_sidecar;
            rules
        }
    };
    let tokenizer = ModelTokenizer::load(&config.run.model);
    let tokenizer = tokenizer.map_err(|source| RunError::Model { dir: config.run.model.clone(), source })?;
    let auditor = Auditor {
        reader: reader.clone(),
        tokenizer: Arc::new(tokenizer),
        grader: Grader::new(verify),
        max_depth: config.search.max_depth,
    };

    let trees = stream::iter(reader.tree_ids(row.run_id).await?);
    let graded = trees.map(|tree| auditor.grade(tree)).buffered(cores());
    let mut graded = std::pin::pin!(graded);
    let mut counts = Counts::default();
    let mut summary = Summary { run: row.run_id.0, ..Summary::default() };
    while let Some(tree) = graded.next().await {
        let tree = tree?;
        tell_failure(&auditor.grader, printer);
        summary.trees += 1;
        summary.without_text += tree.without_text;
        tree.judged.iter().for_each(|judged| counts.add(judged));
        let mut text = String::new();
        for change in &tree.changes {
            summary.changed += 1;
            let kind = format!("{} -> {}", change.stored.as_str(), change.verdict.as_str());
            *summary.changes.entry(kind).or_default() += 1;
            text += &if args.json { json(change)? } else { shown(change) };
            text.push('\n');
        }
        if !text.is_empty() && !printer.piece(&text)? {
            return Ok(1);
        }
    }
    summary.answers = counts.total();
    if args.json {
        printer.data(&json(&summary)?)?;
    }
    printer.note(&counts.text(started.elapsed()));
    printer.note(&closing(&summary));
    Ok(u8::from(summary.changed > 0))
}

fn json(value: &impl Serialize) -> Result<String, VerifyError> {
    serde_json::to_string(value).map_err(VerifyError::Json)
}

fn shown(change: &Change) -> String {
    let answer = change.extracted.as_deref().map_or_else(|| "no answer".to_owned(), one_line);
    format!(
        "tree {} node {} problem {}: {} -> {} by {}: {answer} for {}",
        change.tree,
        change.node,
        one_line(&change.problem),
        change.stored.as_str(),
        change.verdict.as_str(),
        change.decided_by,
        one_line(&change.reference),
    )
}

fn closing(summary: &Summary) -> String {
    let mut text = format!("run {}: {} of {} verdicts changed", summary.run, summary.changed, summary.answers);
    for (kind, count) in &summary.changes {
        text += &format!("\n  {count} {kind}");
    }
    if summary.without_text > 0 {
        text += &format!("\n{} answers were left out: their tokens were not kept", summary.without_text);
    }
    text
}

struct Auditor {
    reader: Reader,
    tokenizer: Arc<ModelTokenizer>,
    grader: Grader,
    /// Beyond it a path is not expanded; a text that was cut above it was given up as lost, whatever it says.
    max_depth: u32,
}

impl Auditor {
    async fn grade(&self, tree_id: TreeId) -> Result<Graded, Failure> {
        let mut graded = Graded { judged: Vec::new(), changes: Vec::new(), without_text: 0 };
        let Some(tree) = self.reader.tree(tree_id).await? else { return Ok(graded) };
        // A foreign key says that it is there.
        let Some(problem) = self.reader.problem(tree.problem_id).await? else { return Ok(graded) };
        let nodes = self.reader.nodes(tree_id).await?;
        for node in &nodes {
            let (true, Some(stored)) = (node.is_terminal, node.verdict) else { continue };
            let is_cut = node.finish_reason == Some(FinishReason::Length);
            let is_lost = is_cut && stored == Verdict::NoAnswer && node.depth > 1 && node.depth < self.max_depth;
            let Some(tokens) = path_tokens(&nodes, node) else {
                graded.without_text += 1;
                continue;
            };
            let judged = match self.tokenizer.decode(&tokens) {
                Ok(text) => self.grader.grade(&text, &problem.answer).await,
                Err(_) => Judged { verdict: Verdict::Error, decided_by: DecidedBy::Nothing, answer: None },
            };
            if judged.verdict != stored && (!is_lost || judged.verdict == Verdict::Correct) {
                graded.changes.push(Change {
                    tree: tree_id,
                    node: node.node_id,
                    problem: problem.name.clone(),
                    stored,
                    verdict: judged.verdict,
                    decided_by: judged.decided_by.as_str(),
                    extracted: judged.answer.clone(),
                    reference: problem.answer.clone(),
                });
            }
            graded.judged.push(judged);
        }
        Ok(graded)
    }
}

/// The tokens from the prompt to a node; `None` where some were not kept. Node `i` is the `i`-th, and a parent comes
/// before its children.
fn path_tokens(nodes: &[NodeRow], leaf: &NodeRow) -> Option<Vec<TokenId>> {
    let mut path = Vec::new();
    let mut node = leaf;
    while let Some(parent) = node.parent_node_id {
        path.push(node.content.as_ref()?);
        node = nodes.get(parent.0 as usize)?;
    }
    Some(path.into_iter().rev().flat_map(|content| content.tokens.iter().copied()).collect())
}
