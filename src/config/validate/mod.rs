//! Rules that a type cannot say: ranges, and what has to fit together. Every message names every key that takes part.

mod budgets;
mod train;

use super::error::{ConfigError, ConfigErrors};
use super::inference::EMBEDDED_SEQUENCES;
use super::{Algorithm, Config, EngineKind, ExportDtype, LogprobsMode, Pipeline};

use budgets::budgets;
use train::train;

/// Checks all rules and reports all that are broken. Touches no file.
///
/// # Errors
/// [`ConfigErrors`] with one [`ConfigError::Rule`] per broken rule.
pub fn validate(config: &Config) -> Result<(), ConfigErrors> {
    let mut rules = Rules { broken: Vec::new() };
    run(config, &mut rules);
    curriculum(config, &mut rules);
    verify(config, &mut rules);
    eval(config, &mut rules);
    prompt(config, &mut rules);
    search(config, &mut rules);
    inference(config, &mut rules);
    train(config, &mut rules);
    budgets(config, &mut rules);
    ConfigErrors::check(rules.broken)
}

/// Checks `[verify]` alone: what judges answers needs nothing else of a configuration.
///
/// # Errors
/// As [`validate`].
pub fn validate_verify(config: &Config) -> Result<(), ConfigErrors> {
    let mut rules = Rules { broken: Vec::new() };
    verify(config, &mut rules);
    ConfigErrors::check(rules.broken)
}

/// Checks `[train]` alone, for a trainer without a run around it; of `run.problems_per_step`, which bounds
/// `train.minibatch_problems`, there is then none.
///
/// # Errors
/// As [`validate`].
pub fn validate_train(config: &Config) -> Result<(), ConfigErrors> {
    let mut rules = Rules { broken: Vec::new() };
    let mut config = config.clone();
    config.run.problems_per_step = config.run.problems_per_step.max(config.train.minibatch_problems);
    train(&config, &mut rules);
    ConfigErrors::check(rules.broken)
}

/// Four months: beyond it sums of times would overflow before anybody waited that long.
const LONGEST_TIMEOUT_S: u64 = 10_000_000;
/// vLLM's limit of `n` in one request.
const MOST_WIDTH: u32 = 16_384;
/// 16 TiB: a larger cache of keys and values is a slip of the pen.
const MOST_CACHE_MIB: u64 = 16 << 20;

struct Rules {
    broken: Vec<ConfigError>,
}

impl Rules {
    fn require(&mut self, holds: bool, keys: &'static [&'static str], message: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(ConfigError::Rule { keys, message: message() });
        }
    }

    fn at_least_one(&mut self, keys: &'static [&'static str], value: u64) {
        self.require(value >= 1, keys, || format!("`{}` is {value}, must be at least 1", keys[0]));
    }

    fn not_empty(&mut self, keys: &'static [&'static str], path: &std::path::Path) {
        self.require(!path.as_os_str().is_empty(), keys, || format!("`{}` is empty, a path is needed", keys[0]));
    }

    /// `holds` is false for NaN as long as it is written with comparisons.
    fn number(&mut self, keys: &'static [&'static str], value: f64, holds: bool, range: &str) {
        self.require(holds && value.is_finite(), keys, || format!("`{}` is {value}, must be {range}", keys[0]));
    }
}

fn run(config: &Config, rules: &mut Rules) {
    let run = &config.run;
    rules.not_empty(&["run.model"], &run.model);
    rules.not_empty(&["run.dir"], &run.dir);
    rules.not_empty(&["data.problems"], &config.data.problems);
    rules.at_least_one(&["run.steps"], run.steps.into());
    rules.at_least_one(&["run.problems_per_step"], run.problems_per_step.into());
    rules.at_least_one(&["run.checkpoints_kept"], run.checkpoints_kept.into());
    rules.require(
        run.pipeline == Pipeline::Sync || config.inference.engine == EngineKind::Vllm,
        &["run.pipeline", "inference.engine"],
        || {
            "`run.pipeline` is `overlap`, but with `inference.engine` = `embedded` the trainer is what samples: use `sync`"
                .to_string()
        },
    );
    rules.at_least_one(&["run.max_staleness"], run.max_staleness.into());
    // SQLite's integers are signed.
    rules.require(i64::try_from(run.seed).is_ok(), &["run.seed"], || {
        format!("`run.seed` is {}, must be at most {}", run.seed, i64::MAX)
    });
    let tolerance = run.canary_tolerance_nats;
    rules.number(&["run.canary_tolerance_nats"], tolerance, tolerance > 0.0, "above 0");
    let limit = config.data.limit;
    rules.require(
        limit == 0 || limit >= run.problems_per_step as usize,
        &["data.limit", "run.problems_per_step"],
        || format!("`data.limit` is {limit}, fewer than `run.problems_per_step` = {}", run.problems_per_step),
    );
}

fn curriculum(config: &Config, rules: &mut Rules) {
    let (run, curriculum, replay) = (&config.run, &config.curriculum, &config.replay);
    rules.at_least_one(&["curriculum.rounds"], curriculum.rounds.into());
    rules.require(curriculum.rounds <= run.steps.max(1), &["curriculum.rounds", "run.steps"], || {
        format!("`curriculum.rounds` is {}, more than `run.steps` = {}", curriculum.rounds, run.steps)
    });
    rules.at_least_one(&["curriculum.filter_samples"], curriculum.filter_samples.into());
    for (keys, rate) in
        [(&["curriculum.max_pass_rate"], curriculum.max_pass_rate), (&["replay.max_pass_rate"], replay.max_pass_rate)]
    {
        rules.number(keys, rate, (0.0..=1.0).contains(&rate), "between 0 and 1");
    }
    let (cached, group) = (replay.solutions_per_group, config.search.trajectories);
    rules.require(
        !replay.enabled || (cached >= 1 && cached < group),
        &["replay.solutions_per_group", "search.trajectories"],
        || {
            format!(
                "`replay.solutions_per_group` is {cached}, must be at least 1 and below `search.trajectories` = {group}: a \
                 group of cached solutions alone has nothing to be compared with"
            )
        },
    );
    rules.require(
        curriculum.dynamic_sampling == 0 || run.algorithm != Algorithm::Deepsearch,
        &["curriculum.dynamic_sampling", "run.algorithm"],
        || {
            format!(
                "`curriculum.dynamic_sampling` is {}, which is for direct rollouts: `run.algorithm` is `deepsearch`",
                curriculum.dynamic_sampling
            )
        },
    );
}

fn verify(config: &Config, rules: &mut Rules) {
    let verify = &config.verify;
    rules.at_least_one(&["verify.budget_steps"], verify.budget_steps);
    rules.at_least_one(&["verify.workers"], verify.workers as u64);
    rules.at_least_one(&["verify.timeout_s"], verify.timeout_s);
    rules.require(verify.timeout_s <= LONGEST_TIMEOUT_S, &["verify.timeout_s"], || {
        format!("`verify.timeout_s` is {}, must be at most {LONGEST_TIMEOUT_S}", verify.timeout_s)
    });
    // SymPy alone takes 150 MiB.
    rules.require((256..=MOST_CACHE_MIB).contains(&verify.memory_mib), &["verify.memory_mib"], || {
        format!("`verify.memory_mib` is {}, must be between 256 and {MOST_CACHE_MIB}", verify.memory_mib)
    });
}

fn eval(config: &Config, rules: &mut Rules) {
    let eval = &config.eval;
    rules.at_least_one(&["eval.samples"], eval.samples.into());
    rules.number(&["eval.temperature"], eval.temperature, eval.temperature >= 0.0, "at least 0");
    rules.number(&["eval.top_p"], eval.top_p, eval.top_p > 0.0 && eval.top_p <= 1.0, "above 0 and at most 1");
}

fn prompt(config: &Config, rules: &mut Rules) {
    let prompt = &config.prompt;
    let places = prompt.format.matches("{problem}").count();
    rules.require(places == 1, &["prompt.format"], || {
        format!("`prompt.format` has `{{problem}}` {places} times, must have it once")
    });
    rules.require(prompt.stop.iter().all(|stop| !stop.is_empty()), &["prompt.stop"], || {
        "`prompt.stop` has an empty text, which would end every answer at once".to_string()
    });
    rules.at_least_one(&["prompt.max_tokens"], prompt.max_tokens as u64);
}

fn search(config: &Config, rules: &mut Rules) {
    let search = &config.search;
    for message in search.problems() {
        rules.require(false, &["search"], || message);
    }
    // A greedy tree is all ties: the search itself allows it, training on it makes no sense.
    rules.require(search.temperature != 0.0, &["search.temperature"], || {
        "`search.temperature` is 0, must be above 0".to_string()
    });
}

fn inference(config: &Config, rules: &mut Rules) {
    let (inference, search) = (&config.inference, &config.search);
    rules.at_least_one(&["inference.max_model_tokens"], inference.max_model_tokens as u64);
    rules.require(search.top_p >= 1.0 && search.top_k == 0, &["search.top_p", "search.top_k"], || {
        format!(
            "`search.top_p` = {} and `search.top_k` = {} cut the distribution that is sampled from, but the trainer scores \
             the whole one, so the ratio would be biased: use 1 and 0",
            search.top_p, search.top_k
        )
    });
    match inference.engine {
        EngineKind::Vllm => servers(config, rules),
        EngineKind::Embedded => embedded(config, rules),
    }
}

fn embedded(config: &Config, rules: &mut Rules) {
    let (inference, search) = (&config.inference, &config.search);
    rules.at_least_one(&["inference.cache_mib"], inference.cache_mib);
    rules.require(inference.cache_mib <= MOST_CACHE_MIB, &["inference.cache_mib"], || {
        format!("`inference.cache_mib` is {}, must be at most {MOST_CACHE_MIB} (16 TiB)", inference.cache_mib)
    });
    let sequences = if inference.max_sequences == 0 { EMBEDDED_SEQUENCES } else { inference.max_sequences };
    rules.require(sequences >= search.width as usize, &["inference.max_sequences", "search.width"], || {
        format!(
            "`inference.max_sequences` is {sequences}, fewer than the `search.width` = {} continuations of one expansion",
            search.width
        )
    });
    let rollouts = config.most_rollouts();
    rules.require(
        sequences >= rollouts as usize,
        &["inference.max_sequences", "search.trajectories", "curriculum.filter_samples", "eval.samples"],
        || {
            format!(
                "`inference.max_sequences` is {sequences}, fewer than the {rollouts} rollouts of one problem that \
                 `search.trajectories`, `curriculum.filter_samples` or `eval.samples` asks for"
            )
        },
    );
}

fn servers(config: &Config, rules: &mut Rules) {
    let (inference, search) = (&config.inference, &config.search);
    rules.require(search.width <= MOST_WIDTH, &["search.width"], || {
        format!("`search.width` is {}, must be at most {MOST_WIDTH}, the server's limit for one request", search.width)
    });
    let urls = &inference.urls;
    rules.require(inference.launch || !urls.is_empty(), &["inference.launch", "inference.urls"], || {
        "`inference.launch` is false and `inference.urls` is empty: there is no server".to_string()
    });
    rules.require(!inference.launch || urls.is_empty(), &["inference.launch", "inference.urls"], || {
        format!("`inference.launch` is true, but `inference.urls` names {} running: use one of the two", urls.len())
    });
    for (index, url) in urls.iter().enumerate() {
        if let Some(fault) = url_fault(url) {
            // What stands before `@` may be a password.
            let shown = url.rsplit_once('@').map_or(url.as_str(), |(_, host)| host);
            rules.require(false, &["inference.urls"], || format!("`inference.urls` has `{shown}`: {fault}"));
        }
        let same = |other: &String| other.trim_end_matches('/') == url.trim_end_matches('/');
        rules.require(!urls[..index].iter().any(same), &["inference.urls"], || {
            format!("`inference.urls` has `{url}` twice")
        });
    }
    let router = inference.router.as_str();
    if !router.is_empty() {
        let keys = &["inference.router", "inference.urls"];
        if let Some(fault) = url_fault(router) {
            let shown = router.rsplit_once('@').map_or(router, |(_, host)| host);
            rules.require(false, &["inference.router"], || format!("`inference.router` is `{shown}`: {fault}"));
        }
        rules.require(!urls.is_empty(), keys, || {
            "`inference.router` needs the servers behind it in `inference.urls`: weights go straight to each of them".into()
        });
        let is_one = urls.iter().any(|url| url.trim_end_matches('/') == router.trim_end_matches('/'));
        rules.require(!is_one, keys, || format!("`{router}` is both `inference.router` and one of `inference.urls`"));
    }
    rules.require(inference.command.iter().all(|part| !part.is_empty()), &["inference.command"], || {
        "`inference.command` has an empty part".to_string()
    });
    rules.at_least_one(&["inference.start_timeout_s"], inference.start_timeout_s);
    rules.at_least_one(&["inference.request_timeout_s"], inference.request_timeout_s);
    rules.at_least_one(&["inference.reload_timeout_s"], inference.reload_timeout_s);
    rules.at_least_one(&["inference.health_check_s"], inference.health_check_s);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    rules.require(inference.api_key_env.chars().all(is_name), &["inference.api_key_env"], || {
        "`inference.api_key_env` is no name of an environment variable; the key itself does not belong there"
            .to_string()
    });
    for (flag, why) in [
        ("--host", "a launched server listens on 127.0.0.1 only"),
        ("--api-key", "set `inference.api_key_env`, so that the key stays out of files and command lines"),
    ] {
        let is_it = |word: &String| word == flag || word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='));
        rules.require(!inference.extra_args.iter().any(is_it), &["inference.extra_args"], || {
            format!("`inference.extra_args` has `{flag}`: {why}")
        });
    }
    for (keys, seconds) in [
        (&["inference.start_timeout_s"], inference.start_timeout_s),
        (&["inference.request_timeout_s"], inference.request_timeout_s),
        (&["inference.reload_timeout_s"], inference.reload_timeout_s),
        (&["inference.retry_timeout_s"], inference.retry_timeout_s),
        (&["inference.health_check_s"], inference.health_check_s),
    ] {
        rules.require(seconds <= LONGEST_TIMEOUT_S, keys, || {
            format!("`{}` is {seconds}, must be at most {LONGEST_TIMEOUT_S}", keys[0])
        });
    }
    rules.require(
        !inference.sleep_while_training || inference.launch,
        &["inference.sleep_while_training", "inference.launch"],
        || {
            "`inference.sleep_while_training` is true, but `inference.launch` is false: only of a server that is started for \
             the run it is known that it has the GPU of the trainer and can sleep"
                .to_string()
        },
    );
    rules.require(
        !inference.sleep_while_training || config.run.pipeline == Pipeline::Sync,
        &["inference.sleep_while_training", "run.pipeline"],
        || {
            "`inference.sleep_while_training` is true, but `run.pipeline` is `overlap`, which samples beside the update"
                .into()
        },
    );
    let share = inference.gpu_memory_frac;
    rules.number(&["inference.gpu_memory_frac"], share, share > 0.0 && share <= 1.0, "above 0 and at most 1");
    rules.require(
        !inference.launch || inference.logprobs_mode == LogprobsMode::Processed || search.temperature == 1.0,
        &["inference.logprobs_mode", "search.temperature"],
        || {
            format!(
                "`inference.logprobs_mode` is `raw`, but `search.temperature` = {} changes what is sampled from: use \
                 `processed`",
                search.temperature
            )
        },
    );
    let exported = match config.train.export_dtype {
        ExportDtype::Source => None,
        ExportDtype::Float32 => Some("float32"),
        ExportDtype::Bfloat16 => Some("bfloat16"),
    };
    rules.require(
        !inference.launch || inference.dtype == "auto" || exported.is_none_or(|dtype| dtype == inference.dtype),
        &["inference.dtype", "train.export_dtype"],
        || {
            format!(
                "`inference.dtype` is `{}`, but `train.export_dtype` is `{}`: the server would round every update away \
                 from what the trainer computes",
                inference.dtype,
                exported.unwrap_or_default()
            )
        },
    );
}

/// What is wrong with a server's base URL.
fn url_fault(url: &str) -> Option<&'static str> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Some("must begin with `http://` or `https://`");
    };
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("has white space");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains(['?', '#']) || authority.contains(['?', '#', '@']) {
        return Some("only scheme, host, port and path are allowed");
    }
    if path.trim_end_matches('/').rsplit('/').next() == Some("v1") {
        return Some("leave out `/v1`, the base of the server is wanted");
    }
    // The colons of an IPv6 address stand inside brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() {
        return Some("has no host");
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => Some("the port must be a number from 1 to 65535"),
        _ => None,
    }
}
