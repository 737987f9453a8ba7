//! What has to hold of settings: every rule, in the words that a person reads.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/config.rs"]
mod support;

use orchestrator::config::{self, Config, ConfigError};
use support::{valid, with_sets};

/// What one change to a valid configuration must be refused with: keys, and the message.
#[track_caller]
fn check_rule(sets: &[&str], keys: &[&str], message: &str) {
    let mut all = vec!["run.model=m", "run.dir=d", "data.problems=p", "inference.launch=true"];
    all.extend(sets);
    let errors = config::validate(&with_sets(&all).unwrap()).unwrap_err();
    let [ConfigError::Rule { keys: found, message: text }] = errors.problems.as_slice() else { panic!("{errors}") };
    assert_eq!((*found, text.as_str()), (keys, message));
    for key in keys {
        assert!(text.contains(key), "{text} does not name {key}");
    }
}

#[test]
fn rules_between_settings() {
    config::validate(&valid()).unwrap();
    check_rule(
        &["search.step_tokens=512", "train.micro_batch_tokens=40000"],
        &["search.max_depth", "search.step_tokens", "inference.max_model_tokens", "prompt.max_tokens"],
        "`search.max_depth` x `search.step_tokens` = 64 x 512 = 32768 response tokens do not fit: \
         `inference.max_model_tokens` = 18432 less `prompt.max_tokens` = 2048 leaves 16384",
    );
    check_rule(
        &["train.micro_batch_tokens=18431"],
        &["search.max_depth", "search.step_tokens", "prompt.max_tokens", "train.micro_batch_tokens"],
        "`search.max_depth` x `search.step_tokens` = 64 x 256 = 16384 response tokens and `prompt.max_tokens` = 2048 \
         exceed `train.micro_batch_tokens` = 18431: the longest answer would not fit into one forward pass",
    );
    check_rule(
        &["train.overlong_buffer_tokens=16384"],
        &["train.overlong_buffer_tokens", "search.max_depth", "search.step_tokens"],
        "`train.overlong_buffer_tokens` = 16384 is not below `search.max_depth` x `search.step_tokens` = 64 x 256 = \
         16384 response tokens; 0 turns it off",
    );
    check_rule(
        &["run.problems_per_step=31"],
        &["train.minibatch_problems", "run.problems_per_step"],
        "`train.minibatch_problems` is 32, more than `run.problems_per_step` = 31",
    );
    check_rule(
        &["data.limit=10"],
        &["data.limit", "run.problems_per_step"],
        "`data.limit` is 10, fewer than `run.problems_per_step` = 256",
    );
    check_rule(
        &["inference.launch=false"],
        &["inference.launch", "inference.urls"],
        "`inference.launch` is false and `inference.urls` is empty: there is no server",
    );
    check_rule(
        &["inference.urls=[\"http://h:1\"]"],
        &["inference.launch", "inference.urls"],
        "`inference.launch` is true, but `inference.urls` names 1 running: use one of the two",
    );
    check_rule(
        &["inference.extra_args=[\"--host=0.0.0.0\"]"],
        &["inference.extra_args"],
        "`inference.extra_args` has `--host`: a launched server listens on 127.0.0.1 only",
    );
    check_rule(
        &["inference.extra_args=[\"--api-key\", \"abc\"]"],
        &["inference.extra_args"],
        "`inference.extra_args` has `--api-key`: set `inference.api_key_env`, so that the key stays out of files and \
         command lines",
    );
    check_rule(
        &["inference.api_key_env=sk-abc"],
        &["inference.api_key_env"],
        "`inference.api_key_env` is no name of an environment variable; the key itself does not belong there",
    );
    check_rule(
        &["inference.launch=false", "inference.urls=[\"http://me:secret@h:1\"]"],
        &["inference.urls"],
        "`inference.urls` has `h:1`: only scheme, host, port and path are allowed",
    );
    check_rule(
        &["inference.logprobs_mode=raw", "search.temperature=0.5"],
        &["inference.logprobs_mode", "search.temperature"],
        "`inference.logprobs_mode` is `raw`, but `search.temperature` = 0.5 changes what is sampled from: use \
         `processed`",
    );
    check_rule(
        &["search.top_p=0.9"],
        &["search.top_p", "search.top_k"],
        "`search.top_p` = 0.9 and `search.top_k` = 0 cut the distribution that is sampled from, but the trainer scores \
         the whole one, so the ratio would be biased: use 1 and 0",
    );
    check_rule(
        &["inference.dtype=bfloat16", "train.export_dtype=float32"],
        &["inference.dtype", "train.export_dtype"],
        "`inference.dtype` is `bfloat16`, but `train.export_dtype` is `float32`: the server would round every update \
         away from what the trainer computes",
    );
    check_rule(
        &["train.dual_clip=1.2"],
        &["train.dual_clip", "train.clip_high"],
        "`train.dual_clip` is 1.2, must be above 1 + `train.clip_high` = 1.28",
    );
}

#[test]
fn rules_of_single_settings() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("run.model=", &["run.model"], "`run.model` is empty, a path is needed"),
        ("run.steps=0", &["run.steps"], "`run.steps` is 0, must be at least 1"),
        (
            "run.canary_tolerance_nats=nan",
            &["run.canary_tolerance_nats"],
            "`run.canary_tolerance_nats` is NaN, must be above 0",
        ),
        ("curriculum.rounds=0", &["curriculum.rounds"], "`curriculum.rounds` is 0, must be at least 1"),
        (
            "curriculum.rounds=101",
            &["curriculum.rounds", "run.steps"],
            "`curriculum.rounds` is 101, more than `run.steps` = 100",
        ),
        (
            "curriculum.filter_samples=0",
            &["curriculum.filter_samples"],
            "`curriculum.filter_samples` is 0, must be at least 1",
        ),
        (
            "curriculum.max_pass_rate=1.5",
            &["curriculum.max_pass_rate"],
            "`curriculum.max_pass_rate` is 1.5, must be between 0 and 1",
        ),
        (
            "replay.max_pass_rate=nan",
            &["replay.max_pass_rate"],
            "`replay.max_pass_rate` is NaN, must be between 0 and 1",
        ),
        (
            "replay.solutions_per_group=8",
            &["replay.solutions_per_group", "search.trajectories"],
            "`replay.solutions_per_group` is 8, must be at least 1 and below `search.trajectories` = 8: a group of cached \
             solutions alone has nothing to be compared with",
        ),
        (
            "curriculum.dynamic_sampling=2",
            &["curriculum.dynamic_sampling", "run.algorithm"],
            "`curriculum.dynamic_sampling` is 2, which is for direct rollouts: `run.algorithm` is `deepsearch`",
        ),
        ("eval.samples=0", &["eval.samples"], "`eval.samples` is 0, must be at least 1"),
        ("eval.top_p=0", &["eval.top_p"], "`eval.top_p` is 0, must be above 0 and at most 1"),
        ("prompt.format=no place", &["prompt.format"], "`prompt.format` has `{problem}` 0 times, must have it once"),
        (
            "prompt.format={problem}{problem}",
            &["prompt.format"],
            "`prompt.format` has `{problem}` 2 times, must have it once",
        ),
        (
            "prompt.stop=[\"\"]",
            &["prompt.stop"],
            "`prompt.stop` has an empty text, which would end every answer at once",
        ),
        ("search.top_p=1.01", &["search"], "`search.top_p` is `1.01`, but must be above 0 and at most 1"),
        ("search.temperature=0", &["search.temperature"], "`search.temperature` is 0, must be above 0"),
        (
            "search.temperature=inf",
            &["search"],
            "`search.temperature` is `inf`, but must be a finite number, at least 0",
        ),
        ("search.gamma_min=1.5", &["search"], "`search.gamma_min` is `1.5`, but must be between 0 and 1"),
        (
            "train.learning_rate=-1e-6",
            &["train.learning_rate"],
            "`train.learning_rate` is -0.000001, must be at least 0",
        ),
        ("train.learning_rate=nan", &["train.learning_rate"], "`train.learning_rate` is NaN, must be at least 0"),
        ("train.clip_low=1", &["train.clip_low"], "`train.clip_low` is 1, must be between 0 and 1, both excluded"),
        ("train.beta2=1", &["train.beta2"], "`train.beta2` is 1, must be at least 0 and below 1"),
        (
            "train.importance_cap=0.5",
            &["train.importance_cap"],
            "`train.importance_cap` is 0.5, must be 0 (off) or at least 1",
        ),
        ("train.max_grad_norm=-1", &["train.max_grad_norm"], "`train.max_grad_norm` is -1, must be at least 0"),
        ("train.lora.rank=513", &["train.lora.rank"], "`train.lora.rank` is 513, must be at most 512"),
        ("train.lora.alpha=0", &["train.lora.alpha"], "`train.lora.alpha` is 0, must be above 0"),
        (
            "train.lora.targets=[]",
            &["train.lora.targets"],
            "`train.lora.targets` is empty, so nothing would be trained; to train all weights set `train.lora.rank` = 0",
        ),
        (
            "train.lora.targets=[\"qkv_proj\"]",
            &["train.lora.targets"],
            "`train.lora.targets` has `qkv_proj`; the projections are `q_proj`, `k_proj`, `v_proj`, `o_proj`, \
             `gate_proj`, `up_proj`, `down_proj`",
        ),
        (
            "train.lora.targets=[\"q_proj\", \"q_proj\"]",
            &["train.lora.targets"],
            "`train.lora.targets` has `q_proj` twice",
        ),
    ];
    for (set, keys, message) in cases {
        check_rule(&[set], keys, message);
    }
    config::validate(
        &with_sets(&["run.model=m", "run.dir=d", "data.problems=p", "inference.launch=true", "train.learning_rate=0"])
            .unwrap(),
    )
    .unwrap();
}

/// What the embedded engine refuses, with the message.
#[track_caller]
fn check_embedded(set: &str, keys: &[&str], message: &str) {
    check_rule(&["inference.engine=embedded", "inference.launch=false", set], keys, message);
}

#[test]
fn rules_of_the_embedded_engine() {
    check_embedded("inference.cache_mib=0", &["inference.cache_mib"], "`inference.cache_mib` is 0, must be at least 1");
    check_embedded(
        "inference.cache_mib=16777217",
        &["inference.cache_mib"],
        "`inference.cache_mib` is 16777217, must be at most 16777216 (16 TiB)",
    );
    check_embedded(
        "search.width=65",
        &["inference.max_sequences", "search.width"],
        "`inference.max_sequences` is 64, fewer than the `search.width` = 65 continuations of one expansion",
    );
    check_embedded(
        "search.trajectories=65",
        &["inference.max_sequences", "search.trajectories", "curriculum.filter_samples", "eval.samples"],
        "`inference.max_sequences` is 64, fewer than the 65 rollouts of one problem that `search.trajectories`, \
         `curriculum.filter_samples` or `eval.samples` asks for",
    );
    check_embedded(
        "inference.max_model_tokens=18431",
        &["search.max_depth", "search.step_tokens", "inference.max_model_tokens", "prompt.max_tokens"],
        "`search.max_depth` x `search.step_tokens` = 64 x 256 = 16384 response tokens do not fit: \
         `inference.max_model_tokens` = 18431 less `prompt.max_tokens` = 2048 leaves 16383",
    );
    check_embedded(
        "search.top_k=5",
        &["search.top_p", "search.top_k"],
        "`search.top_p` = 1 and `search.top_k` = 5 cut the distribution that is sampled from, but the trainer scores \
         the whole one, so the ratio would be biased: use 1 and 0",
    );
    assert_eq!(
        with_sets(&["inference.engine=tch"]).unwrap_err().to_string(),
        "`--set inference.engine=tch`: `inference.engine` cannot be `\"tch\"`: unknown variant `tch`, expected `vllm` \
         or `embedded`",
    );
}

/// One file serves both engines: what is wrong for the other one is no reason to refuse it.
#[test]
fn rules_of_one_engine_leave_the_other_alone() {
    let base = ["run.model=m", "run.dir=d", "data.problems=p"];
    let check = |engine: &str, sets: &[&str]| {
        let sets: Vec<&str> = base.iter().chain(&[engine]).chain(sets).copied().collect();
        config::validate(&with_sets(&sets).unwrap()).unwrap_or_else(|errors| panic!("{sets:?}: {errors}"));
    };
    for sets in [
        &["inference.launch=false"][..],
        &["inference.launch=true", "inference.urls=[\"nonsense\"]"],
        &["inference.launch=true", "inference.dtype=bfloat16", "train.export_dtype=float32"],
        &["inference.launch=true", "inference.logprobs_mode=raw", "search.temperature=0.5"],
        &["inference.command=[\"\"]", "inference.gpu_memory_frac=0"],
        &["inference.start_timeout_s=0", "inference.request_timeout_s=0", "inference.reload_timeout_s=0"],
        &["search.width=20000", "inference.max_sequences=20000"],
        &["inference.max_sequences=8"],
    ] {
        check("inference.engine=embedded", sets);
    }
    check("inference.engine=vllm", &["inference.launch=true", "inference.cache_mib=0", "inference.max_sequences=1"]);
}

#[test]
fn server_urls() {
    let check = |url: &str| {
        let mut config = valid();
        config.inference.launch = false;
        config.inference.urls = vec![url.to_string()];
        config::validate(&config).map_err(|errors| errors.to_string())
    };
    for good in ["http://127.0.0.1:8000", "https://host", "http://host/base/", "http://[::1]:8000", "http://[::1]"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, fault) in [
        ("127.0.0.1:8000", "must begin with `http://` or `https://`"),
        ("http://:8000", "has no host"),
        ("http://", "has no host"),
        ("http://host:port", "the port must be a number from 1 to 65535"),
        ("http://host:70000", "the port must be a number from 1 to 65535"),
        ("http://a b", "has white space"),
        ("http://host/v1", "leave out `/v1`, the base of the server is wanted"),
        ("http://host:8000/v1/", "leave out `/v1`, the base of the server is wanted"),
        ("http://host?x=1", "only scheme, host, port and path are allowed"),
    ] {
        assert_eq!(check(bad), Err(format!("`inference.urls` has `{bad}`: {fault}")));
    }
    let mut config = valid();
    config.inference.launch = false;
    config.inference.urls = vec!["http://h:1".into(), "http://h:1/".into()];
    assert_eq!(config::validate(&config).unwrap_err().to_string(), "`inference.urls` has `http://h:1/` twice");
    for (urls, router, expected) in [
        (vec!["http://h:1"], "http://r:1", None),
        (
            vec!["http://h:1"],
            "http://h:1/",
            Some("`http://h:1/` is both `inference.router` and one of `inference.urls`"),
        ),
        (vec!["http://h:1"], "r:1", Some("`inference.router` is `r:1`: must begin with `http://` or `https://`")),
        (
            vec!["http://h:1"],
            "http://me:pw@r:1",
            Some("`inference.router` is `r:1`: only scheme, host, port and path are allowed"),
        ),
    ] {
        config.inference.urls = urls.into_iter().map(str::to_owned).collect();
        config.inference.router = router.to_owned();
        let found = config::validate(&config).err().map(|errors| errors.to_string());
        assert_eq!(found.as_deref(), expected, "{router}");
    }
    config = valid();
    (config.inference.launch, config.inference.router) = (true, "http://r:1".into());
    assert_eq!(
        config::validate(&config).unwrap_err().to_string(),
        "`inference.router` needs the servers behind it in `inference.urls`: weights go straight to each of them"
    );
}

#[test]
fn every_broken_rule_is_reported() {
    let errors = config::validate(&Config::default()).unwrap_err();
    let keys: Vec<&str> = errors
        .problems
        .iter()
        .map(|problem| match problem {
            ConfigError::Rule { keys, .. } => keys[0],
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(keys, ["run.model", "data.problems", "inference.launch"]);
}

#[test]
fn a_seed_beyond_signed_integers_is_refused_in_words() {
    let mut config = valid();
    config.run.seed = u64::MAX;
    assert!(config::validate(&config).unwrap_err().to_string().starts_with("`run.seed` is 18446744073709551615"));
}
