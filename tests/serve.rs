//! The pages of runs: a real server on the fixture run, and the same as one file.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/http.rs"]
#[allow(dead_code)]
mod http;
#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::*;
use orchestrator::error::{FailureClass, Hint};
use orchestrator::serve::{Options, Server, page_file};
use orchestrator::store::{NodeContent, RunEnd, Store, TreeFilter, TreeOrder, TreePageFilter};
use orchestrator::types::{StepId, Verdict};
use serde_json::Value;
use support::*;
use tokio::net::TcpStream;

const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u{202e} \" ' & `";

#[tokio::test]
async fn every_address_answers() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let server = start(folder.path()).await;
    let at = server.address;

    let page = get(at, "/").await;
    assert_eq!((page.status, page.header("content-type").as_deref()), (200, Some("text/html; charset=utf-8")));
    let assets: Vec<&str> = page.body.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 9);
    for asset in assets {
        assert_eq!(get(at, asset).await.status, 200, "{asset}");
    }

    let runs = get(at, "/api/runs").await.json();
    let run = &runs["runs"][0];
    let key = run["key"].as_str().unwrap().to_owned();
    assert_eq!(
        (&run["name"], &run["status"], &run["last_step"]["step_id"]),
        (&"fixture".into(), &"running".into(), &2.into())
    );
    assert_eq!((&run["spent"]["steps_done"], &run["planned_steps"]), (&2.into(), &Value::Null));
    assert!(run.get("config_toml").is_none() && runs["refused"].as_array().unwrap().is_empty());

    let detail = get(at, &format!("/api/runs/{key}")).await.json();
    assert_eq!(detail["steps"].as_array().unwrap().len(), 3);
    assert_eq!((&detail["rounds"][0]["hard_count"], &detail["weights"][1]["is_confirmed"]), (&3.into(), &true.into()));
    assert_eq!(detail["config_toml"], "[run]\nname = \"fixture\"\n");
    assert_eq!(detail["tokens"]["generated_tokens"], 74);

    let curves = get(at, &format!("/api/runs/{key}/curves")).await.json();
    let steps = &curves["steps"];
    assert_eq!(steps["step"], serde_json::json!([1, 2]));
    // 400 tokens of the filter, then 50 and 24; 1.25 s are measured, the second step has no times.
    assert_eq!(steps["generated_tokens"], serde_json::json!([450, 474]));
    assert_eq!(steps["seconds"], serde_json::json!([1.25, 1.25]));
    assert_eq!(steps["series"]["mean_reward"], serde_json::json!([-1.0 / 3.0, null]));
    assert_eq!(steps["series"]["advantage_mean"], serde_json::json!([0.25, null]));
    assert_eq!(steps["series"]["response_tokens_mean"], serde_json::json!([35.0 / 3.0, 8.0]));
    assert_eq!(curves["held_out"]["step"], serde_json::json!([0, 1]));
    assert_eq!(curves["rounds"]["series"]["round_hard_count"], serde_json::json!([3]));

    let trees = get(at, &format!("/api/runs/{key}/trees")).await.json();
    let ids = |answer: &Value| -> Vec<i64> {
        answer["trees"].as_array().unwrap().iter().map(|tree| tree["tree_id"].as_i64().unwrap()).collect()
    };
    let [solved, wrong, failed, replayed] = [0, 1, 2, 3].map(|at| made.trees[at].0);
    assert_eq!(ids(&trees), [replayed, failed, wrong, solved]);
    for (query, expected) in [
        ("step=1", vec![failed, wrong, solved]),
        ("solved=true", vec![replayed, solved]),
        ("solved=false&verdict=incorrect", vec![wrong]),
        ("verdict=correct", vec![replayed, solved]),
        ("kind=replay", vec![replayed]),
        ("limit=2&offset=1", vec![failed, wrong]),
        // Half of its answers are correct, and none of the direct rollouts was; of the second problem it is none, and a
        // quarter. A replay and a search without answers have no gain, and the larger is first.
        ("order=gain", vec![solved, wrong, replayed, failed]),
        ("order=nodes&limit=1", vec![solved]),
    ] {
        let answer = get(at, &format!("/api/runs/{key}/trees?{query}")).await.json();
        assert_eq!(ids(&answer), expected, "{query}");
    }
    let by_problem = get(at, &format!("/api/runs/{key}/trees?problem={}", made.problems[0])).await.json();
    assert_eq!((ids(&by_problem), &by_problem["total"]), (vec![replayed, solved], &2.into()));

    let tree = get(at, &format!("/api/runs/{key}/trees/{solved}")).await.json();
    assert_eq!(tree["nodes"]["parent"], serde_json::json!([null, 0, 0, 1, 1]));
    assert_eq!(tree["nodes"]["verdict"], serde_json::json!([null, null, null, "correct", "incorrect"]));
    assert_eq!(tree["nodes"]["is_kept"], serde_json::json!([true, true, false, true, true]));
    assert_eq!(tree["nodes"]["selected_kind"][1], "uct_child");
    assert_eq!(tree["trajectories"][1]["path"], serde_json::json!([1, 3]));
    assert_eq!((&tree["problem"]["name"], &tree["siblings"][0]["tree_id"]), (&"add-1".into(), &replayed.into()));

    let node = get(at, &format!("/api/runs/{key}/trees/{solved}/nodes/3")).await.json();
    let path = node["path"].as_array().unwrap();
    assert_eq!(path.iter().map(|part| part["node_id"].as_i64().unwrap()).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!((&path[0]["text"], &path[0]["logprobs"]), (&"What is 1 + 1?".into(), &Value::Null));
    assert_eq!(path[2]["logprobs"].as_array().unwrap().len(), 6);
    // There is no tokenizer of `models/tiny`.
    assert_eq!(path[2]["pieces"], Value::Null);
    let unkept = get(at, &format!("/api/runs/{key}/trees/{solved}/nodes/2")).await.json();
    assert_eq!(unkept["path"][1]["text"], Value::Null);

    let problems = get(at, &format!("/api/runs/{key}/problems?text=ADD-1")).await.json();
    assert_eq!((&problems["total"], &problems["problems"][0]["tree_count"]), (&1.into(), &2.into()));
    assert_eq!(problems["problems"][0]["direct_pass_rate"], 0.0);
    let by_search = get(at, &format!("/api/runs/{key}/problems?solved=only_by_search")).await.json();
    assert_eq!((&by_search["total"], &by_search["problems"][0]["name"]), (&1.into(), &"add-1".into()));
    let counts = ["rollout_count", "rollout_correct_count", "search_solved_count"];
    assert_eq!(counts.map(|name| by_search["problems"][0][name].as_u64()), [Some(4), Some(0), Some(1)]);
    let problem = get(at, &format!("/api/runs/{key}/problems/{}", made.problems[0])).await.json();
    assert_eq!((&problem["rounds"][0]["reason"], &problem["solution_total"]), (&"hard".into(), &1.into()));
    assert_eq!(problem["solutions"][0]["text"], "1 + 1 is two: \\boxed{2}");
    let held_out = get(at, &format!("/api/runs/{key}/problems/{}", made.problems[3])).await.json();
    assert_eq!(held_out["evaluations"][1], serde_json::json!({"step_id": 1, "sample_count": 4, "correct_count": 3}));

    // The surest first, and the rest from where it was cut.
    let mistakes = get(at, &format!("/api/runs/{key}/mistakes")).await.json();
    let all = mistakes["mistakes"].as_array().unwrap();
    assert_eq!((&mistakes["total"], all.len()), (&2.into(), 2));
    for (offset, expected) in all.iter().enumerate() {
        let one = get(at, &format!("/api/runs/{key}/mistakes?limit=1&offset={offset}")).await.json();
        assert_eq!((&one["total"], &one["mistakes"][0]), (&2.into(), expected));
    }
    let none = get(at, &format!("/api/runs/{key}/mistakes?offset=2")).await.json();
    assert_eq!(none["mistakes"], serde_json::json!([]));

    let metrics = get(at, "/metrics").await;
    assert_eq!(metrics.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let label = folder.path().display();
    let line = |name: &str| format!("\norchestrator_{name}{{database=\"{label}\",run=\"1\",name=\"fixture\"}} ");
    assert!(metrics.body.contains(&(line("run_generated_tokens") + "474\n")), "{}", metrics.body);
    assert!(metrics.body.contains(&(line("held_out_pass_at_1") + "0.375\n")), "{}", metrics.body);
    for name in metrics.body.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('{').next().unwrap()) {
        assert!(metrics.body.contains(&format!("# TYPE {name} gauge\n")), "{name}");
    }

    for path in [
        "/nothing",
        "/api/nothing",
        "/api/runs/0-99",
        "/api/runs/9-1",
        "/api/runs/x",
        "/api/runs/0-99/curves",
        &format!("/api/runs/{key}/trees/999"),
        &format!("/api/runs/{key}/trees/{solved}/nodes/99"),
        &format!("/api/runs/{key}/problems/999"),
        "/assets/nothing.js",
    ] {
        let answer = get(at, path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].is_string());
    }
    for path in [
        format!("/api/runs/{key}/trees?step=x"),
        format!("/api/runs/{key}/trees?verdict=evil"),
        format!("/api/runs/{key}/trees/one"),
        format!("/api/runs/{key}/mistakes?limit=-1"),
    ] {
        assert_eq!(get(at, &path).await.status, 400, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn nobody_else_is_answered_and_nothing_is_written() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    store.close().await.unwrap();
    let before = std::fs::read(path_in(&folder)).unwrap();
    let server = start(&path_in(&folder)).await;
    let at = server.address;

    for host in [
        "Host: evil.example",
        "Host: evil.example:80",
        "Host: 127.0.0.1.evil.example",
        "Host:",
        "host: localhost\r\nHost: evil.example",
    ] {
        for path in ["/", "/api/runs", "/metrics"] {
            let status = request(at, "GET", path, &[host]).await.status;
            assert!(matches!(status, 400 | 421), "{host} {path}: {status}");
        }
    }
    for host in ["Host: localhost", "Host: LOCALHOST:9", "Host: gpu7:80", "Host: [::1]:1", "Host: 192.168.0.9"] {
        assert_eq!(request(at, "GET", "/api/runs", &[host]).await.status, 200, "{host}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/", "/api/runs", "/api/runs/0-1/trees/1", "/metrics"] {
            assert_eq!(request(at, method, path, &["Content-Length: 0"]).await.status, 405, "{method} {path}");
        }
    }
    for path in [
        "/assets/../Cargo.toml",
        "/assets/..%2f..%2fCargo.toml",
        "/assets//etc/passwd",
        "/../run.db",
        "/assets/%2e%2e/x",
        "/run.db",
        "/assets/core.js%00",
        "//etc/passwd",
        "/api/runs/0-1/trees/1/nodes/../../../..",
    ] {
        let answer = get(at, path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.body.contains("root:") && !answer.body.contains("SQLite"), "{path}");
    }
    let page = get(at, "/").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.header("x-content-type-options").as_deref(), Some("nosniff"));
    assert!(!page.body.contains(" style=") && !page.body.contains("http://") && !page.body.contains("https://"));
    assert!(!page.body.contains("<script>"));

    for path in [format!("/api/runs/0-{}/trees", made.run), format!("/api/runs/0-{}/curves", made.run)] {
        assert_eq!(get(at, &path).await.status, 200);
    }
    server.stop().await;
    assert!(std::fs::read(path_in(&folder)).unwrap() == before, "the database was changed");
}

#[tokio::test]
async fn what_is_new_is_seen_and_what_is_not_costs_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let at = server.address;
    // Nothing is there yet; then a run begins.
    assert_eq!(get(at, "/api/runs").await.json()["runs"], serde_json::json!([]));
    std::fs::create_dir(folder.path().join("first")).unwrap();
    let store = Store::open(&folder.path().join("first").join("run.db")).await.unwrap();
    let made = fixture(&store).await;
    let runs = get(at, "/api/runs").await;
    let key = runs.json()["runs"][0]["key"].as_str().unwrap().to_owned();
    assert_eq!(runs.json()["runs"][0]["label"], "first");

    let path = format!("/api/runs/{key}/trees");
    let first = settled(at, &path).await;
    let tag = format!("If-None-Match: {}", first.header("etag").unwrap());
    let same = request(at, "GET", &path, &[&tag]).await;
    assert_eq!((same.status, same.body.as_str()), (304, ""));

    let (nodes, trajectories) = bulk_tree(20, 3);
    let tree =
        store.record_tree(new_tree(made.run, 3, 0, made.problems[0]), nodes, trajectories, vec![]).await.unwrap();
    let changed = request(at, "GET", &path, &[&tag]).await;
    // Within the tick of a file system's clock answers are named by their content, and known ones are not sent either.
    let tag_of_now = format!("If-None-Match: {}", changed.header("etag").unwrap());
    assert_eq!(request(at, "GET", &path, &[&tag_of_now]).await.status, 304);
    assert_eq!((changed.status, &changed.json()["trees"][0]["tree_id"]), (200, &tree.0.into()));

    // A run that is killed leaves its writer's connection behind; the next one goes on with the same file.
    let tag = format!("If-None-Match: {}", changed.header("etag").unwrap());
    store.finish_run(made.run, RunEnd::Interrupted).await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(&folder.path().join("first").join("run.db")).await.unwrap();
    store.resume_run(made.run, None).await.unwrap();
    let (nodes, trajectories) = bulk_tree(20, 3);
    store.record_tree(new_tree(made.run, 3, 1, made.problems[1]), nodes, trajectories, vec![]).await.unwrap();
    let resumed = request(at, "GET", &path, &[&tag]).await;
    assert_eq!((resumed.status, &resumed.json()["total"]), (200, &6.into()));

    // A broken database beside it is named and hides nothing.
    std::fs::create_dir(folder.path().join("broken")).unwrap();
    std::fs::write(folder.path().join("broken").join("run.db"), "no database at all, but long enough to be looked at")
        .unwrap();
    let runs = get(at, "/api/runs").await.json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1);
    assert!(runs["refused"][0]["path"].as_str().unwrap().contains("broken"), "{runs}");
    server.stop().await;
}

/// The page's gain is that of the view, for every tree.
#[tokio::test]
async fn there_is_one_gain() {
    use sqlx::{Connection, Row};
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let mut conn = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path_in(&folder).display())).await.unwrap();
    let rows = sqlx::query("select tree_id, gain_frac from gain_from_search").fetch_all(&mut conn).await.unwrap();
    let mut of_view: Vec<(i64, Option<f64>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    of_view.sort_by_key(|(tree, _)| *tree);
    assert_eq!(of_view.iter().filter(|(_, gain)| gain.is_some()).count(), 2);
    for order in [TreeOrder::Newest, TreeOrder::Gain, TreeOrder::Nodes] {
        let filter = TreePageFilter { order, ..TreePageFilter::of(TreeFilter::of(made.run)) };
        let page = store.reader().tree_page(filter).await.unwrap();
        assert_eq!((page.total, page.trees.len()), (4, 4));
        for item in page.trees {
            let of_view = of_view.iter().find(|(tree, _)| *tree == item.tree.tree_id.0).and_then(|(_, gain)| *gain);
            assert_eq!(item.gain_frac, of_view, "{:?}", item.tree.tree_id);
        }
    }
}

#[tokio::test]
async fn ten_thousand_nodes_are_answered_whole_and_at_once() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let (nodes, trajectories) = bulk_tree(10_000, 64);
    let tree =
        store.record_tree(new_tree(made.run, 3, 0, made.problems[0]), nodes, trajectories, vec![]).await.unwrap();
    let server = start(folder.path()).await;
    let started = Instant::now();
    let answer = get(server.address, &format!("/api/runs/0-{}/trees/{tree}", made.run)).await;
    let took = started.elapsed();
    let json = answer.json();
    for (name, column) in json["nodes"].as_object().unwrap() {
        assert_eq!(column.as_array().unwrap().len(), 10_000, "{name}");
    }
    println!("10,000 nodes: {} kB in {} ms", answer.body.len() / 1000, took.as_millis());
    assert!(took < Duration::from_secs(30), "no walk over all trees: {took:?}");
    server.stop().await;
}

/// A tree whose problem and answers try to be markup.
async fn hostile_tree(store: &Store, made: &Fixture) -> i64 {
    let problem = store.insert_problems(vec![new_problem(HOSTILE, HOSTILE, HOSTILE)]).await.unwrap()[0];
    let mut node = judged(node(1, &root(), "0.1", 2, HOSTILE, 0), Verdict::Incorrect, -1.0);
    node.content = Some(NodeContent { tokens: vec![1, 2], logprobs: Some(vec![-0.5, f32::NAN]), text: HOSTILE.into() });
    let prompt = orchestrator::store::NodeRow {
        content: Some(NodeContent { tokens: vec![1, 2, 3], logprobs: None, text: HOSTILE.into() }),
        ..root()
    };
    let tree = new_tree(made.run, 3, 0, problem);
    let path = vec![trajectory(&[1], Verdict::Incorrect, 0.001, 2)];
    store.record_tree(tree, vec![prompt, node], path, vec![]).await.unwrap().0
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let tree = hostile_tree(&store, &made).await;
    let server = start(folder.path()).await;
    let node = get(server.address, &format!("/api/runs/0-{}/trees/{tree}/nodes/1", made.run)).await;
    assert_eq!(node.json()["path"][1]["text"], HOSTILE);
    assert_eq!(node.json()["path"][1]["logprobs"], serde_json::json!([-0.5, null]));
    assert_eq!(node.header("x-content-type-options").as_deref(), Some("nosniff"));
    server.stop().await;

    let row = store.reader().run(made.run).await.unwrap().unwrap();
    let page = page_file(store.reader(), row.clone(), HOSTILE, 10_000_000).await.unwrap();
    assert!(page.html.contains("alert(1)") && !page.html.contains("<script>alert") && !page.html.contains("<img"));
    assert_eq!((page.trees, page.trees_total), (5, 5));
    // As many ends of scripts as scripts: none of them is in the data.
    let scripts = page.html.matches("<script").count();
    assert_eq!((scripts, page.html.matches("</script>").count()), (9, 9));
    let data = page.html.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["answers"][format!("/api/runs/0-0/trees/{tree}")]["problem"]["text"], HOSTILE);
    assert_eq!(data["answers"]["/api/runs/0-0/mistakes"]["mistakes"][0]["response"], HOSTILE);
    let policy = page.html.split("Content-Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    // Without room there are no trees, and the page says so.
    let small = page_file(store.reader(), row, "x", 0).await.unwrap();
    assert_eq!((small.trees, small.trees_total), (0, 5));
    assert!(small.html.contains("\"trees_total\":5"));
}

#[tokio::test]
async fn an_address_that_others_reach_has_to_be_forced() {
    let (folder, store) = fresh().await;
    fixture(&store).await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let public = Options { listen: address.parse().unwrap(), ..options(folder.path()) };
        let error = Server::bind(public).await.err().unwrap();
        assert_eq!(error.class(), FailureClass::User);
        assert!(error.to_string().contains(address) && error.hint().unwrap().contains("--force"), "{error}");
    }
    let forced = Options { listen: "0.0.0.0:0".parse().unwrap(), is_forced: true, ..options(folder.path()) };
    assert_eq!(Server::bind(forced).await.unwrap().database_count(), 1);
    let nothing = Options { paths: vec![folder.path().join("nothing")], ..options(folder.path()) };
    assert_eq!(Server::bind(nothing).await.err().unwrap().class(), FailureClass::User);
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
}

fn output(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_command_serves_until_it_is_interrupted() {
    use std::io::BufRead;
    let (folder, store) = fresh().await;
    fixture(&store).await;
    let mut child =
        program().arg("serve").arg(path_in(&folder)).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    assert!(address.ip().is_loopback());
    assert_eq!(get(address, "/api/runs").await.json()["runs"][0]["name"], "fixture");
    // A connection that is kept open does not keep the server.
    let _idle = TcpStream::connect(address).await.unwrap();
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    let started = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(30));

    let (code, _, stderr) = output(program().args(["serve", "--listen", "0.0.0.0"]).arg(path_in(&folder)));
    assert_eq!(code, 2);
    assert!(stderr.contains("can be reached from other machines") && stderr.contains("--force"), "{stderr}");
}

#[tokio::test]
async fn a_report_is_a_page_and_a_summary() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let tree = hostile_tree(&store, &made).await;
    let (html, markdown) = (folder.path().join("r.html"), folder.path().join("r.md"));
    let (code, _, stderr) =
        output(program().arg("report").arg(path_in(&folder)).arg("--out").arg(&html).arg("--markdown").arg(&markdown));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("5 of 5 trees"), "{stderr}");
    assert!(std::fs::read_to_string(&html).unwrap().starts_with("<!DOCTYPE html>"));
    let text = std::fs::read_to_string(&markdown).unwrap();
    let run = store.reader().run(made.run).await.unwrap().unwrap();
    assert!(text.contains(&run.config_sha256), "{text}");
    for part in [
        "# Run 1 (fixture)",
        "## Steps",
        "## Held-out problems",
        "## Trees in which search helped most",
        "## Most confident mistakes",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(text.contains(&format!("Tree {tree}, step 3")), "{text}");
    let markup = text.lines().filter(|line| line.contains("<script>") && !line.starts_with("    ")).count();
    assert_eq!(markup, 0, "{text}");
    assert!(!text.contains('\u{202e}') && !text.contains('\x1b'));

    let (code, stdout, _) = output(program().arg("report").arg(path_in(&folder)));
    assert_eq!((code, stdout), (0, text));
    assert_eq!(output(program().arg("report").arg(path_in(&folder)).args(["--run", "9"])).0, 2);
}

#[tokio::test]
async fn a_run_is_watched_to_its_end() {
    use std::io::Read;
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let (code, stdout, stderr) =
        output(program().arg("watch").arg(path_in(&folder)).arg("--once").env("COLUMNS", "100"));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("run 1 fixture (deepsearch): running, step 2 of ?"), "{stdout}");
    assert!(
        stdout.contains("step 3    [........................] 0 of 4 trees")
            && stdout.contains("held out  pass@1 37.5%"),
        "{stdout}"
    );
    assert!(!stdout.contains('\x1b') && stdout.lines().all(|line| line.chars().count() <= 100), "{stdout}");

    let mut child = program().arg("watch").arg(path_in(&folder)).stdout(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let end = orchestrator::store::StepEnd {
        update_skip_reason: Some("no group carries a signal".into()),
        ..orchestrator::store::StepEnd::default()
    };
    store.finish_step(made.run, StepId(3), end, vec![]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    store.finish_run(made.run, RunEnd::Done).await.unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("\nstep 3: solved 0 of 0") && text.trim_end().ends_with("run 1: done"), "{text}");
}

#[tokio::test]
async fn trees_and_mistakes_are_filtered() {
    let (folder, store) = fresh().await;
    let made = fixture(&store).await;
    let inspect = |words: &[&str]| output(program().arg("inspect").arg(path_in(&folder)).args(words));
    let ids = |words: &[&str]| -> Vec<i64> {
        let (code, stdout, stderr) = inspect(words);
        assert_eq!(code, 0, "{stderr}");
        let rows: Value = serde_json::from_str(&stdout).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["tree_id"].as_i64().unwrap()).collect()
    };
    let tree = |at: usize| made.trees[at].0;
    assert_eq!(ids(&["trees", "--json", "--problem", "add-1"]), [tree(3), tree(0)]);
    assert_eq!(ids(&["trees", "--json", "--problem", &made.problems[1].to_string()]), [tree(1)]);
    assert_eq!(ids(&["trees", "--json", "--problem", "add-1", "--step", "1", "--verdict", "correct"]), [tree(0)]);
    assert_eq!(ids(&["mistakes", "--json", "--problem", "add-2"]), [tree(1)]);
    assert_eq!(ids(&["mistakes", "--json", "--step", "2"]), Vec::<i64>::new());
    let (code, _, stderr) = inspect(&["trees", "--problem", "add-99"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("has no problem `add-99`"), "{stderr}");
    store.insert_problems(vec![new_problem("add-1", "Another?", "3")]).await.unwrap();
    let (code, _, stderr) = inspect(&["trees", "--problem", "add-1"]);
    assert!(code == 2 && stderr.contains("say which by its number"), "{stderr}");
}

#[test]
fn scripts_are_correct_where_node_is_there() {
    let Ok(version) = Command::new("node").arg("--version").output() else {
        println!("skipped: node is not installed");
        return;
    };
    assert!(version.status.success());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("src/serve/assets")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "js") {
            let (code, _, stderr) = output(Command::new("node").arg("--check").arg(&path));
            assert_eq!(code, 0, "{}: {stderr}", path.display());
        }
    }
    let (code, stdout, stderr) = output(Command::new("node").arg(root.join("tests/browser/logic.js")));
    assert_eq!(code, 0, "{stdout}{stderr}");
}
