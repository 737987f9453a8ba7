//! The plans of the statements that run often or over large tables: each must use an index.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::{
    Store, benchmark, evaluation, metric, problem, problem_page, recorded, round, run, series, solution, step,
    step_slot, tree_page, tree_read, tree_shape, view, view_training, weight,
};

const HOT: &[(&str, &str)] = &[
    ("run", run::RUNS),
    ("problem", problem::PROBLEM),
    ("problem by content", problem::PROBLEM_BY_CONTENT),
    ("weight versions", weight::WEIGHT_VERSIONS),
    ("steps", step::STEPS),
    ("step slots", step_slot::STEP_SLOTS),
    ("rounds", round::ROUNDS),
    ("round problems", round::ROUND_PROBLEMS),
    ("fill has_solution", round::FILL_HAS_SOLUTION),
    ("recorded trees", recorded::RECORDED_TREES),
    ("group nodes", recorded::GROUP_NODES),
    ("mean search tokens", recorded::MEAN_SEARCH_TOKENS),
    ("evaluations", evaluation::EVALUATIONS),
    ("latest benchmark", benchmark::LATEST_BENCHMARK),
    ("benchmark summary", benchmark::BENCHMARK_SUMMARY),
    ("benchmark problems", benchmark::BENCHMARK_PROBLEMS),
    ("benchmark samples", benchmark::BENCHMARK_SAMPLES),
    ("unsettled samples", benchmark::UNSETTLED_SAMPLES),
    ("trees", tree_read::TREES),
    ("tree", tree_read::TREE),
    ("tree ids", tree_read::TREE_IDS),
    ("nodes", tree_read::NODES),
    ("trajectories", tree_read::TRAJECTORIES),
    ("trajectory nodes", tree_read::TRAJECTORY_NODES),
    ("cached solutions", solution::CACHED_SOLUTIONS),
    ("solution counts", solution::SOLUTION_COUNTS),
    ("all solutions", solution::ALL_SOLUTIONS),
    ("metrics", metric::METRICS),
    ("solved per step", view::SOLVED_PER_STEP),
    ("step summary", view::STEP_SUMMARY),
    ("weight history", view::WEIGHT_HISTORY),
    ("best path", view::BEST_PATH),
    ("confident mistakes", view::CONFIDENT_MISTAKES),
    ("mistake total", view::MISTAKE_TOTAL),
    ("token use", view::TOKEN_USE),
    ("round summary", view_training::ROUND_SUMMARY),
    ("bad outputs", view_training::BAD_OUTPUTS),
    ("replay use", view_training::REPLAY_USE),
    ("time split of a run", view_training::TIME_SPLIT),
    ("learning curve", view_training::LEARNING_CURVE),
    ("tree page, newest", tree_page::TREE_PAGE_NEWEST),
    ("tree page, gain", tree_page::TREE_PAGE_GAIN),
    ("tree page, nodes", tree_page::TREE_PAGE_NODES),
    ("tree total", tree_page::TREE_TOTAL),
    ("step trajectories", series::STEP_TRAJECTORIES),
    ("all metrics", series::ALL_METRICS),
    ("last step", series::LAST_STEP),
    ("node columns", tree_shape::NODE_COLUMNS),
    ("node path", tree_shape::NODE_PATH),
    ("kept content", tree_shape::KEPT_CONTENT),
    ("problem page", problem_page::PROBLEM_PAGE),
    ("problem total", problem_page::PROBLEM_TOTAL),
    ("problems named", problem_page::PROBLEMS_NAMED),
    ("problem rounds", problem_page::PROBLEM_ROUNDS),
    ("problem evaluations", problem_page::PROBLEM_EVALUATIONS),
    ("run comparison", view_training::RUN_COMPARISON),
    ("solved per round", "select * from solved_per_round where run_id = ?"),
    ("gain from search", "select * from gain_from_search where run_id = ? order by gain_frac desc limit 10"),
    ("frontier jumps", "select * from frontier_jumps where run_id = ? limit 10"),
    ("frontier jumps of a tree", "select * from frontier_jumps where tree_id = ? order by expansion"),
    ("dead ends", "select * from dead_ends where run_id = ? and step_id = ?"),
    ("dead ends of a tree", "select * from dead_ends where tree_id = ?"),
    ("solution use", "select * from solution_use where run_id = ? order by replay_count desc"),
    ("ratio drift", "select * from ratio_drift where run_id = ?"),
    ("time split", "select * from time_split where run_id = ?"),
    ("weights per step", "select * from weights_per_step where run_id = ?"),
    ("problem history", "select * from problem_history where run_id = ? and problem_id = ?"),
];

/// A walk over all rows of a table that grows with every tree.
fn is_slow(line: &str) -> bool {
    let walked = line.trim().strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
    // By its alias: node, its children, contents, trajectories and their nodes.
    let grows = |name: &str| {
        ["node", "n", "c", "node_content", "trajectory", "j", "trajectory_node", "t", "tree"].contains(&name)
    };
    walked.is_some_and(grows) && !line.contains("USING")
}

async fn plan(conn: &mut SqliteConnection, statement: &str) -> String {
    let explain = sqlx::AssertSqlSafe(format!("explain query plan {statement}"));
    let rows = sqlx::query(explain).fetch_all(conn).await.unwrap();
    let mut depths = std::collections::HashMap::from([(0, 0)]);
    let mut text = String::new();
    for row in rows {
        let (id, parent, detail): (i64, i64, String) = (row.get(0), row.get(1), row.get(3));
        let depth = depths.get(&parent).copied().unwrap_or(0);
        depths.insert(id, depth + 1);
        text.push_str(&format!("{}{detail}\n", "  ".repeat(depth + 1)));
    }
    text
}

#[tokio::test]
async fn hot_statements_keep_their_plans() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("run.db")).await.unwrap();
    let mut conn = store.reader().pool.acquire().await.unwrap();
    let mut text = String::new();
    for (name, statement) in HOT {
        let plan = plan(&mut conn, statement).await;
        assert!(!plan.lines().any(is_slow), "{name} walks over a whole table:\n{plan}");
        text.push_str(&format!("{name}\n{plan}\n"));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/query_plans.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), text);
}
