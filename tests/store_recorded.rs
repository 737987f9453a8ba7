//! What a resume reads must be what was recorded: groups of trajectories, field by field, and a database of an older
//! schema with all its rows.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use orchestrator::store::{
    EvaluatedProblem, NewEvaluation, NewTree, NodeContent, NodeRow, RecordedTree, SolutionFilter, Store, StoreError,
    TrajectoryRow, TreeFilter, TreeStatus,
};
use orchestrator::types::{
    Defect, FinishReason, GroupNode, NodeId, ProblemId, Prompt, Provenance, RunId, SolutionId, StepId, Trajectory,
    TrajectoryGroup, TreeKind, Verdict, WeightVersion,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sqlx::{Connection, SqliteConnection};
use support::*;

/// A tree as it comes from a search or from rollouts: its rows, and the group that is trained on.
#[derive(Clone, Debug)]
struct Grown {
    kind: TreeKind,
    nodes: Vec<NodeRow>,
    trajectories: Vec<TrajectoryRow>,
    group: TrajectoryGroup,
}

/// One number decides each detail; a stream of them, a tree.
struct Draws(Vec<u32>, usize);

impl Draws {
    fn next(&mut self, below: u32) -> u32 {
        self.1 += 1;
        let n = self.0[self.1 % self.0.len()];
        (n.rotate_left(self.1 as u32 % 31) ^ (self.1 as u32).wrapping_mul(0x9e37_79b9)) % below
    }
}

fn grown(draws: Vec<u32>) -> Grown {
    let mut draw = Draws(draws, 0);
    let kind = [TreeKind::Search, TreeKind::Rollout, TreeKind::Replay][draw.next(3) as usize];
    let prompt: Vec<u32> = (0..draw.next(5)).map(|_| draw.next(u32::MAX)).collect();
    let mut first = root();
    first.token_count = prompt.len() as u32;
    first.content = Some(NodeContent { tokens: prompt.clone(), logprobs: None, text: "Was ist π?\0".into() });
    let mut nodes = vec![first];
    for id in 1..=draw.next(30) {
        let parent = if kind == TreeKind::Search { draw.next(id) } else { 0 };
        let parent = nodes[parent as usize].clone();
        let mut row = node(id, &parent, &format!("{}.{id}", parent.tag), draw.next(6), "", u64::from(draw.next(2)));
        row.q_total = f64::from(draw.next(1000)) / 7.0 - 60.0;
        let logprobs = (0..row.token_count).map(|_| match draw.next(9) {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            n => -(n as f32) / 3.0,
        });
        row.content.as_mut().unwrap().logprobs = Some(logprobs.collect());
        nodes.push(row);
    }
    let leaves: Vec<u32> =
        (1..nodes.len() as u32).filter(|id| nodes.iter().all(|n| n.parent_node_id != Some(NodeId(*id)))).collect();
    // Backed up in an order of its own.
    let mut order: Vec<(u32, u32)> = leaves.into_iter().map(|leaf| (draw.next(1000), leaf)).collect();
    order.sort_unstable();
    order.truncate(draw.next(9) as usize);
    let mut trajectories = Vec::new();
    let mut group = TrajectoryGroup {
        problem: ProblemId(1),
        tree: None,
        prompt: Prompt { tokens: prompt.into(), text: "Was ist π?\0".into() },
        nodes: vec![],
        trajectories: vec![],
    };
    let mut positions: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (_, leaf) in order {
        let mut path = vec![NodeId(leaf)];
        while let Some(parent) = nodes[path[0].index()].parent_node_id.filter(|parent| *parent != NodeId::ROOT) {
            path.insert(0, parent);
        }
        let verdict = Verdict::Incorrect;
        let row = judged(nodes[leaf as usize].clone(), verdict, nodes[leaf as usize].q_total);
        nodes[leaf as usize] = NodeRow { finish_reason: Some(FinishReason::Length), ..row };
        let mut indices = Vec::new();
        for id in &path {
            let row = &nodes[id.index()];
            let content = row.content.clone().unwrap();
            let parent = indices.last().copied();
            let index = *positions.entry(*id).or_insert_with(|| {
                group.nodes.push(GroupNode {
                    node: *id,
                    parent,
                    depth: row.depth,
                    tokens: content.tokens,
                    logprobs: content.logprobs.unwrap(),
                    weight_version: row.weight_version.unwrap(),
                    q_total: row.q_total,
                });
                group.nodes.len() - 1
            });
            indices.push(index);
        }
        let logprobs: Vec<f64> =
            indices.iter().flat_map(|&index| &group.nodes[index].logprobs).map(|l| f64::from(*l)).collect();
        let known: Vec<f64> = logprobs.into_iter().filter(|logprob| !logprob.is_nan()).collect();
        let entropy_nats = -known.iter().sum::<f64>() / known.len() as f64;
        let trajectory = Trajectory {
            response_tokens: indices.iter().map(|&index| group.nodes[index].tokens.len()).sum(),
            path: indices,
            verdict,
            reward: [-1.0, -0.5, 0.1][draw.next(3) as usize],
            entropy_nats: if entropy_nats.is_nan() { f64::NAN } else { entropy_nats },
            provenance: [Provenance::Search, Provenance::Rollout, Provenance::Cached][draw.next(3) as usize],
            defect: [None, None, Some(Defect::Repetition), Some(Defect::InvalidUtf8)][draw.next(4) as usize],
        };
        trajectories.push(TrajectoryRow {
            path,
            verdict,
            reward: trajectory.reward,
            entropy_nats: Some(trajectory.entropy_nats).filter(|entropy| entropy.is_finite()),
            response_tokens: trajectory.response_tokens as u32,
            provenance: trajectory.provenance,
            defect: trajectory.defect,
            solution: None,
        });
        group.trajectories.push(trajectory);
    }
    // Tokens beside the trajectories are not always kept.
    for (index, row) in nodes.iter_mut().enumerate().skip(1) {
        if !positions.contains_key(&NodeId(index as u32)) && draw.next(2) == 0 {
            row.content = None;
        }
    }
    Grown { kind, nodes, trajectories, group }
}

/// Every field, floating point numbers by their bits: NaN is unequal to itself.
fn exactly(group: &TrajectoryGroup) -> String {
    let mut text = format!("{:?} {:?} {:?}\n", group.problem, group.tree, group.prompt);
    for node in &group.nodes {
        let logprobs: Vec<u32> = node.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
        let GroupNode { node, parent, depth, tokens, weight_version, q_total, .. } = node;
        let q_total = q_total.to_bits();
        text += &format!("{node} {parent:?} {depth} {tokens:?} {logprobs:?} {weight_version} {q_total:x}\n");
    }
    for trajectory in &group.trajectories {
        let (reward, entropy) = (trajectory.reward.to_bits(), trajectory.entropy_nats.to_bits());
        let Trajectory { path, verdict, response_tokens, provenance, defect, .. } = trajectory;
        text += &format!("{path:?} {verdict:?} {reward:x} {entropy:x} {response_tokens} {provenance:?} {defect:?}\n");
    }
    text
}

#[test]
fn recorded_groups_come_back_to_the_bit() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_folder, store, made) = runtime.block_on(async {
        let (folder, store) = fresh().await;
        let made = fixture(&store).await;
        (folder, store, made)
    });
    let slot = Cell::new(100);
    let seen = [Cell::new(0), Cell::new(0), Cell::new(0)];
    let count = |index: usize, is_so: bool| seen[index].set(seen[index].get() + usize::from(is_so));
    TestRunner::new(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })
        .run(&proptest::collection::vec(any::<u32>(), 40), |draws| {
            let grown = grown(draws);
            slot.set(slot.get() + 1);
            let tree = NewTree { kind: grown.kind, ..new_tree(made.run, 3, slot.get(), made.problems[0]) };
            let (back, id): (RecordedTree, _) = runtime.block_on(async {
                let id = store.record_tree(tree, grown.nodes, grown.trajectories.clone(), vec![]).await.unwrap();
                (store.reader().recorded_trees(made.run, StepId(3)).await.unwrap().pop().unwrap(), id)
            });
            let expected = TrajectoryGroup { tree: Some(id), problem: made.problems[0], ..grown.group };
            prop_assert_eq!(exactly(&back.group), exactly(&expected));
            prop_assert_eq!((back.slot, back.kind, back.tree_id), (slot.get(), grown.kind, id));
            let sampled = grown.trajectories.iter().filter(|row| row.provenance != Provenance::Cached).count();
            prop_assert_eq!(back.terminals as usize, sampled);
            count(0, !expected.trajectories.is_empty());
            count(1, expected.nodes.iter().flat_map(|n| &n.logprobs).any(|l| l.is_nan()));
            count(2, expected.trajectories.iter().any(|t| !t.entropy_nats.is_finite()));
            Ok(())
        })
        .unwrap();
    assert!(seen.iter().all(|count| count.get() >= 10), "groups, NaN logprobs, odd entropies: {seen:?}");
}

#[tokio::test]
async fn recorded_trees_are_counted_and_come_by_slot() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let trees = store.reader().recorded_trees(made.run, StepId(1)).await.unwrap();
    let figures: Vec<_> =
        trees.iter().map(|t| (t.slot, t.terminals, t.correct_terminals, t.generated_tokens)).collect();
    assert_eq!(figures, [(0, 2, 1, 40), (1, 1, 0, 10), (2, 0, 0, 0)]);
    assert_eq!(trees[2].status, TreeStatus::Failed { error: "the prompt is too long".into() });
    assert_eq!((trees[2].group.nodes.len(), trees[2].group.prompt.tokens.len()), (0, 3));
    // The wrong path was backed up first, and shares its first node with the right one.
    let ids: Vec<_> = trees[0].group.nodes.iter().map(|node| (node.node.0, node.parent)).collect();
    assert_eq!(ids, [(1, None), (4, Some(0)), (3, Some(0))]);
    assert_eq!(store.reader().recorded_trees(made.run, StepId(9)).await.unwrap(), []);
}

/// The migrations up to `version`, as an older program had them.
async fn older_database(path: &Path, version: usize) -> SqliteConnection {
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in &files[..version] {
        std::fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", path.display())).await.unwrap();
    sqlx::migrate::Migrator::new(folder.path()).await.unwrap().run(&mut conn).await.unwrap();
    conn
}

#[tokio::test]
async fn a_database_of_schema_4_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let mut conn = older_database(&path, 4).await;
    let hex = "0".repeat(64);
    for statement in [
        format!("insert into run values (1, 'old', '', '{hex}', 'm', '1', '0', null, 'interrupted', null, 0, 1)"),
        format!("insert into problem values (1, 'p', '1 + 1', '2', null, null, 's', '{hex}', 0)"),
        format!("insert into weight_version values (1, 0, null, '{hex}', 'w', 1, 0, null, null, null, null)"),
        "insert into step (run_id, step_id, status, problem_count, search_weight_version, created_at_ms)
         values (1, 1, 'running', 2, 0, 0)"
            .to_owned(),
        "insert into tree values (5, 1, 1, 0, 1, 'paper', 2.0, 'complete', null, '1', 1, 10, 2, 2, 1, 5, 0, 0, 0)".to_owned(),
        "insert into node values (5, 0, null, '0', 0, 1, 0.0, null, 1, null, 0, null, null, null, null, null),
                                 (5, 1, 0, '0.1', 1, 1, 1.0, 0.5, 2, 'stop', 1, 'correct', 0, null, null, null)"
            .to_owned(),
        "insert into node_content values (5, 0, x'01000000', null, 'q'), (5, 1, x'0200000003000000', x'000080bf000080bf', 'a')"
            .to_owned(),
        "insert into trajectory values (5, 0, 1, 'correct', 1.0, 0.5, 2, 'search')".to_owned(),
        "insert into trajectory_node values (5, 0, 1, 1)".to_owned(),
        format!(
            "insert into solution values
             (17, 1, 1, 5, 0, 'search', '2', 'a', x'0200000003000000', x'000080bf000080bf', '{hex}', 3)"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement.clone())).execute(&mut conn).await.expect(&statement);
    }
    conn.close().await.unwrap();

    let store = Store::open(&path).await.unwrap();
    let reader = store.reader();
    let rows = reader.all_solutions(SolutionFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].solution_id, rows[0].run_id, rows[0].created_at_ms), (SolutionId(17), Some(RunId(1)), 3));
    assert_eq!((rows[0].tokens.clone(), rows[0].logprobs.clone()), (vec![2, 3], vec![-1.0, -1.0]));
    assert_eq!(rows[0].weight_version, Some(WeightVersion(0)));

    // What was cut off under the old schema is taken up under the new one.
    assert_eq!(reader.unfinished_steps(RunId(1)).await.unwrap()[0].round_id.0, 1);
    assert_eq!(reader.step_slots(RunId(1), StepId(1)).await.unwrap(), []);
    let tree = reader.recorded_trees(RunId(1), StepId(1)).await.unwrap().remove(0);
    assert_eq!((tree.kind, tree.group.nodes[0].tokens.clone()), (TreeKind::Search, vec![2, 3]));
    assert_eq!(reader.trees(TreeFilter::of(RunId(1))).await.unwrap()[0].kind, TreeKind::Search);
    let replay = TrajectoryRow {
        provenance: Provenance::Cached,
        solution: Some(SolutionId(17)),
        ..trajectory(&[1], Verdict::Correct, 0.5, 2)
    };
    let nodes = vec![root(), judged(node(1, &root(), "0.1", 2, "a", 0), Verdict::Correct, 1.0)];
    let next = NewTree { kind: TreeKind::Replay, ..new_tree(RunId(1), 1, 1, ProblemId(1)) };
    store.record_tree(next, nodes, vec![replay], vec![new_solution(&[2, 3])]).await.unwrap();

    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let broken = sqlx::query("pragma foreign_key_check").fetch_all(&mut conn).await.unwrap();
    assert!(broken.is_empty(), "{} references lead nowhere", broken.len());
    let whole: String = sqlx::query_scalar("pragma integrity_check").fetch_one(&mut conn).await.unwrap();
    assert_eq!(whole, "ok");
    sqlx::query("pragma foreign_keys = on").execute(&mut conn).await.unwrap();
    let kept = sqlx::query("delete from solution where solution_id = 17").execute(&mut conn).await.unwrap_err();
    assert!(kept.to_string().contains("FOREIGN KEY"), "a replayed solution can be deleted: {kept}");
}

/// The columns of every table.
async fn columns(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select name from sqlite_schema where type = 'table' and name not like 'sqlite%' and name not like '\\_sqlx%' escape '\\'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let mut columns = BTreeMap::new();
    for table in tables {
        let names = sqlx::query_scalar("select name from pragma_table_info(?)").bind(&table).fetch_all(&mut conn).await;
        columns.insert(table, names.unwrap());
    }
    conn.close().await.unwrap();
    columns
}

/// What these columns hold, row by row.
async fn all_rows(path: &Path, columns: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let mut rows = BTreeMap::new();
    for (table, columns) in columns {
        let quoted: Vec<String> = columns.iter().map(|column| format!("'{column}=' || quote({column})")).collect();
        let sql = format!("select {} from {table} order by 1", quoted.join(" || ' ' || "));
        rows.insert(table.clone(), sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap());
    }
    conn.close().await.unwrap();
    rows
}

#[tokio::test]
async fn a_database_of_schema_5_learns_the_verdict_undecided_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let mut conn = older_database(&path, 5).await;
    let hex = "0".repeat(64);
    for statement in [
        format!("insert into run values (1, 'old', '', '{hex}', 'm', '1', '0', null, 'interrupted', null, 0, 1, 'grpo')"),
        format!("insert into problem values (1, 'p', '1 + 1', '2', null, null, 's', '{hex}', 0)"),
        format!("insert into weight_version values (1, 0, null, '{hex}', 'w', 1, 0, null, null, null, null)"),
        "insert into step (run_id, step_id, status, problem_count, search_weight_version, created_at_ms)
         values (1, 1, 'running', 1, 0, 0)"
            .to_owned(),
        format!(
            "insert into solution values
             (17, 1, 1, null, 0, 'search', '2', 'a', x'0200000003000000', x'000080bf000080bf', '{hex}', 3)"
        ),
        "insert into tree values (5, 1, 1, 0, 1, 'paper', 2.0, 'complete', null, '1', 1, 10, 4, 2, 1, 5, 0, 0, 0, 'replay')"
            .to_owned(),
        "insert into node values (5, 0, null, '0', 0, 1, 0.0, null, 1, null, 0, null, null, 3, 'uct_root', 0.25),
                                 (5, 1, 0, '0.1', 1, 1, 1.0, 0.5, 2, 'stop', 1, 'correct', 0, null, null, null),
                                 (5, 2, 0, '0.2', 1, 1, -1.0, 0.25, 2, 'length', 1, 'incorrect', 0, null, null, null),
                                 (5, 3, 0, '0.3', 1, 1, 0.0, null, 2, 'stop', 1, 'error', 0, null, null, null)"
            .to_owned(),
        "insert into node_content values (5, 0, x'01000000', null, 'q'), (5, 1, x'0200000003000000', x'000080bf000080bf', 'a'),
                                         (5, 2, x'0400000003000000', x'000080bf000080bf', 'b')"
            .to_owned(),
        "insert into trajectory values (5, 0, 1, 'correct', 1.0, 0.5, 2, 'cached', null, 17),
                                       (5, 1, 2, 'incorrect', -1.0, 0.25, 2, 'rollout', 'garbled', null)"
            .to_owned(),
        "insert into trajectory_node values (5, 0, 1, 1), (5, 1, 1, 2)".to_owned(),
        "insert into evaluation values (1, 0, 0, 1, 4, 3, 1, 0, 10, 5, 0.75, 1.0, 9)".to_owned(),
        "insert into evaluation_problem values (1, 0, 1, 3)".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement.clone())).execute(&mut conn).await.expect(&statement);
    }
    conn.close().await.unwrap();
    // Tables and columns that came later are none of its business.
    let columns = columns(&path).await;
    let before = all_rows(&path, &columns).await;

    let store = Store::open(&path).await.unwrap();
    assert_eq!(all_rows(&path, &columns).await, before);
    let step = store.reader().steps(RunId(1)).await.unwrap().remove(0);
    assert_eq!(step.undecided_count, 1);
    assert_eq!(store.reader().confident_mistakes(RunId(1), 9).await.unwrap().len(), 1);
    assert_eq!(store.reader().learning_curve(RunId(1)).await.unwrap()[0].undecided_count, 0);
    let tree = store.reader().recorded_trees(RunId(1), StepId(1)).await.unwrap().remove(0);
    // The kept solution is not counted, nor is what nothing is known of.
    assert_eq!((tree.terminals, tree.correct_terminals), (1, 0));

    let nodes = vec![root(), judged(node(1, &root(), "0.1", 2, "a", 0), Verdict::Undecided, 0.0)];
    let path_of_it = vec![trajectory(&[1], Verdict::Undecided, 0.5, 2)];
    store.record_tree(new_tree(RunId(1), 1, 1, ProblemId(1)), nodes, path_of_it, vec![]).await.unwrap();
    let undecided = TreeFilter { verdict: Some(Verdict::Undecided), ..TreeFilter::of(RunId(1)) };
    assert_eq!(store.reader().trees(undecided).await.unwrap().len(), 1);
    store.close().await.unwrap();

    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let broken = sqlx::query("pragma foreign_key_check").fetch_all(&mut conn).await.unwrap();
    assert!(broken.is_empty(), "{} references lead nowhere", broken.len());
    let whole: String = sqlx::query_scalar("pragma integrity_check").fetch_one(&mut conn).await.unwrap();
    assert_eq!(whole, "ok");
    // The references still lead to the tables that were made anew.
    sqlx::query("pragma foreign_keys = on").execute(&mut conn).await.unwrap();
    for statement in
        ["delete from node where tree_id = 5 and node_id = 1", "delete from trajectory", "delete from solution"]
    {
        let kept = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        assert!(kept.to_string().contains("FOREIGN KEY"), "`{statement}`: {kept}");
    }
}

#[tokio::test]
async fn a_database_whose_references_are_broken_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let mut conn = older_database(&path, 5).await;
    sqlx::query("pragma foreign_keys = off").execute(&mut conn).await.unwrap();
    sqlx::query("insert into trajectory_node values (5, 0, 1, 1)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let columns = columns(&path).await;
    for attempt in 1..=2 {
        let error = Store::open(&path).await.err().expect("references lead nowhere");
        assert!(matches!(error, StoreError::BrokenReferences { count: 1.., .. }), "attempt {attempt}: {error}");
    }
    assert_eq!(self::columns(&path).await, columns);
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let schema: i64 =
        sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(&mut conn).await.unwrap();
    assert_eq!(schema, 5);
}

#[tokio::test]
async fn what_nothing_is_known_of_is_in_no_share_of_a_measurement() {
    let (_folder, store) = fresh().await;
    let Fixture { run, problems, .. } = fixture(&store).await;
    let of = |place: usize, correct, undecided| EvaluatedProblem {
        problem: problems[place],
        correct,
        no_answer: 0,
        undecided,
    };
    let evaluation = NewEvaluation {
        samples: 4,
        weight_version: WeightVersion(0),
        problems: vec![of(0, 1, 2), of(1, 0, 0), of(2, 0, 4)],
        ..new_evaluation(run, 7, &[])
    };
    store.record_evaluation(evaluation).await.unwrap();
    let row = store.reader().evaluations(run).await.unwrap().pop().unwrap();
    assert_eq!((row.pass_at_1, row.pass_at_k), (Some(0.25), Some(0.5)));
    assert_eq!((row.problem_count, row.undecided_count), (3, 6));
}
