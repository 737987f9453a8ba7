//! The plans of the statements that run often or over large tables: each must use an index.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::{
    Store, benchmark, evaluation, metric, problem, recorded, round, run, solution, step, step_slot, tree_read, view,
    view_training, weight,
};

const HOT: &[(&str, &str)] = &[
    ("run", run::RUNS),
    ("problem", problem::PROBLEM),
    ("problem by content", problem::PROBLEM_BY_CONTENT),
    ("weight version", weight::WEIGHT_VERSION),
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
    ("token use", view::TOKEN_USE),
    ("round summary", view_training::ROUND_SUMMARY),
    ("bad outputs", view_training::BAD_OUTPUTS),
    ("replay use", view_training::REPLAY_USE),
    ("learning curve", view_training::LEARNING_CURVE),
    ("run comparison", view_training::RUN_COMPARISON),
];

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
        text.push_str(&format!("{name}\n{}\n", plan(&mut conn, statement).await));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/query_plans.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), text);
}
