//! `orchestrator run` with the embedded engine, as a person starts it: no server, and the same run again for the same
//! seed, down to the last bit of the weights.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use scene::{Content, Engine, Scene, assert_same, content, content_of, succeed};

#[tokio::test]
async fn the_same_seed_is_the_same_run_whatever_is_in_flight() {
    let scene = Scene::new(Engine::Embedded, 3, &[]);
    // As it is; again; few requests at a time; so little memory that prefixes have to be computed again; one thread.
    let variants: [(&str, &[&str]); 5] = [
        ("first", &[]),
        ("again", &[]),
        ("alone", &["inference.max_sequences=4"]),
        ("forgetful", &["inference.cache_mib=1"]),
        ("one-thread", &["train.threads=1"]),
    ];
    for (name, sets) in variants {
        succeed(&scene.run(name, sets));
    }
    let first = content(&scene.database("first")).await;
    for table in ["tree", "node", "node_content", "trajectory", "step", "weight_version", "metric"] {
        assert!(!first[table].is_empty(), "`{table}` is empty");
    }
    assert_eq!(first["tree"].len(), 36);
    assert!(first["weight_version"].len() > 1, "the policy was never updated");
    let bytes = scene.weights("first");
    for (name, _) in &variants[1..4] {
        assert_same(&first, &content(&scene.database(name)).await, name);
        assert!(bytes == scene.weights(name), "{name}: the weights differ");
    }
    // Training sums in another order on another number of threads: the first search is the same, the update need not be.
    let one_thread = content(&scene.database("one-thread")).await;
    let first_step = |content: &Content| -> Vec<String> {
        content["tree"].iter().filter(|row| row.contains("step_id=1 ")).cloned().collect()
    };
    assert_eq!(first_step(&first), first_step(&one_thread));
    assert!(first["node"][..200] == one_thread["node"][..200], "one thread samples something else");

    let evictions =
        content_of(&scene.database("forgetful"), "select sum(value) from metric where name = 'engine_evictions'").await;
    assert!(evictions > 0.0, "the small memory was large enough: nothing was computed again");

    let other = scene.run("other", &["run.seed=2"]);
    succeed(&other);
    assert_ne!(first["node"], content(&scene.database("other")).await["node"], "another seed gave the same trees");
}

/// Cheaper siblings through the whole loop: the run ends, and what is stored is a tree.
#[tokio::test]
async fn every_way_to_save_siblings_ends_in_true_trees() {
    let scene = Scene::new(Engine::Embedded, 2, &["search.width=4", "search.max_depth=4", "search.trajectories=6"]);
    let lazy = ["search.siblings=lazy"];
    let narrow = ["search.entropy_width={min_width=1, low_nats=1.0, high_nats=4.0}", "search.siblings=lazy"];
    let long = ["search.stop_garbled=true", "search.step_tokens=100", "search.max_depth=8"];
    let variants: [(&str, &[&str]); 6] = [
        ("eager", &[]),
        ("lazy", &lazy),
        ("released", &["search.siblings=lazy", "search.rules=released", "search.first_width=2"]),
        ("single", &["search.siblings=lazy", "search.refill_width=1"]),
        ("narrow", &narrow),
        ("stop", &[&long[..], &["inference.max_model_tokens=1024"]].concat()),
    ];
    let mut tokens = Vec::new();
    for (name, sets) in variants {
        succeed(&scene.run(name, sets));
        let database = scene.database(name);
        let count = async |query: &'static str| content_of(&database, query).await;
        let trees = count("select cast(count(*) as real) from tree where status <> 'failed'").await;
        assert_eq!(trees, 24.0, "{name}");
        let bad = "select cast(count(*) as real) from (select count(*) as children, sum(p.is_terminal) as of_terminals
                   from node n join node p on p.tree_id = n.tree_id and p.node_id = n.parent_node_id
                   group by p.tree_id, p.node_id) where children > 4 or of_terminals > 0";
        assert_eq!(count(bad).await, 0.0, "{name}: a node has too many children, or a terminal has some");
        // Children of several expansions do not follow each other.
        let refilled =
            "select cast(count(*) as real) from (select max(node_id) - min(node_id) + 1 > count(*) as is_refilled
                        from node where parent_node_id is not null group by tree_id, parent_node_id) where is_refilled";
        assert_eq!(count(refilled).await > 0.0, sets.contains(&lazy[0]), "{name}");
        // A text that was given up ends above the greatest depth, although it was only cut.
        let lost = "select cast(count(*) as real) from node
                    where is_terminal and finish_reason = 'length' and depth < 4 and verdict = 'no_answer'";
        assert_eq!(count(lost).await > 0.0, name == "stop", "{name}");
        tokens.push(count("select cast(sum(generated_tokens) as real) from tree").await);
    }
    assert!(tokens[1] < tokens[0] && tokens[3] < tokens[0] && tokens[4] < tokens[0], "{tokens:?}");
    // Nothing depends on what else was in flight.
    succeed(&scene.run("alone", &[&lazy[..], &["inference.max_sequences=6"]].concat()));
    assert_same(&content(&scene.database("lazy")).await, &content(&scene.database("alone")).await, "alone");
}

/// Adapters through the whole loop: trained, sampled from, exported, made again from the stored trees, and merged.
#[tokio::test]
async fn a_run_with_adapters_ends_in_a_model() {
    let lora = ["train.lora.rank=4", "train.learning_rate=1e-3"];
    let scene = Scene::new(Engine::Embedded, 2, &lora);
    succeed(&scene.run("run", &[]));
    let newest = |folder: &str| {
        let versions = scene.path(folder).join("run-1/weights");
        std::fs::read_dir(versions).unwrap().map(|entry| entry.unwrap().path()).max().unwrap()
    };
    let adapters = newest("run");
    let bytes = std::fs::read(adapters.join("adapter_model.safetensors")).unwrap();
    let [out, merged] = ["again", "merged"].map(|name| scene.path(name).display().to_string());
    let run = scene.path("run").display().to_string();
    succeed(&scene.output(&["train", "--from-db", &run, "--steps", "1..2", "--out", &out].map(str::to_owned)));
    assert!(std::fs::read(scene.path("again/adapter_model.safetensors")).unwrap() == bytes, "other adapters");
    let (model, adapter) = (scene.path("model").display().to_string(), adapters.display().to_string());
    let merge = ["model", "merge", "--model", &model, "--adapter", &adapter, "--out", &merged];
    succeed(&scene.output(&merge.map(str::to_owned)));
    let weights = |folder: &str| std::fs::read(scene.path(folder).join("model.safetensors")).unwrap();
    let (before, after) = (weights("model"), weights("merged"));
    assert!(before.len() == after.len() && before != after, "the merged model has the same weights as before");
    assert!(scene.path("merged/tokenizer.json").exists());
    let error = scene.output(&merge.map(str::to_owned));
    assert_eq!(error.status.code(), Some(2), "a folder that is not empty: {error:?}");
}

#[tokio::test]
async fn a_cache_that_holds_no_request_is_refused_with_the_number_that_would() {
    let scene = Scene::new(Engine::Embedded, 3, &[]);
    let output = scene.run("run", &["inference.cache_mib=1", "search.width=64", "search.step_tokens=64"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("inference.cache_mib"), "{error}");
}
