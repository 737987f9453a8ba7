//! `orchestrator db`: what a sound database is, that each broken rule is found, and what pruning leaves to a resume.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use orchestrator::run::FolderLock;
use scene::{Engine, Scene, content, content_of, orchestrator, succeed};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};

/// Two rounds with a filter, replays of kept solutions, measurements and checkpoints.
fn new_scene(steps: u32, more: &[&str]) -> Scene {
    let mut sets = vec![
        "run.problems_per_step=8",
        "run.checkpoint_every=2",
        "curriculum.filter=true",
        "curriculum.filter_samples=2",
        // A random model solves nothing: all of it is hard.
        "curriculum.max_pass_rate=1.0",
        "replay.enabled=true",
        "replay.max_pass_rate=1.0",
        "eval.every=2",
        "eval.samples=2",
    ];
    sets.extend(more);
    let scene = Scene::new(Engine::Embedded, steps, &sets);
    scene.make_problems("held_out.jsonl", 4, 6);
    scene
}

/// A run in the folder `name`, to its end.
fn run(scene: &Scene, name: &str, more: &[&str]) {
    scene.import_solutions(name, 5);
    let eval = format!("eval.problems={}", scene.path("held_out.jsonl").display());
    let sets: Vec<&str> = [eval.as_str()].into_iter().chain(more.iter().copied()).collect();
    succeed(&scene.run(name, &sets));
}

fn db(args: &[&str], path: &Path) -> Output {
    orchestrator().arg("db").arg(args[0]).arg(path).args(&args[1..]).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Names of the rules that do not hold, and of all.
fn checked(path: &Path, deep: bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let output = db(if deep { &["check", "--json", "--deep"] } else { &["check", "--json"] }, path);
    let said = json(&output);
    let findings = said["findings"].as_array().unwrap();
    let name = |finding: &Value| finding["rule"].as_str().unwrap().to_owned();
    let broken: BTreeSet<String> = findings.iter().filter(|finding| finding["count"] != 0).map(name).collect();
    for finding in findings {
        assert_eq!(finding["count"] != 0, finding["example"].is_string(), "{finding}");
    }
    assert_eq!(said["is_sound"], broken.is_empty());
    assert_eq!(output.status.code(), Some(i32::from(!broken.is_empty())), "{output:?}");
    (broken, findings.iter().map(name).collect())
}

/// A copy of a closed database, in a folder of its own.
fn copy(database: &Path, folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name).join("orchestrator.sqlite");
    std::fs::create_dir(copy.parent().unwrap()).unwrap();
    std::fs::copy(database, &copy).unwrap();
    copy
}

async fn edit(database: &Path, statements: &str) {
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", database.display())).await.unwrap();
    let free = "pragma foreign_keys = off; pragma ignore_check_constraints = on; pragma legacy_alter_table = on;";
    let text = sqlx::AssertSqlSafe(format!("{free} {statements}"));
    sqlx::raw_sql(text).execute(&mut conn).await.expect(statements);
    conn.close().await.unwrap();
}

/// What breaks each rule. Some break others with it.
const DAMAGES: &[(&str, &str)] = &[
    (
        "integrity",
        "pragma writable_schema = on;
         update sqlite_schema set rootpage = (select rootpage from sqlite_schema where name = 'problem_by_name')
         where name = 'solution_by_problem'",
    ),
    ("references", "delete from problem where problem_id = (select min(problem_id) from tree)"),
    ("run_over", "update step set status = 'running' where step_id = 2"),
    ("steps_in_order", "update step set step_id = 99 where step_id = 4"),
    ("step_in_round", "update step set round_id = 2 where step_id = 1"),
    ("plan_whole", "update step set problem_count = problem_count + 1 where step_id = 1"),
    ("tree_in_slot", "update step_slot set kind = 'rollout' where step_id = 1 and slot = 0"),
    (
        "tree_once",
        "create table other as select * from tree; drop table tree; alter table other rename to tree;
         insert into tree select * from tree where step_id = 1 and slot = 0;
         update tree set tree_id = tree_id + 1000 where rowid = (select max(rowid) from tree);
         create unique index tree_key on tree (tree_id)",
    ),
    ("slots_grown", "delete from tree where step_id = 1 and slot = 0"),
    ("tokens_add_up", "update tree set generated_tokens = generated_tokens + 1 where step_id = 1 and slot = 0"),
    (
        "nodes_counted",
        "delete from node where tree_id = 1 and node_id = (select max(node_id) from node where tree_id = 1)",
    ),
    ("depth_by_one", "update node set depth = depth + 1 where tree_id = 1 and node_id = 1"),
    (
        "terminal_is_leaf",
        "update node set is_terminal = 1, verdict = 'incorrect'
         where (tree_id, node_id) in (select tree_id, parent_node_id from node where parent_node_id > 0 limit 1)",
    ),
    (
        "backed_up_once",
        "create table other as select * from trajectory; drop table trajectory;
         alter table other rename to trajectory;
         insert into trajectory select tree_id, 99, leaf_node_id, verdict, reward, entropy_nats, response_tokens,
             provenance, defect, solution_id from trajectory where tree_id = 1 and ordinal = 0;
         create unique index trajectory_key on trajectory (tree_id, ordinal)",
    ),
    ("trajectories_numbered", "update trajectory set ordinal = 50 where tree_id = 1 and ordinal = 0"),
    ("paths_connected", "update trajectory_node set node_id = 0 where tree_id = 1 and ordinal = 0 and depth = 1"),
    ("trained_settled", "update trajectory set verdict = 'undecided' where tree_id = 1 and ordinal = 0"),
    ("reward_by_verdict", "update trajectory set verdict = 'incorrect', reward = 1 where tree_id = 1 and ordinal = 0"),
    ("visits_add_up", "update node set visits = visits + 1 where tree_id = 1 and node_id = 0"),
    ("solved_by_node", "update tree set is_solved = 1 - is_solved where tree_id = 1"),
    ("content_fits", "update node set token_count = token_count + 1 where tree_id = 1 and node_id = 0"),
    (
        "trained_content_kept",
        "update node_content set logprobs = null where (tree_id, node_id) in (select tree_id, node_id from trajectory_node limit 1)",
    ),
    ("weights_in_order", "update weight_version set step_id = 1 where weight_version > 1"),
    ("weights_known", "update node set weight_version = 77 where tree_id = 1 and node_id = 1"),
    (
        "weights_confirmed",
        "update weight_version set confirmed_at_ms = null, reload_ms = null where weight_version = 0",
    ),
    ("metrics_once", "delete from metric where name = 'wall_s' and step_id = 1"),
    ("solutions_correct", "update solution set answer = ''"),
    ("replays_known", "update trajectory set provenance = 'rollout' where solution_id is not null"),
    ("evaluations_add_up", "update evaluation set correct_count = correct_count + 1 where step_id = 0"),
    ("round_decided", "update round set candidate_count = candidate_count + 1 where round_id = 1"),
    ("checksums", "update problem set answer = 'another' where problem_id = 1"),
    ("weights_kept", "update weight_version set path = '/nowhere/v000077'"),
    ("weights_whole", "update weight_version set size_bytes = size_bytes + 1"),
    ("solutions_verified", "update solution set text = 'It is \\boxed{-987654}'"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_sound_and_every_broken_rule_is_found() {
    let scene = new_scene(4, &["curriculum.rounds=2"]);
    run(&scene, "run", &[]);
    let database = scene.database("run");
    let before = std::fs::read(&database).unwrap();
    let (broken, rules) = checked(&scene.path("run"), true);
    assert_eq!(broken, BTreeSet::new());
    let damaged: BTreeSet<String> = DAMAGES.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    assert_eq!(rules, damaged, "each rule has its damage");
    for what in ["weight_version where weight_version > 1", "trajectory where solution_id is not null", "evaluation"] {
        let count =
            content_of(&database, Box::leak(format!("select cast(count(*) as real) from {what}").into_boxed_str()));
        assert!(count.await > 0.0, "the run has no {what}");
    }
    for (rule, statements) in DAMAGES {
        let copied = copy(&database, &scene.path(""), rule);
        edit(&copied, statements).await;
        let (broken, _) = checked(&copied, *rule == "solutions_verified");
        assert!(broken.contains(*rule), "`{rule}` is not found by {statements}: {broken:?}");
        let shown = db(&["check"], copied.parent().unwrap());
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(*rule == "solutions_verified" || shown.contains(&format!("\n{rule}: ")), "{shown}");
    }
    // Killed after a resume has recorded the newest weights anew and before a server confirmed them, while the step that was
    // cut off had already made the next ones.
    let copied = copy(&database, &scene.path(""), "recorded-anew");
    edit(
        &copied,
        "update run set status = 'running', ended_at_ms = null;
         update round set status = 'training', ended_at_ms = null, last_step_id = 5 where round_id = 2;
         insert into step (run_id, step_id, status, problem_count, search_weight_version, created_at_ms, round_id)
         select run_id, 5, 'running', 0, max(weight_version), 0, 2 from weight_version;
         update tree set weight_version_max = (select max(weight_version) from weight_version) where tree_id = 1;
         update weight_version set confirmed_at_ms = null, reload_ms = null
         where weight_version = (select max(weight_version) from weight_version);
         insert into weight_version (run_id, weight_version, step_id, digest, path, size_bytes, created_at_ms)
         select run_id, weight_version + 1, 5, digest, path, size_bytes, 0 from weight_version
         where weight_version = (select max(weight_version) from weight_version)",
    )
    .await;
    assert_eq!(checked(&copied, false).0, BTreeSet::new());
    assert!(before == std::fs::read(&database).unwrap(), "a check changed the database");
    // Of weights that rot on disk.
    let newest = std::fs::read_dir(scene.path("run/run-1/weights")).unwrap().map(|entry| entry.unwrap().path()).max();
    let weights = newest.unwrap().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    assert_eq!(checked(&scene.path("run"), false).0, BTreeSet::new(), "not read to the last byte");
    assert_eq!(checked(&scene.path("run"), true).0, BTreeSet::from(["weights_whole".to_owned()]));
    std::fs::write(&weights, &bytes[..middle]).unwrap();
    assert_eq!(checked(&scene.path("run"), false).0, BTreeSet::from(["weights_whole".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pruned_is_no_loss_to_a_resume() {
    let scene = new_scene(5, &["run.checkpoints_kept=1"]);
    run(&scene, "run", &["run.keep_text=all"]);
    let (folder, database) = (scene.path("run"), scene.database("run"));
    let contents = "select cast(count(*) as real) from node_content";
    let nodes = content_of(&database, "select cast(count(*) as real) from node").await;
    assert_eq!(content_of(&database, contents).await, nodes, "every node keeps its text");
    let whole = content(&database).await;

    // Of the steps up to the newest checkpoint, 4, everything may go; step 5 is what a resume repeats.
    let prune = ["prune", "--keep", "none", "--json"];
    let promised = json(&db(&["prune", "--keep", "none", "--json", "--dry-run"], &folder));
    assert_eq!(content(&database).await, whole, "a dry run changed something");
    let early = json(&db(&["prune", "--keep", "none", "--json", "--dry-run", "--steps-before", "3"], &folder));
    assert!(early["bytes"].as_u64().unwrap() < promised["bytes"].as_u64().unwrap(), "{early} {promised}");
    let output = db(&prune, &folder);
    succeed(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the oldest checkpoint is of step 4"), "{output:?}");
    let pruned = json(&output);
    assert_eq!((&pruned["node_count"], &pruned["bytes"]), (&promised["node_count"], &promised["bytes"]));
    assert!(pruned["bytes"].as_u64().unwrap() > 10_000, "{pruned}");
    assert_eq!(json(&db(&prune, &folder))["node_count"], 0, "nothing is left to drop");
    let left = "select cast(count(*) as real) from node_content c join tree t on t.tree_id = c.tree_id
                where c.node_id > 0 and t.step_id <= 4";
    assert_eq!(content_of(&database, left).await, 0.0);
    let mut after = content(&database).await;
    for table in ["node_content", "retention"] {
        assert_ne!(after.remove(table), whole.get(table).cloned(), "{table}");
    }
    assert!(after.iter().all(|(table, rows)| rows == &whole[table]), "more than text was dropped");
    assert_eq!(checked(&folder, true).0, BTreeSet::new());

    let before = database.metadata().unwrap().len();
    let vacuumed = json(&db(&["vacuum", "--json"], &folder));
    assert!(vacuumed["after_bytes"].as_u64().unwrap() < vacuumed["before_bytes"].as_u64().unwrap(), "{vacuumed}");
    assert_eq!((vacuumed["before_bytes"].as_u64(), database.metadata().unwrap().len() < before), (Some(before), true));
    assert_eq!(checked(&folder, true).0, BTreeSet::new());

    // The run goes on for two steps, as one does that was never pruned.
    run(&scene, "unbroken", &["run.steps=7"]);
    let mut more = scene.resume_args("run");
    more.extend(["--set".to_owned(), "run.steps=7".to_owned()]);
    succeed(&scene.output(&more));
    assert!(scene.weights("run") == scene.weights("unbroken"), "the weights differ");
    assert_eq!(checked(&folder, true).0, BTreeSet::new());
    let lost = db(&["prune", "--run", "7"], &folder);
    assert_eq!(lost.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&lost.stderr).contains("has no run `7`"), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_drops_by_itself_what_it_is_told_not_to_keep() {
    let scene = new_scene(5, &["run.checkpoints_kept=1"]);
    run(&scene, "usual", &[]);
    run(&scene, "lean", &["run.keep_text=none"]);
    run(&scene, "bare", &["run.keep_logprobs=false"]);
    assert!(scene.weights("usual") == scene.weights("lean"), "the weights differ");
    let kept = "select cast(count(*) as real) from node_content c join tree t on t.tree_id = c.tree_id
                where c.node_id > 0 and t.step_id <= 4";
    let logprobs = "select cast(count(*) as real) from node_content c join tree t on t.tree_id = c.tree_id
                    where c.logprobs is not null and t.step_id <= 4";
    let last = "select cast(count(*) as real) from node_content c join tree t on t.tree_id = c.tree_id
                where c.node_id > 0 and t.step_id = 5 and c.logprobs is not null";
    assert!(content_of(&scene.database("usual"), kept).await > 0.0);
    assert_eq!(content_of(&scene.database("lean"), kept).await, 0.0);
    assert_eq!(
        content_of(&scene.database("bare"), kept).await,
        content_of(&scene.database("usual"), kept).await,
        "tokens and text stay"
    );
    assert_eq!(content_of(&scene.database("bare"), logprobs).await, 0.0);
    for name in ["usual", "lean", "bare"] {
        assert!(content_of(&scene.database(name), last).await > 0.0, "{name}: a resume needs the last step");
        assert_eq!(checked(&scene.path(name), true).0, BTreeSet::new(), "{name}");
    }
    let by_hand = json(&db(&["prune", "--json", "--dry-run"], &scene.path("lean")));
    assert_eq!(by_hand["bytes"], 0, "as the run was told, nothing is left to drop");
}

#[test]
fn a_folder_in_use_is_left_alone_but_can_be_checked() {
    let scene = Scene::new(Engine::Embedded, 1, &["run.problems_per_step=2", "train.minibatch_problems=1"]);
    succeed(&scene.run("run", &[]));
    let folder = scene.path("run");
    let lock = FolderLock::acquire(&folder).unwrap();
    for command in ["prune", "vacuum"] {
        let output = db(&[command], &folder);
        assert_ne!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stderr).contains("is in use by another process"), "{output:?}");
    }
    assert_eq!(checked(&folder, false).0, BTreeSet::new());
    succeed(&db(&["prune", "--dry-run"], &folder));
    drop(lock);
    succeed(&db(&["vacuum"], &folder));
    // A database that is not there is none to make.
    let nowhere = scene.path("nowhere");
    for command in ["check", "prune", "vacuum"] {
        assert_eq!(db(&[command], &nowhere).status.code(), Some(2), "{command}");
        assert!(!nowhere.exists());
    }
}

#[test]
fn a_run_folder_is_for_its_owner_only() {
    let scene = Scene::new(Engine::Embedded, 1, &["run.problems_per_step=2", "train.minibatch_problems=1"]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    scene.import_solutions("run", 1);
    assert_eq!((mode(&scene.path("run")), mode(&scene.database("run"))), (0o700, 0o600));
    succeed(&scene.run("other", &[]));
    assert_eq!((mode(&scene.path("other")), mode(&scene.database("other"))), (0o700, 0o600));
    // A folder that a user has opened to others stays open.
    let open = scene.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    scene.import_solutions("open", 1);
    assert_eq!(mode(&open), 0o755);
}
