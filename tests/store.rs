//! The store on a fresh database per test: every function, the schema, refusals, views and plans.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/snapshot.rs"]
mod snapshot;
#[path = "support/store.rs"]
mod support;

use orchestrator::error::{FailureClass, Hint};
use orchestrator::store::{
    Confirmation, Metric, NewSlot, NewStep, NewTree, NewWeightVersion, Reader, RunEnd, RunStatus, StepEnd, StepStatus,
    Store, StoreError, StoreOptions, TreeFilter, TreeStatus,
};
use orchestrator::types::{NodeId, ProblemId, Provenance, RoundId, RunId, StepId, TreeKind, Verdict, WeightVersion};
use sqlx::{Connection, SqliteConnection};
use support::*;

async fn raw(store: &Store) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}", store.path().display())).await.unwrap()
}

#[tokio::test]
async fn the_schema_is_the_recorded_one() {
    let (_folder, store) = fresh().await;
    let objects: Vec<String> = sqlx::query_scalar(
        "select sql from sqlite_schema where sql is not null and name not like '\\_sqlx%' escape '\\' order by name",
    )
    .fetch_all(&mut raw(&store).await)
    .await
    .unwrap();
    snapshot::check("schema.sql", &format!("{};\n", objects.join(";\n\n")));
}

#[tokio::test]
async fn every_table_is_strict() {
    let (_folder, store) = fresh().await;
    let loose: Vec<String> = sqlx::query_scalar(
        "select name from pragma_table_list
         where type = 'table' and schema = 'main' and strict = 0 and name not like '%sql%'",
    )
    .fetch_all(&mut raw(&store).await)
    .await
    .unwrap();
    assert_eq!(loose, Vec::<String>::new());
}

#[tokio::test]
async fn a_run_begins_ends_and_is_resumed() {
    let (_folder, store) = fresh().await;
    let first = store.create_run(new_run()).await.unwrap();
    let second = store.create_run(new_run()).await.unwrap();
    assert_eq!(store.reader().latest_run().await.unwrap().unwrap().run_id, second);

    let row = store.reader().run(first).await.unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.seed, row.status), ("fixture", u64::MAX, RunStatus::Running));
    assert_eq!(row.config_sha256, "beee6e6cdf4f23a1b460514a50a7d75134ec1ae869905d0bef9689c28743c507");
    assert_eq!(row.ended_at_ms, None);

    store.finish_run(first, RunEnd::Failed { error: "server gone".into() }).await.unwrap();
    let row = store.reader().run(first).await.unwrap().unwrap();
    assert_eq!((row.status, row.error.as_deref()), (RunStatus::Failed, Some("server gone")));
    assert!(row.ended_at_ms.is_some());

    store.resume_run(first, Some("[run]\nname = \"fixture\"\nsteps = 9\n".into())).await.unwrap();
    let changed = store.reader().run(first).await.unwrap().unwrap();
    assert_eq!((changed.status, changed.error, changed.ended_at_ms), (RunStatus::Running, None, None));
    assert!(changed.config_toml.ends_with("steps = 9\n") && changed.config_sha256 != row.config_sha256);

    for end in [RunEnd::Done, RunEnd::Interrupted] {
        store.finish_run(second, end).await.unwrap();
    }
    assert_eq!(store.reader().runs().await.unwrap().len(), 2);
    let missing = store.finish_run(RunId(9), RunEnd::Done).await.unwrap_err();
    assert_eq!(missing.to_string(), "there is no run `9` in the database");
}

#[tokio::test]
async fn a_problem_is_inserted_once() {
    let (_folder, store) = fresh().await;
    let one = new_problem("a", "1 + 1", "2");
    let same_name = new_problem("a", "1 + 2", "3");
    let ids = store.insert_problems(vec![one.clone(), same_name.clone(), one.clone()]).await.unwrap();
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(store.insert_problems(vec![same_name, one]).await.unwrap(), [ids[1], ids[0]]);

    let row = store.reader().problem(ids[1]).await.unwrap().unwrap();
    assert_eq!((row.text.as_str(), row.answer.as_str(), row.topic.as_deref()), ("1 + 2", "3", Some("arithmetic")));
    assert_eq!(store.reader().problem(ProblemId(99)).await.unwrap(), None);
}

#[tokio::test]
async fn a_weight_version_is_recorded_before_it_is_confirmed() {
    let (_folder, store) = fresh().await;
    let run = store.create_run(new_run()).await.unwrap();
    assert_eq!(store.reader().weight_version(run, WeightVersion(0)).await.unwrap(), None);
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    let row = store.reader().weight_version(run, WeightVersion(0)).await.unwrap().unwrap();
    assert_eq!((row.weight_version, row.step_id, row.confirmed_at_ms), (WeightVersion(0), None, None));

    let confirmation = Confirmation { reload_ms: 7, canary_mean_abs_nats: Some(0.5), canary_max_abs_nats: None };
    store.confirm_weight_version(run, WeightVersion(0), confirmation).await.unwrap();
    let row = store.reader().weight_version(run, WeightVersion(0)).await.unwrap().unwrap();
    assert_eq!((row.reload_ms, row.canary_mean_abs_nats), (Some(7), Some(0.5)));
    assert!(row.confirmed_at_ms.is_some());

    let mut other = new_weights(run, 0);
    other.path = "elsewhere/0".into();
    store.record_weight_version(other.clone()).await.unwrap();
    let row = store.reader().weight_version(run, WeightVersion(0)).await.unwrap().unwrap();
    assert_eq!((row.path.as_str(), row.reload_ms), ("elsewhere/0", Some(7)), "moved, still confirmed");

    other.digest = "f".repeat(64);
    let conflict = store.record_weight_version(other.clone()).await.unwrap_err();
    assert!(matches!(&conflict, StoreError::Conflict { given, .. } if *given == "f".repeat(64)), "{conflict}");
    other.may_differ = true;
    other.size_bytes = 5;
    store.record_weight_version(other).await.unwrap();
    let row = store.reader().weight_version(run, WeightVersion(0)).await.unwrap().unwrap();
    assert_eq!((row.digest, row.size_bytes), ("f".repeat(64), 5));
    assert_eq!((row.confirmed_at_ms, row.reload_ms, row.canary_mean_abs_nats), (None, None, None));

    let unknown = store.confirm_weight_version(run, WeightVersion(3), confirmation).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no weight version `3` in the database");
}

/// A step was cut off after its weights were recorded; repeated, it makes no update, and a later step makes the weights of
/// this number.
#[tokio::test]
async fn weights_are_of_the_step_that_made_them_last() {
    let (_folder, store) = fresh().await;
    let run = store.create_run(new_run()).await.unwrap();
    let reader = store.reader();
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    let problems = store.insert_problems(vec![new_problem("a", "1 + 1", "2")]).await.unwrap();
    store.begin_step(new_step(run, 1, &problems)).await.unwrap();
    store.record_weight_version(new_weights(run, 1)).await.unwrap();
    let skipped = StepEnd { update_skip_reason: Some("no signal".into()), ..StepEnd::default() };
    store.finish_step(run, StepId(1), skipped, Vec::new()).await.unwrap();
    let second = NewStep { search_weight_version: WeightVersion(0), ..new_step(run, 2, &problems) };
    store.begin_step(second).await.unwrap();
    let of_second = NewWeightVersion { step: Some(StepId(2)), may_differ: true, ..new_weights(run, 1) };
    for weights in [of_second.clone(), NewWeightVersion { digest: "e".repeat(64), ..of_second }] {
        store.record_weight_version(weights.clone()).await.unwrap();
        let row = reader.weight_version(run, WeightVersion(1)).await.unwrap().unwrap();
        assert_eq!((row.step_id, row.digest), (Some(StepId(2)), weights.digest));
    }
    let end = StepEnd { produced_weight_version: Some(WeightVersion(1)), ..StepEnd::default() };
    store.finish_step(run, StepId(2), end, Vec::new()).await.unwrap();
    let broken: Vec<_> = reader.check(false).await.unwrap().into_iter().filter(|finding| !finding.holds()).collect();
    assert_eq!(
        broken.iter().map(|finding| finding.rule.as_str()).collect::<Vec<_>>(),
        ["slots_grown"],
        "no tree was grown"
    );
}

#[tokio::test]
async fn weights_that_are_given_up_are_remembered_until_they_are_written_again() {
    let (_folder, store) = fresh().await;
    let run = store.create_run(new_run()).await.unwrap();
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    store.drop_weight_versions(run, vec![WeightVersion(0), WeightVersion(9)]).await.unwrap();
    let dropped = async || store.reader().weight_versions(run).await.unwrap().remove(0).dropped_at_ms;
    let first = dropped().await;
    assert!(first.is_some());
    store.drop_weight_versions(run, vec![WeightVersion(0)]).await.unwrap();
    assert_eq!(dropped().await, first, "when it was given up first");
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    assert_eq!(dropped().await, None);
    store.drop_weight_versions(run, vec![WeightVersion(0)]).await.unwrap();
    let other = NewWeightVersion { digest: "e".repeat(64), may_differ: true, ..new_weights(run, 0) };
    store.record_weight_version(other).await.unwrap();
    assert_eq!(dropped().await, None);
}

#[tokio::test]
async fn a_step_is_begun_once_and_finished_once() {
    let (_folder, store) = fresh().await;
    let run = store.create_run(new_run()).await.unwrap();
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    let problems = store.insert_problems(vec![new_problem("a", "1 + 1", "2")]).await.unwrap();
    let reader = store.reader();
    assert_eq!(reader.unfinished_steps(run).await.unwrap(), []);
    let replay = NewSlot { kind: TreeKind::Replay, known_solutions: 3, ..new_slot(1, problems[0]) };
    let plan = NewStep { slots: vec![new_slot(0, problems[0]), replay], ..new_step(run, 1, &[]) };
    store.begin_step(plan.clone()).await.unwrap();
    let conflict = store.begin_step(plan.clone()).await.unwrap_err();
    assert_eq!(conflict.to_string(), "step `1` of run `1` is recorded as `running`, now it is given as `new`");
    store.extend_step(run, StepId(1), vec![new_slot(2, problems[0])]).await.unwrap();
    let taken = store.extend_step(run, StepId(1), vec![new_slot(3, problems[0]), replay]).await.unwrap_err();
    assert!(matches!(taken, StoreError::Refused { .. }), "{taken}");
    let slots = reader.step_slots(run, StepId(1)).await.unwrap();
    let slots: Vec<_> = slots.iter().map(|slot| (slot.slot, slot.kind, slot.known_solutions)).collect();
    assert_eq!(slots, [(0, TreeKind::Search, 0), (1, TreeKind::Replay, 3), (2, TreeKind::Search, 0)]);
    let row = reader.unfinished_steps(run).await.unwrap().remove(0);
    assert_eq!((row.status, row.problem_count, row.round_id, row.end), (StepStatus::Running, 3, RoundId(1), None));
    assert_eq!(reader.done_steps(run).await.unwrap(), []);

    store.record_weight_version(new_weights(run, 1)).await.unwrap();
    let end = StepEnd {
        produced_weight_version: Some(WeightVersion(1)),
        generated_tokens: 12,
        loss: Some(f64::INFINITY),
        grad_norm: Some(f64::NAN),
        ..StepEnd::default()
    };
    let metrics = vec![Metric { name: "x".into(), value: 1.0 }];
    store.finish_step(run, StepId(1), end.clone(), metrics).await.unwrap();
    let row = reader.done_steps(run).await.unwrap().remove(0);
    assert_eq!(reader.unfinished_steps(run).await.unwrap(), []);
    assert_eq!(row.status, StepStatus::Done);
    assert_eq!(row.end, Some(StepEnd { grad_norm: None, ..end.clone() }), "NaN is stored as null");

    let over = store.finish_step(run, StepId(1), end.clone(), vec![]).await.unwrap_err();
    assert!(matches!(over, StoreError::StepOver { .. }), "{over}");
    assert!(matches!(store.begin_step(plan).await, Err(StoreError::StepOver { .. })));
    let late = store.extend_step(run, StepId(1), vec![new_slot(9, problems[0])]).await;
    assert!(matches!(late, Err(StoreError::StepOver { .. })));
    assert!(matches!(store.finish_step(run, StepId(2), end, vec![]).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn metrics_take_the_last_value() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let metrics = [1.0, 2.0].map(|value| Metric { name: "advantage_mean".into(), value });
    let end = StepEnd { update_skip_reason: Some("no signal".into()), ..StepEnd::default() };
    store.finish_step(made.run, StepId(3), end, metrics.to_vec()).await.unwrap();
    let values = async |name: &str| -> Vec<_> {
        let rows = store.reader().metrics(made.run, name).await.unwrap();
        rows.iter().map(|row| (row.step_id.0, row.value)).collect()
    };
    assert_eq!(values("advantage_mean").await, [(1, Some(0.25)), (3, Some(2.0))]);
    assert_eq!(values("never_finite").await, [(1, None)]);
}

#[tokio::test]
async fn a_tree_comes_back_as_it_went_in() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();
    let (nodes, trajectories) = bulk_tree(40, 3);
    let tree = NewTree { seed: 17, ..new_tree(made.run, 3, 2, made.problems[0]) };
    let third = nodes.iter().cloned().map(|mut node| {
        node.weight_version = node.weight_version.map(|_| WeightVersion(1));
        node
    });
    let nodes: Vec<_> = third.collect();
    let id = store.record_tree(tree.clone(), nodes.clone(), trajectories.clone(), vec![]).await.unwrap();

    assert_eq!(reader.nodes(id).await.unwrap(), nodes);
    assert_eq!(reader.trajectories(id).await.unwrap(), trajectories);
    let row = reader.tree(id).await.unwrap().unwrap();
    assert_eq!((row.slot, row.seed, row.node_count, row.trajectory_count), (2, 17, 40, 1));
    assert_eq!(row.trajectory_tokens, 3 * trajectories[0].path.len() as u64);
    assert_eq!((row.weight_version_min, row.weight_version_max), (Some(WeightVersion(1)), Some(WeightVersion(1))));
    assert_eq!(row.status, TreeStatus::Complete);
    assert!(!row.is_solved);

    let failed = reader.tree(made.trees[2]).await.unwrap().unwrap();
    assert_eq!(failed.status, TreeStatus::Failed { error: "the prompt is too long".into() });
    assert_eq!((failed.weight_version_min, failed.trajectory_count), (None, 0));
}

#[tokio::test]
async fn solutions_keep_nan_logprobs_and_are_not_doubled() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let tree = new_tree(made.run, 3, 0, made.problems[0]);
    let found = vec![new_solution(&[11, 12]), new_solution(&[13])];
    store.record_tree(tree, vec![root()], vec![], found).await.unwrap();
    let solutions = store.reader().cached_solutions(made.run, made.problems[0]).await.unwrap();
    assert_eq!(solutions.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>(), [vec![11, 12], vec![13]]);
    assert_eq!(solutions[0].provenance, Provenance::Search, "the first stays");
    assert_eq!(solutions[0].logprobs[0], -0.5);
    assert!(solutions[0].logprobs[1].is_nan());
    assert_eq!(store.reader().cached_solutions(made.run, made.problems[1]).await.unwrap(), vec![]);
}

#[tokio::test]
async fn trees_are_filtered() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let list = async |filter: TreeFilter| {
        let trees = store.reader().trees(filter).await.unwrap();
        trees.iter().map(|tree| made.trees.iter().position(|id| *id == tree.tree_id).unwrap()).collect::<Vec<_>>()
    };
    let all = TreeFilter::of(made.run);
    assert_eq!(list(all).await, [3, 2, 1, 0]);
    assert_eq!(list(TreeFilter { step: Some(StepId(1)), ..all }).await, [2, 1, 0]);
    assert_eq!(list(TreeFilter { is_solved: Some(true), ..all }).await, [3, 0]);
    assert_eq!(list(TreeFilter { is_solved: Some(false), step: Some(StepId(1)), ..all }).await, [2, 1]);
    assert_eq!(list(TreeFilter { problem: Some(made.problems[0]), ..all }).await, [3, 0]);
    assert_eq!(list(TreeFilter { verdict: Some(Verdict::Incorrect), ..all }).await, [1, 0]);
    assert_eq!(list(TreeFilter { limit: Some(2), ..all }).await, [3, 2]);
    assert_eq!(list(TreeFilter::of(RunId(5))).await, Vec::<usize>::new());
}

#[tokio::test]
async fn a_slot_takes_one_tree() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let tree = || new_tree(made.run, 3, 1, made.problems[0]);
    store.record_tree(tree(), vec![root()], vec![], vec![]).await.unwrap();
    let twice = store.record_tree(tree(), vec![root()], vec![], vec![]).await.unwrap_err();
    assert_eq!(twice.to_string(), "the tree of run `1`, step `3`, slot `1` is already recorded");
    let over = store.record_tree(new_tree(made.run, 1, 9, made.problems[0]), vec![root()], vec![], vec![]).await;
    assert!(matches!(over, Err(StoreError::StepOver { .. })));
}

#[tokio::test]
async fn rows_that_do_not_fit_are_refused_whole() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let good = || bulk_tree(10, 2);
    let count = async || -> i64 {
        sqlx::query_scalar("select count(*) from node").fetch_one(&mut raw(&store).await).await.unwrap()
    };
    let before = count().await;
    let mut cases: Vec<(&str, (Vec<_>, Vec<_>), String)> = Vec::new();
    let mut case = |name, change: &dyn Fn(&mut Vec<_>, &mut Vec<_>), message: &str| {
        let (mut nodes, mut trajectories) = good();
        change(&mut nodes, &mut trajectories);
        cases.push((name, (nodes, trajectories), message.to_owned()));
    };
    case("order", &|n, _| n.swap(1, 2), "the rows of a tree do not fit together: node `2` is row `1`");
    case(
        "depth",
        &|n, _| n[9].depth = 3,
        "the rows of a tree do not fit together: node `0.1.1` at depth `3` is not one below its parent",
    );
    case(
        "length",
        &|n, _| n[3].token_count = 5,
        "the rows of a tree do not fit together: node `0.3` has `2` tokens of `5`",
    );
    case("empty path", &|_, t| t[0].path.clear(), "the rows of a tree do not fit together: trajectory `0` is empty");
    case(
        "broken path",
        &|_, t| t[0].path[0] = NodeId(2),
        "the rows of a tree do not fit together: trajectory `0` goes from node `2` to `9`, which is no child of it",
    );
    case(
        "no tokens",
        &|n, _| n[1].content = None,
        "the rows of a tree do not fit together: node `0.1` is on trajectory `0` but comes without tokens",
    );
    case(
        "verdict of a non-terminal",
        &|n, _| n[2].verdict = Some(Verdict::Correct),
        "the database refused a row by `node_verdict_only_if_terminal`",
    );
    case(
        "root with a version",
        &|n, _| n[0].weight_version = Some(WeightVersion(0)),
        "the database refused a row by `node_weight_version_unless_root`",
    );
    case(
        "unknown version",
        &|n, _| n[2].weight_version = Some(WeightVersion(77)),
        "the database refused a row by `FOREIGN KEY constraint failed`",
    );
    case(
        "two paths, one leaf",
        &|_, t| t.push(t[0].clone()),
        "the database refused a row by `trajectory.tree_id, trajectory.leaf_node_id`",
    );
    case("q is NaN", &|n, _| n[2].q_total = f64::NAN, "the database refused a row by `node.q_total`");
    case(
        "logprobs too short",
        &|n, _| {
            n[2].content.as_mut().unwrap().logprobs = Some(vec![0.0]);
        },
        "the database refused a row by `node_content_logprob_per_token`",
    );
    for (name, (nodes, trajectories), message) in cases {
        let tree = new_tree(made.run, 3, 0, made.problems[0]);
        let error = store.record_tree(tree, nodes, trajectories, vec![]).await.unwrap_err();
        assert_eq!(error.to_string(), message, "{name}");
        assert_eq!(error.class(), FailureClass::Bug, "{name}");
        assert_eq!(count().await, before, "{name}: something was kept");
    }
    let (nodes, trajectories) = good();
    store.record_tree(new_tree(made.run, 3, 0, made.problems[0]), nodes, trajectories, vec![]).await.unwrap();
}

#[tokio::test]
async fn constraints_refuse_bad_rows() {
    let (_folder, store) = fresh().await;
    fixture(&store).await;
    let mut conn = raw(&store).await;
    sqlx::query("pragma foreign_keys = on").execute(&mut conn).await.unwrap();
    for (statement, constraint) in [
        ("update run set status = 'paused'", "run_status_known"),
        ("update run set ended_at_ms = 1", "run_ended_unless_running"),
        ("update run set error = 'x'", "run_error_only_if_failed"),
        ("update run set config_sha256 = 'abc'", "run_config_sha256_is_hex"),
        ("update run set name = x'00ff'", "cannot store BLOB value in TEXT column run.name"),
        ("update problem set content_sha256 = upper(content_sha256)", "problem_content_sha256_is_hex"),
        ("update weight_version set weight_version = -1 where weight_version = 0", "weight_version_not_negative"),
        ("update weight_version set step_id = 1 where weight_version = 0", "weight_version_initial_has_no_step"),
        ("update weight_version set reload_ms = null", "weight_version_reload_if_confirmed"),
        ("update step set status = 'paused'", "step_status_known"),
        ("update step set ended_at_ms = null", "step_ended_unless_running"),
        ("update step set clip_frac = 1.5", "step_clip_frac_in_range"),
        ("update step set update_skip_reason = null", "step_produced_or_skipped"),
        ("update step set search_weight_version = 50", "FOREIGN KEY"),
        (
            "insert into step (run_id, step_id, status, problem_count, search_weight_version, created_at_ms)
             select run_id, 0, 'running', 1, 0, 0 from run",
            "step_counts_from_1",
        ),
        ("update tree set rules = 'mine'", "tree_rules_known"),
        ("update tree set status = 'odd'", "tree_status_known"),
        ("update tree set error = 'x'", "tree_error_iff_failed"),
        ("update tree set is_solved = 2", "tree_is_solved_boolean"),
        ("update tree set weight_version_max = -1", "tree_weight_versions_ordered"),
        ("update tree set problem_id = 99", "FOREIGN KEY"),
        ("update node set parent_node_id = null", "node_root_has_no_parent"),
        ("update node set parent_node_id = node_id where node_id > 0", "node_parent_is_older"),
        ("update node set finish_reason = 'tired' where node_id > 0", "node_finish_reason_known"),
        ("update node set finish_reason = null", "node_finish_reason_unless_root"),
        ("update node set is_terminal = 7", "node_is_terminal_boolean"),
        ("update node set verdict = 'maybe', is_terminal = 1", "node_verdict_known"),
        ("update node set selected_order = 1, selected_kind = 'luck'", "node_selected_kind_known"),
        ("update node set selected_order = 1, selected_kind = null", "node_selected_together"),
        ("update node_content set tokens = x'00'", "node_content_tokens_whole"),
        ("update trajectory set provenance = 'found'", "trajectory_provenance_known"),
        ("update trajectory set verdict = 'maybe'", "trajectory_verdict_known"),
        ("update trajectory_node set node_id = 99", "FOREIGN KEY"),
        ("update solution set tokens = x'', logprobs = x''", "solution_tokens_whole"),
        ("update solution set provenance = 'found'", "solution_provenance_known"),
        ("insert into metric values (1, -1, 'x', 1.0, 0)", "metric_step_not_negative"),
        ("update run set algorithm = 'ppo'", "run_algorithm_known"),
        ("update round set status = 'paused'", "round_status_known"),
        ("update round set round_id = 0", "round_counts_from_1"),
        ("update round set last_step_id = -1", "round_steps_ordered"),
        ("update round set filtered_at_ms = null", "round_filtered_unless_filtering"),
        ("update round set ended_at_ms = 1", "round_ended_iff_done"),
        ("update round set weight_version = 50", "FOREIGN KEY"),
        ("update round_problem set reason = 'odd', is_hard = 0", "round_problem_reason_known"),
        ("update round_problem set is_hard = 1 - is_hard", "round_problem_hard_by_reason"),
        ("update round_problem set is_hard = null", "round_problem_hard_by_reason"),
        ("update round_problem set has_solution = 2", "round_problem_has_solution_boolean"),
        ("update round_problem set sample_count = null", "round_problem_measured_together"),
        ("update round_problem set correct_count = 5", "round_problem_counts_fit"),
        ("update round_problem set ordinal = 0", "round_problem.ordinal"),
        ("update step set round_id = 0", "step_round_counts_from_1"),
        ("update step_slot set kind = 'guess'", "step_slot_kind_known"),
        ("update step_slot set known_solutions = -1", "step_slot_not_negative"),
        ("update tree set kind = 'guess'", "tree_kind_known"),
        ("update trajectory set defect = 'dull'", "trajectory_defect_known"),
        ("update trajectory set solution_id = 99", "FOREIGN KEY"),
        ("update solution set provenance = 'imported'", "solution_imported_has_no_run"),
        ("update solution set weight_version = null", "solution_weight_version_if_run"),
        (
            "update solution set run_id = null, weight_version = null, provenance = 'imported'",
            "solution_tree_only_if_run",
        ),
        ("update evaluation set pass_at_1 = 1.5", "evaluation_pass_at_1_in_range"),
        ("update evaluation set pass_at_k = -1", "evaluation_pass_at_k_in_range"),
        ("update evaluation_problem set problem_id = 99 + problem_id", "FOREIGN KEY"),
        ("delete from problem", "FOREIGN KEY"),
        ("delete from run", "FOREIGN KEY"),
    ] {
        let refused = sqlx::query(statement).execute(&mut conn).await.expect_err(statement).to_string();
        assert!(refused.contains(constraint), "{statement}: {refused}");
    }
}

#[tokio::test]
async fn views_give_the_figures_of_the_fixture() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();

    let solved = reader.solved_per_step(made.run).await.unwrap();
    let figures: Vec<_> = solved.iter().map(|s| (s.step_id.0, s.tree_count, s.solved_count, s.solved_frac)).collect();
    assert_eq!(figures, [(1, 3, 1, 1.0 / 3.0), (2, 1, 1, 1.0)]);

    let steps = reader.steps(made.run).await.unwrap();
    assert_eq!(steps.len(), 3);
    assert_eq!((steps[0].tree_count, steps[0].solved_count), (3, 1));
    assert_eq!((steps[0].exhausted_count, steps[0].failed_count), (1, 1));
    assert_eq!(steps[0].generated_tokens_per_s, Some(100.0));
    assert_eq!(steps[0].produced_weight_version, Some(WeightVersion(1)));
    assert_eq!(steps[1].update_skip_reason.as_deref(), Some("gradient is not finite"));
    assert_eq!(steps[1].loss, None);
    assert_eq!((steps[2].status, steps[2].tree_count, steps[2].solved_frac), (StepStatus::Running, 0, None));

    let best = reader.best_path(made.trees[0]).await.unwrap().unwrap();
    assert_eq!((best.ordinal, best.verdict), (1, Verdict::Correct), "correct before confident");
    assert_eq!(best.response, "1 + 1 is two: \\boxed{2}");
    assert_eq!(best.q_path, [0.5, 1.0]);
    assert_eq!(reader.best_path(made.trees[2]).await.unwrap(), None);

    let mistakes = reader.confident_mistakes(made.run, 10).await.unwrap();
    assert_eq!(mistakes.iter().map(|m| m.entropy_nats).collect::<Vec<_>>(), [0.05, 0.2]);
    assert_eq!((mistakes[0].problem.as_str(), mistakes[0].reference_answer.as_str()), ("What is 2 + 2?", "4"));
    assert_eq!(mistakes[0].response, "\\boxed{5}");
    assert_eq!(reader.confident_mistakes(made.run, 1).await.unwrap().len(), 1);

    let tokens = reader.token_use(made.run).await.unwrap();
    let figures: Vec<_> =
        tokens.iter().map(|t| (t.step_id.map(|s| s.0), t.generated_tokens, t.trajectory_tokens)).collect();
    assert_eq!(figures, [(Some(1), 50, 25), (Some(2), 24, 8), (Some(3), 0, 0), (None, 74, 33)]);
    assert_eq!((tokens[0].search_overhead, tokens[0].sharing_factor), (Some(2.0), Some(1.4)));
    assert_eq!(tokens[2].search_overhead, None);
    assert_eq!((tokens[3].trained_tokens, tokens[3].packed_tokens), (35, 25));

    let weights = reader.weight_history(made.run).await.unwrap();
    assert_eq!(
        weights.iter().map(|w| (w.weight_version.0, w.is_confirmed)).collect::<Vec<_>>(),
        [(0, true), (1, true)]
    );
    assert_eq!((weights[1].step_id, weights[1].canary_max_abs_nats), (Some(StepId(1)), Some(0.03)));
}

#[tokio::test]
async fn the_statements_of_the_manual_run() {
    let (_folder, store) = fresh().await;
    fixture(&store).await;
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sql.md")).unwrap();
    let blocks: Vec<&str> = manual.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 20, "{} statements", blocks.len());
    let mut conn = raw(&store).await;
    // What comes of the others, `sql_questions.rs` sees.
    let is_benchmark = |block: &str| block.contains("benchmark_");
    assert!(blocks.iter().any(|block| is_benchmark(block)));
    for block in blocks {
        let rows = sqlx::query(sqlx::AssertSqlSafe(block)).fetch_all(&mut conn).await.expect(block);
        assert!(!is_benchmark(block) || !rows.is_empty(), "nothing came of {block}");
    }
}

#[tokio::test]
async fn the_systems_own_sqlite_reads_the_database() {
    let (folder, store) = fresh().await;
    fixture(&store).await;
    let path = path_in(&folder);
    // Not every machine has the command line tool; where it is, an old one must do, during a run and after it.
    let ask = || {
        std::process::Command::new("sqlite3")
            .arg("-readonly")
            .arg(&path)
            .arg("select response from best_path order by tree_id limit 1")
            .output()
    };
    let Ok(during) = ask() else { return };
    store.close().await.unwrap();
    for answer in [during, ask().unwrap()] {
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "1 + 1 is two: \\boxed{2}\n", "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let check = async |open: Result<(), StoreError>, message: &str| {
        let error = open.unwrap_err();
        assert_eq!(error.to_string(), message.replace("PATH", &path.display().to_string()));
        assert_eq!(error.class(), FailureClass::User);
        assert!(error.hint().is_some());
    };
    check(Reader::open(&path).await.map(drop), "there is no database `PATH`").await;

    let text = "this is a text file and no database at all. ".repeat(50);
    std::fs::write(&path, &text).unwrap();
    check(Store::open(&path).await.map(drop), "`PATH` is not an SQLite database").await;
    check(Reader::open(&path).await.map(drop), "`PATH` is not an SQLite database").await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    std::fs::remove_file(&path).unwrap();

    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("create table theirs (x)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let before = std::fs::read(&path).unwrap();
    check(Store::open(&path).await.map(drop), "the SQLite database `PATH` belongs to another program").await;
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::remove_file(&path).unwrap();

    let store = Store::open(&path).await.unwrap();
    let versions: Vec<i64> = sqlx::query_scalar("select version from _sqlx_migrations order by version desc limit 2")
        .fetch_all(&mut raw(&store).await)
        .await
        .unwrap();
    let [newest, before] = versions[..] else { panic!("{versions:?}") };
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'later', 1, x'00', 0)",
    )
    .execute(&mut raw(&store).await)
    .await
    .unwrap();
    store.close().await.unwrap();
    check(
        Store::open(&path).await.map(drop),
        &format!("the database `PATH` has schema 9999, this program knows schemas up to {newest}"),
    )
    .await;
    let change = "update _sqlx_migrations set checksum = x'00' where version = 2";
    for statement in ["delete from _sqlx_migrations where version = 9999", change] {
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query(statement).execute(&mut conn).await.unwrap();
    }
    check(Store::open(&path).await.map(drop), "schema 2 of the database `PATH` is not the one of this program").await;

    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("delete from _sqlx_migrations where version = ?").bind(newest).execute(&mut conn).await.unwrap();
    let message = format!("the database `PATH` has schema {before}, this program reads schema {newest}");
    check(Reader::open(&path).await.map(drop), &message).await;

    let nowhere = folder.path().join("none/run.db");
    let error = Store::open(&nowhere).await.err().unwrap();
    assert!(matches!(error, StoreError::NoFolder { .. }), "{error}");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_one_clear_error() {
    // A file system that refuses new files to everybody, root included.
    let path = std::path::Path::new("/proc/run.db");
    let error = Store::open(path).await.err().unwrap();
    assert_eq!(error.to_string(), "the database `/proc/run.db` cannot be written");
    assert_eq!(error.class(), FailureClass::Environment);
}

#[tokio::test]
async fn a_full_disk_is_one_clear_error_and_keeps_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let store = Store::open_with(&path, StoreOptions { max_bytes: Some(600_000) }).await.unwrap();
    let made = fixture(&store).await;
    let record = |slot: u32| {
        let (nodes, trajectories) = bulk_tree(60, 32);
        store.record_tree(new_tree(made.run, 3, slot, made.problems[0]), nodes, trajectories, vec![])
    };
    // Many at once, so that the disk fills up in the middle of a group of writes.
    let results = futures_util::future::join_all((0..60).map(record)).await;
    let kept: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
    assert!(!kept.is_empty() && kept.len() < 60, "{} kept", kept.len());
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.to_string(), format!("no room left for the database `{}`", path.display()));
        assert_eq!(error.class(), FailureClass::Environment);
    }
    // A small write still finds room, and the writer lives.
    store.create_run(new_run()).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).await.unwrap();
    let recorded = store.reader().recorded_trees(made.run, StepId(3)).await.unwrap();
    assert_eq!(recorded.iter().map(|tree| tree.tree_id).collect::<Vec<_>>(), kept);
    for id in kept {
        assert_eq!(store.reader().nodes(id).await.unwrap().len(), 60);
    }
    let (nodes, trajectories) = bulk_tree(60, 32);
    store.record_tree(new_tree(made.run, 3, 999, made.problems[0]), nodes, trajectories, vec![]).await.unwrap();
}

#[tokio::test]
async fn a_closed_store_is_one_file_and_takes_no_more() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let clone = store.clone();
    store.close().await.unwrap();
    store.close().await.unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["run.db"], "the write-ahead log is empty and gone");
    assert!(matches!(clone.create_run(new_run()).await, Err(StoreError::Closed)));
    assert!(matches!(clone.reader().runs().await, Err(StoreError::Closed)));

    let reader = Reader::open(&path_in(&folder)).await.unwrap();
    assert_eq!(reader.trees(TreeFilter::of(made.run)).await.unwrap().len(), 4);
}

#[tokio::test]
async fn writes_that_were_queued_are_committed_by_close() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let writes: Vec<_> = (0..40)
        .map(|slot| {
            let (store, problem) = (store.clone(), made.problems[0]);
            tokio::spawn(async move {
                store.record_tree(new_tree(made.run, 3, slot, problem), vec![root()], vec![], vec![]).await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    let mut acknowledged = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(_) => acknowledged += 1,
            Err(error) => assert!(matches!(error, StoreError::Closed), "{error}"),
        }
    }
    let reader = Reader::open(&path_in(&folder)).await.unwrap();
    assert_eq!(reader.recorded_trees(made.run, StepId(3)).await.unwrap().len(), acknowledged);
}
