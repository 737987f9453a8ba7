//! A small run built through the store's own API, and databases that live as long as a test.

use std::path::PathBuf;

use orchestrator::config::{Algorithm, Rules};
use orchestrator::store::{
    BenchmarkResult, Confirmation, EvaluatedProblem, FilteredProblem, Metric, NewBenchmark, NewBenchmarkFile,
    NewBenchmarkSample, NewEvaluation, NewProblem, NewRound, NewRun, NewSlot, NewSolution, NewStep, NewTree,
    NewWeightVersion, NodeContent, NodeRow, RoundReason, ScoreParts, Selection, SelectionKind, StepEnd, Store,
    TrajectoryRow, TreeStatus,
};
use orchestrator::types::{
    BenchmarkId, Defect, FinishReason, NodeId, ProblemId, Provenance, RoundId, RunId, StepId, TreeId, TreeKind,
    Verdict, WeightVersion,
};
use tempfile::TempDir;

/// A fresh, migrated database in its own folder.
pub async fn fresh() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&path_in(&folder)).await.unwrap();
    (folder, store)
}

/// The database's path in a test's folder.
pub fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("run.db")
}

pub fn new_run() -> NewRun {
    NewRun {
        name: "fixture".into(),
        algorithm: Algorithm::Deepsearch,
        config_toml: "[run]\nname = \"fixture\"\n".into(),
        model: "models/tiny".into(),
        seed: u64::MAX,
        program_version: "0.1.0".into(),
        git_commit: Some("26a6c1f".into()),
    }
}

pub fn new_problem(name: &str, text: &str, answer: &str) -> NewProblem {
    NewProblem {
        name: name.into(),
        text: text.into(),
        answer: answer.into(),
        level: None,
        topic: Some("arithmetic".into()),
        source: "fixture.jsonl".into(),
    }
}

pub fn new_weights(run: RunId, version: u64) -> NewWeightVersion {
    NewWeightVersion {
        run,
        version: WeightVersion(version),
        step: (version > 0).then_some(StepId(version as i64)),
        digest: format!("{version:064x}"),
        path: format!("weights/{version}"),
        size_bytes: 1000 + version,
        may_differ: false,
    }
}

/// A step with a search for each of `problems`.
pub fn new_step(run: RunId, step: i64, problems: &[ProblemId]) -> NewStep {
    let slots = (0..).zip(problems).map(|(slot, problem)| new_slot(slot, *problem)).collect();
    let search_weight_version = WeightVersion(step as u64 - 1);
    NewStep { run, step: StepId(step), round: RoundId(1), search_weight_version, slots }
}

pub fn new_slot(slot: u32, problem: ProblemId) -> NewSlot {
    NewSlot { slot, problem, kind: TreeKind::Search, known_solutions: 0 }
}

/// A solution found by rollouts, of `tokens`.
pub fn new_solution(tokens: &[u32]) -> NewSolution {
    NewSolution {
        tokens: tokens.to_vec(),
        logprobs: vec![-1.0; tokens.len()],
        text: "again".into(),
        answer: "2".into(),
        weight_version: WeightVersion(0),
        provenance: Provenance::Rollout,
    }
}

/// A candidate with `correct` of 4 rollouts correct.
pub fn filtered(problem: ProblemId, correct: u32, reason: RoundReason) -> FilteredProblem {
    FilteredProblem { problem, samples: 4, correct, errors: 0, generated_tokens: 100, reason, solutions: vec![] }
}

pub fn new_evaluation(run: RunId, step: i64, problems: &[(ProblemId, u32)]) -> NewEvaluation {
    let evaluated = |(problem, correct): &(ProblemId, u32)| EvaluatedProblem {
        problem: *problem,
        correct: *correct,
        no_answer: 1,
        undecided: 0,
    };
    NewEvaluation {
        run,
        step: StepId(step),
        weight_version: WeightVersion(step as u64),
        samples: 4,
        refused: 1,
        generated_tokens: 64,
        wall_ms: 900,
        problems: problems.iter().map(evaluated).collect(),
    }
}

pub fn new_tree(run: RunId, step: i64, slot: u32, problem: ProblemId) -> NewTree {
    NewTree {
        run,
        step: StepId(step),
        slot,
        problem,
        kind: TreeKind::Search,
        rules: Rules::Paper,
        uct_lambda: 2.0,
        status: TreeStatus::Complete,
        seed: u64::MAX - 1,
        expansion_count: 2,
        generated_tokens: 40,
        wall_ms: 1500,
    }
}

/// The root: a prompt of three tokens.
pub fn root() -> NodeRow {
    NodeRow {
        node_id: NodeId::ROOT,
        parent_node_id: None,
        tag: "0".into(),
        depth: 0,
        visits: 2,
        q_total: 0.2,
        entropy_nats: None,
        token_count: 3,
        finish_reason: None,
        is_terminal: false,
        verdict: None,
        weight_version: None,
        selection: None,
        content: Some(NodeContent { tokens: vec![1, 2, 3], logprobs: None, text: "What is 1 + 1?".into() }),
    }
}

/// A node below `parent` with `tokens` tokens; `text` is kept.
pub fn node(id: u32, parent: &NodeRow, tag: &str, tokens: u32, text: &str, version: u64) -> NodeRow {
    NodeRow {
        node_id: NodeId(id),
        parent_node_id: Some(parent.node_id),
        tag: tag.into(),
        depth: parent.depth + 1,
        visits: 1,
        q_total: 0.0,
        entropy_nats: Some(0.5),
        token_count: tokens,
        finish_reason: Some(FinishReason::Length),
        is_terminal: false,
        verdict: None,
        weight_version: Some(WeightVersion(version)),
        selection: None,
        content: Some(NodeContent {
            tokens: (0..tokens).map(|i| id * 1000 + i).collect(),
            logprobs: Some((0..tokens).map(|i| -(i as f32) / 8.0).collect()),
            text: text.into(),
        }),
    }
}

/// `node` as a terminal that was judged.
pub fn judged(mut node: NodeRow, verdict: Verdict, q_total: f64) -> NodeRow {
    node.is_terminal = true;
    node.finish_reason = Some(FinishReason::Stop);
    node.verdict = Some(verdict);
    node.q_total = q_total;
    node
}

pub fn trajectory(path: &[u32], verdict: Verdict, entropy_nats: f64, response_tokens: u32) -> TrajectoryRow {
    TrajectoryRow {
        path: path.iter().copied().map(NodeId).collect(),
        verdict,
        reward: if verdict == Verdict::Correct { 1.0 } else { -1.0 },
        entropy_nats: Some(entropy_nats),
        response_tokens,
        provenance: Provenance::Search,
        defect: None,
        solution: None,
    }
}

/// A tree of `nodes` nodes below the root, each the child of the one before its group of eight, all with tokens; one
/// trajectory to the last node.
pub fn bulk_tree(nodes: u32, tokens: u32) -> (Vec<NodeRow>, Vec<TrajectoryRow>) {
    let mut rows = vec![root()];
    for id in 1..nodes {
        let parent = rows[((id - 1) / 8) as usize].clone();
        let tag = format!("{}.{}", parent.tag, (id - 1) % 8 + 1);
        rows.push(node(id, &parent, &tag, tokens, "sixteen letters.", 0));
    }
    let mut path = Vec::new();
    let mut at = nodes - 1;
    while at > 0 {
        path.push(at);
        at = (at - 1) / 8;
    }
    path.reverse();
    let last = rows.pop().unwrap();
    rows.push(judged(last, Verdict::Incorrect, -1.0));
    let trajectories = vec![trajectory(&path, Verdict::Incorrect, 0.25, tokens * path.len() as u32)];
    (rows, trajectories)
}

/// What [`fixture`] made.
pub struct Fixture {
    pub run: RunId,
    pub problems: Vec<ProblemId>,
    /// Solved, wrong, failed (step 1); solved (step 2).
    pub trees: Vec<TreeId>,
}

/// Two finished steps and a third that is running.
///
/// | tree | step | slot | result | generated | on trajectories |
/// |------|------|------|--------|-----------|-----------------|
/// | 0    | 1    | 0    | solved; a correct (10 + 6) and a wrong path (10 + 4) that share a node | 40 | 20 |
/// | 1    | 1    | 1    | wrong: one path of 5 tokens, exhausted | 10 | 5 |
/// | 2    | 1    | 2    | failed before anything was sampled     | 0  | 0 |
/// | 3    | 2    | 0    | solved: one path of 8 tokens           | 24 | 8 |
pub async fn fixture(store: &Store) -> Fixture {
    let run = store.create_run(new_run()).await.unwrap();
    let problems = store
        .insert_problems(vec![
            new_problem("add-1", "What is 1 + 1?", "2"),
            new_problem("add-2", "What is 2 + 2?", "4"),
            new_problem("add-3", "What is 3 + 3?", "6"),
            new_problem("add-4", "What is 4 + 4?", "8"),
        ])
        .await
        .unwrap();
    let sure = Confirmation { reload_ms: 120, canary_mean_abs_nats: Some(0.01), canary_max_abs_nats: Some(0.03) };
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    store.confirm_weight_version(run, WeightVersion(0), sure).await.unwrap();

    let round = NewRound {
        run,
        round: RoundId(1),
        weight_version: WeightVersion(0),
        first_step: StepId(1),
        last_step: StepId(3),
        candidates: vec![problems[2], problems[0], problems[1], problems[3]],
    };
    store.begin_round(round).await.unwrap();
    store
        .record_filtered(
            run,
            RoundId(1),
            vec![
                FilteredProblem {
                    solutions: vec![new_solution(&[41, 42])],
                    ..filtered(problems[2], 1, RoundReason::Hard)
                },
                filtered(problems[0], 0, RoundReason::Hard),
                filtered(problems[1], 1, RoundReason::Hard),
                filtered(problems[3], 4, RoundReason::Easy),
            ],
        )
        .await
        .unwrap();
    store.begin_training(run, RoundId(1)).await.unwrap();
    store.record_evaluation(new_evaluation(run, 0, &[(problems[3], 1), (problems[1], 0)])).await.unwrap();

    store.begin_step(new_step(run, 1, &problems[..3])).await.unwrap();
    let trees = vec![
        solved_tree(store, run, problems[0]).await,
        wrong_tree(store, run, problems[1]).await,
        failed_tree(store, run, problems[2]).await,
    ];
    store.record_weight_version(new_weights(run, 1)).await.unwrap();
    store.confirm_weight_version(run, WeightVersion(1), sure).await.unwrap();
    let end = StepEnd {
        produced_weight_version: Some(WeightVersion(1)),
        search_ms: 500,
        train_ms: 300,
        export_ms: 20,
        reload_ms: 120,
        generated_tokens: 50,
        trained_tokens: 35,
        packed_tokens: 25,
        skipped_group_count: 1,
        mean_reward: Some(-1.0 / 3.0),
        loss: Some(0.125),
        grad_norm: Some(0.75),
        clip_frac: Some(0.0),
        ratio_mean: Some(1.001),
        ratio_p99: Some(1.05),
        ratio_outside_frac: Some(0.01),
        entropy_nats: Some(0.4),
        ..StepEnd::default()
    };
    let metrics = vec![
        Metric { name: "advantage_mean".into(), value: 0.25 },
        Metric { name: "never_finite".into(), value: f64::NAN },
        Metric { name: "wall_s".into(), value: 1.25 },
    ];
    store.finish_step(run, StepId(1), end, metrics).await.unwrap();

    store.record_evaluation(new_evaluation(run, 1, &[(problems[3], 3), (problems[1], 0)])).await.unwrap();

    let replayed = NewSlot { kind: TreeKind::Replay, known_solutions: 1, ..new_slot(0, problems[0]) };
    store.begin_step(NewStep { slots: vec![replayed], ..new_step(run, 2, &[]) }).await.unwrap();
    let nodes = vec![root(), judged(node(1, &root(), "0.1", 8, "\\boxed{2}", 1), Verdict::Correct, 1.0)];
    let tree = NewTree {
        kind: TreeKind::Replay,
        generated_tokens: 24,
        expansion_count: 1,
        ..new_tree(run, 2, 0, problems[0])
    };
    let path = vec![TrajectoryRow { provenance: Provenance::Rollout, ..trajectory(&[1], Verdict::Correct, 0.1, 8) }];
    let mut trees = trees;
    trees.push(store.record_tree(tree, nodes, path, vec![]).await.unwrap());
    let skipped = StepEnd {
        update_skip_reason: Some("gradient is not finite".into()),
        loss: Some(f64::NAN),
        generated_tokens: 24,
        ..StepEnd::default()
    };
    store.finish_step(run, StepId(2), skipped, vec![]).await.unwrap();

    let third = NewStep { search_weight_version: WeightVersion(1), ..new_step(run, 3, &problems) };
    store.begin_step(third).await.unwrap();
    benchmark(store).await;
    Fixture { run, problems, trees }
}

async fn solved_tree(store: &Store, run: RunId, problem: ProblemId) -> TreeId {
    let shared = NodeRow {
        visits: 2,
        q_total: 0.5,
        selection: Some(Selection {
            order: 0,
            kind: SelectionKind::UctChild,
            score: Some(1.25),
            parts: ScoreParts { value: Some(0.25), exploration: Some(1.0), entropy: None, depth: None },
        }),
        ..node(1, &root(), "0.1", 10, "1 + 1 is ", 0)
    };
    let side = NodeRow { content: None, ..node(2, &root(), "0.2", 20, "", 0) };
    let right = judged(node(3, &shared, "0.1.1", 6, "two: \\boxed{2}", 0), Verdict::Correct, 1.0);
    let wrong = judged(node(4, &shared, "0.1.2", 4, "\x1b[31m\\boxed{3}\x07", 0), Verdict::Incorrect, -1.0);
    let solution = NewSolution {
        tokens: vec![11, 12],
        logprobs: vec![-0.5, f32::NAN],
        text: "1 + 1 is two: \\boxed{2}".into(),
        answer: "2".into(),
        weight_version: WeightVersion(0),
        provenance: Provenance::Search,
    };
    let trajectories =
        vec![trajectory(&[1, 4], Verdict::Incorrect, 0.2, 14), trajectory(&[1, 3], Verdict::Correct, 0.6, 16)];
    let nodes = vec![root(), shared, side, right, wrong];
    store.record_tree(new_tree(run, 1, 0, problem), nodes, trajectories, vec![solution]).await.unwrap()
}

async fn wrong_tree(store: &Store, run: RunId, problem: ProblemId) -> TreeId {
    let nodes = vec![root(), judged(node(1, &root(), "0.1", 5, "\\boxed{5}", 0), Verdict::Incorrect, -1.0)];
    let tree = NewTree {
        status: TreeStatus::Exhausted,
        generated_tokens: 10,
        expansion_count: 1,
        ..new_tree(run, 1, 1, problem)
    };
    let garbled = TrajectoryRow { defect: Some(Defect::Garbled), ..trajectory(&[1], Verdict::Incorrect, 0.05, 5) };
    store.record_tree(tree, nodes, vec![garbled], vec![]).await.unwrap()
}

async fn failed_tree(store: &Store, run: RunId, problem: ProblemId) -> TreeId {
    let tree = NewTree {
        status: TreeStatus::Failed { error: "the prompt is too long".into() },
        generated_tokens: 0,
        expansion_count: 0,
        ..new_tree(run, 1, 2, problem)
    };
    store.record_tree(tree, vec![root()], vec![], vec![]).await.unwrap()
}

pub fn new_benchmark() -> NewBenchmark {
    let problem = |name: &str, text: &str, answer: &str| (new_problem(name, text, answer), 12);
    NewBenchmark {
        model: "models/tiny".into(),
        engine: "embedded 0.1.0".into(),
        weights_digest: None,
        samples: 2,
        temperature: 0.6,
        top_p: 0.95,
        max_tokens: 64,
        seed: u64::MAX,
        settings_json: "{\"--samples\":\"2\"}".into(),
        program_version: "0.1.0".into(),
        files: vec![NewBenchmarkFile {
            name: "sums".into(),
            path: "data/sums.jsonl".into(),
            content_sha256: "0".repeat(64),
            problems: vec![
                problem("add-1", "What is 1 + 1?", "2"),
                problem("add-2", "What is 2 + 2?", "4"),
                problem("add-3", "What is 3 + 3?", "6"),
            ],
        }],
    }
}

pub fn new_sample(benchmark: BenchmarkId, ordinal: u32, sample: u32, verdict: Verdict) -> NewBenchmarkSample {
    let answer = matches!(verdict, Verdict::Correct | Verdict::Incorrect | Verdict::Undecided).then(|| "2".to_owned());
    NewBenchmarkSample {
        benchmark,
        file: 1,
        ordinal,
        sample,
        text: "\\boxed{2}".into(),
        tokens: 10 + u64::from(sample),
        finish: if verdict == Verdict::NoAnswer { FinishReason::Length } else { FinishReason::Stop },
        verdict,
        decided_by: "exact".into(),
        answer,
    }
}

/// Two samples of three problems each: one right and one wrong; one without an answer and one that is missing; two that
/// are not settled.
pub async fn benchmark(store: &Store) -> BenchmarkId {
    let id = store.create_benchmark(new_benchmark()).await.unwrap();
    for (ordinal, sample, verdict) in [
        (0, 0, Verdict::Correct),
        (0, 1, Verdict::Incorrect),
        (1, 0, Verdict::NoAnswer),
        (2, 0, Verdict::Undecided),
        (2, 1, Verdict::Error),
    ] {
        store.record_benchmark_sample(new_sample(id, ordinal, sample, verdict)).await.unwrap();
    }
    let result = |metric, k, value, interval| BenchmarkResult { file: 1, metric, k, value, interval };
    let results = vec![
        result("pass", 1, 0.25, Some([0.0, 0.5])),
        result("pass", 2, 0.5, None),
        result("majority", 2, 0.25, None),
    ];
    store.record_benchmark_results(id, results, false).await.unwrap();
    id
}
