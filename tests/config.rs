//! Configuration: what is accepted, and every message but those of the rules (`config_rules.rs`).
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/config.rs"]
mod support;

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use orchestrator::config::{self, Config, ConfigError, Place};
use orchestrator::error::{FailureClass, Hint};
use proptest::prelude::*;
use support::{parse, valid, with_sets};

/// Files by name, for the tests of `base`.
fn layered(files: &[(&str, &str)], sets: &[&str]) -> Result<Config, String> {
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| text.to_string()).ok_or_else(|| Error::from(ErrorKind::NotFound))
    };
    let sources = config::sources(Path::new(files[0].0), read).map_err(|error| {
        assert_eq!(error.class(), FailureClass::User);
        error.to_string()
    })?;
    assert!(sources.len() <= files.len());
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    config::parse_sources(&sources, &sets).map_err(|errors| errors.to_string())
}

#[test]
fn a_file_builds_on_another() {
    let files = [
        ("a/b/top.toml", "base = \"../middle.toml\"\n[search]\nwidth = 2\n"),
        ("a/b/../middle.toml", "\u{feff}base = \"b/low.toml\"\n[search]\nwidth = 3\nmax_depth = 7\n[run]\nseed = 4\n"),
        ("a/b/../b/low.toml", "[search]\nwidth = 4\nmax_depth = 8\nstep_tokens = 16\n"),
    ];
    let search = |sets: &[&str]| layered(&files, sets).unwrap().search;
    assert_eq!((search(&[]).width, search(&[]).max_depth, search(&[]).step_tokens), (2, 7, 16));
    assert_eq!(search(&["search.width=1"]).width, 1);
    assert_eq!(layered(&files, &[]).unwrap().run.seed, 4);
}

#[test]
fn messages_of_files_that_build_on_others() {
    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &str) {
        assert_eq!(layered(files, &[]).unwrap_err(), expected);
    }
    let top = ("c/top.toml", "# a comment\nbase = \"low.toml\"\n[search]\nwidht = 2\n");
    check(&[top], "cannot read `c/low.toml`, the `base` of `c/top.toml` line 2 column 1");
    // Each mistake is placed in the file that makes it, the lowest file first.
    check(
        &[top, ("c/low.toml", "[runn]\n")],
        "the configuration has 2 problems\n  \
         `c/low.toml` line 1 column 2: unknown section `[runn]`, did you mean `[run]`?\n  \
         `c/top.toml` line 4 column 1: unknown key `search.widht`, did you mean `search.width`?",
    );
    check(
        &[("top.toml", "base = \"top.toml\"\n")],
        "`top.toml` line 1 column 1: `base` leads through more than 16 files, probably in a circle",
    );
    check(
        &[("top.toml", "base = 7\n")],
        "`top.toml` line 1 column 1: `base` cannot be `7`: expected the path of another file of settings",
    );
    check(
        &[("top.toml", "base = \"\"\n")],
        "`top.toml` line 1 column 1: `base` cannot be `\"\"`: expected the path of another file of settings",
    );
    // Below a section it is a key of that section.
    check(&[("top.toml", "[run]\nbase = \"x\"\n")], "`top.toml` line 2 column 1: unknown key `run.base`");
    // A text alone has no folder to look in.
    check_message(parse("base = \"low.toml\"\n"), "`run.toml` line 1 column 1: unknown key `base`");
}

#[test]
fn a_layer_that_changes_the_algorithm_brings_its_defaults() {
    let low = ("low.toml", "[train]\nclip_high = 0.5\nlearning_rate = 0.1\nadvantage = \"value\"\n");
    let with = |text: &str| layered(&[("top.toml", &format!("base = \"low.toml\"\n{text}")), low], &[]).unwrap().train;
    let same = with("");
    assert_eq!((same.clip_high, same.advantage), (0.5, config::AdvantageForm::Value));
    // Only what the two algorithms differ in.
    let grpo = with("[run]\nalgorithm = \"grpo\"\n");
    assert_eq!((grpo.clip_high, grpo.advantage), (0.2, config::AdvantageForm::MeanStd));
    assert_eq!(grpo.learning_rate, 0.1);
    let said = with("[run]\nalgorithm = \"grpo\"\n[train]\nclip_high = 0.4\n");
    assert_eq!(said.clip_high, 0.4);
    let released = with("[search]\nrules = \"released\"\n");
    assert_eq!((released.clip_high, released.advantage), (0.5, config::AdvantageForm::MeanOnly));
    // In one file, the file's own values stand over the algorithm's.
    let one = parse("[run]\nalgorithm = \"grpo\"\n[train]\nadvantage = \"value\"\n").unwrap();
    assert_eq!((one.train.clip_high, one.train.advantage), (0.2, config::AdvantageForm::Value));
}

#[test]
fn the_order_is_defaults_file_arguments() {
    assert_eq!(parse("").unwrap(), Config::default());
    let text = "[search]\nwidth = 4\nstep_tokens = 16\n";
    let sets = ["search.width=2".to_string(), "search.width=3".to_string()];
    let config = config::parse("run.toml", text, &sets).unwrap();
    assert_eq!((config.search.width, config.search.step_tokens), (3, 16));
    assert_eq!(config.search.max_depth, Config::default().search.max_depth);
}

#[test]
fn an_argument_is_toml_or_else_text() {
    let config = with_sets(&[
        "run.name=7",
        "run.dir=2026-01-01",
        "run.model=models/a b=c",
        "prompt.stop=[\"\\n\", \"Q:\"]",
        "train.learning_rate=0",
        "train.clip_low=1e-1",
        "search.rules=released",
        "search.backtrace=\"uct\"",
        "inference.launch=true",
    ])
    .unwrap();
    assert_eq!(config.run.name, "7");
    assert_eq!(config.run.dir, PathBuf::from("2026-01-01"));
    assert_eq!(config.run.model, PathBuf::from("models/a b=c"));
    assert_eq!(config.prompt.stop, ["\n", "Q:"]);
    assert_eq!((config.train.learning_rate, config.train.clip_low), (0.0, 0.1));
    assert_eq!(config.search.rules, config::Rules::Released);
    assert_eq!(config.search.backtrace, config::Backtrace::Uct);
    assert!(config.inference.launch);
}

/// `[train.lora]` is a table within a section: a layer changes what it names, and no more.
#[test]
fn adapters_are_a_table_of_their_own() {
    assert!(!Config::default().train.lora.is_on());
    assert!(!parse("[train]\nlora = {}\n").unwrap().train.lora.is_on());
    let text = "[train]\nlearning_rate = 1e-5\n[train.lora]\nrank = 4\ntargets = [\"q_proj\"]\n";
    let sets = ["train.lora.alpha=8".to_string(), "train.lora.rank=16".to_string()];
    let config = config::parse("run.toml", text, &sets).unwrap();
    let lora = &config.train.lora;
    assert_eq!((lora.rank, lora.alpha, lora.targets.as_slice()), (16, 8.0, &["q_proj".to_string()][..]));
    assert_eq!(config.train.learning_rate, 1e-5);
    assert_eq!(parse(&config::render(&config).unwrap()).unwrap(), config);
    let layered =
        layered(&[("a.toml", "base = \"b.toml\"\n[train.lora]\nalpha = 2\n"), ("b.toml", text)], &[]).unwrap();
    assert_eq!((layered.train.lora.rank, layered.train.lora.alpha), (4, 2.0));
    check_message(
        with_sets(&["train.lora.rnak=3"]),
        "`--set train.lora.rnak=3`: `train.lora` cannot be `{ rnak = 3 }`: unknown field `rnak`, expected one of `rank`, \
         `alpha`, `targets`",
    );
}

#[track_caller]
fn check_message(result: Result<Config, config::ConfigErrors>, expected: &str) {
    let errors = result.unwrap_err();
    assert_eq!(errors.to_string(), expected);
    assert_eq!(errors.class(), FailureClass::User);
}

#[test]
fn messages_of_wrong_files() {
    check_message(
        parse("[search]\nwidth = 4\n  widht = 8\n"),
        "`run.toml` line 3 column 3: unknown key `search.widht`, did you mean `search.width`?",
    );
    // The same key of another section is nearer than a similar one of this section.
    check_message(
        parse("[run]\nlearning_rate = 1\n"),
        "`run.toml` line 2 column 1: unknown key `run.learning_rate`, did you mean `train.learning_rate`?",
    );
    // A name from the published code.
    check_message(
        parse("[search]\nexpansion_width = 8\n"),
        "`run.toml` line 2 column 1: unknown key `search.expansion_width`, did you mean `search.width`?",
    );
    check_message(parse("[search]\nqwertz = 8\n"), "`run.toml` line 2 column 1: unknown key `search.qwertz`");
    check_message(
        parse("[serch]\n"),
        "`run.toml` line 1 column 2: unknown section `[serch]`, did you mean `[search]`?",
    );
    check_message(
        parse("width = 8\n"),
        "`run.toml` line 1 column 1: unknown key `width`, did you mean `search.width`?",
    );
    check_message(
        parse("search = 8\n"),
        "`run.toml` line 1 column 1: `search` cannot be `8`: it is a section, written `[search]`",
    );
    check_message(
        parse("[search]\nwidth = \"eight\"\n"),
        "`run.toml` line 2 column 1: `search.width` cannot be `\"eight\"`: invalid type: string \"eight\", expected u32",
    );
    check_message(
        parse("# é\n[search]\nwidth = -1\n"),
        "`run.toml` line 3 column 1: `search.width` cannot be `-1`: invalid value: integer `-1`, expected u32",
    );
    check_message(
        parse("[search]\nrules = \"papers\"\n"),
        "`run.toml` line 2 column 1: `search.rules` cannot be `\"papers\"`: unknown variant `papers`, expected \
         `released` or `paper`",
    );
    check_message(parse("[search]\nwidth = 8\nwidth = 9\n"), "`run.toml` line 3 column 1: duplicate key");
}

#[test]
fn not_toml_names_the_line() {
    let errors = parse("[search]\nwidth = \n").unwrap_err();
    let [ConfigError::Syntax { place, .. }] = errors.problems.as_slice() else { panic!("{errors}") };
    assert!(matches!(place, Place::File { line: 2, .. }), "{errors}");
}

#[test]
fn all_problems_are_found_at_once() {
    let sets = ["search.widht=3".to_string(), "nonsense".to_string()];
    let errors = config::parse("run.toml", "[search]\nwidth = true\n[runn]\na = 1\n", &sets).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "the configuration has 4 problems\n  \
         `run.toml` line 2 column 1: `search.width` cannot be `true`: invalid type: boolean `true`, expected u32\n  \
         `run.toml` line 3 column 2: unknown section `[runn]`, did you mean `[run]`?\n  \
         `--set search.widht=3`: unknown key `search.widht`, did you mean `search.width`?\n  \
         `--set nonsense`: expected `section.key=value`"
    );
}

#[test]
fn messages_of_wrong_arguments() {
    check_message(with_sets(&["width=3"]), "`--set width=3`: expected `section.key=value`");
    check_message(
        with_sets(&["serch.width=3"]),
        "`--set serch.width=3`: unknown section `[serch]`, did you mean `[search]`?",
    );
    check_message(
        with_sets(&["search.width=wide"]),
        "`--set search.width=wide`: `search.width` cannot be `\"wide\"`: invalid type: string \"wide\", expected u32",
    );
    // A value cannot smuggle in a second setting.
    assert!(with_sets(&["search.width=1\n[run]\nseed = 2"]).is_err());
}

#[test]
fn dry_run_text_is_stable_and_hashed() {
    let text = config::render(&valid()).unwrap();
    assert_eq!(config::hash(&text), config::hash(&config::render(&valid()).unwrap()));
    assert_eq!(config::hash("").len(), 64);
    let mut other = valid();
    other.search.width += 1;
    assert_ne!(config::hash(&text), config::hash(&config::render(&other).unwrap()));
}

/// The default configuration with values of the same TOML type drawn at random wherever the field accepts them.
fn any_config() -> impl Strategy<Value = Config> {
    let draw = (any::<i64>(), -1e9..1e9f64, any::<bool>(), "\\PC{0,12}", any::<u8>());
    proptest::collection::vec(draw, 96).prop_map(|draws| {
        let mut config = Config::default();
        let mut draws = draws.into_iter().cycle();
        for (section, keys) in config::keys::known_keys() {
            for key in keys {
                let (integer, float, flag, text, small) = draws.next().unwrap();
                let candidates: [toml::Value; 7] = [
                    integer.into(),
                    i64::from(small).into(),
                    float.into(),
                    flag.into(),
                    toml::Value::Array(vec![text.clone().into(), "\n\"'\\".into()]),
                    text.into(),
                    "paper".into(),
                ];
                let base: toml::Table = toml::from_str(&config::render(&config).unwrap()).unwrap();
                let accepted = candidates.into_iter().find_map(|value| {
                    let mut table = base.clone();
                    table.get_mut(section)?.as_table_mut()?.insert(key.to_string(), value);
                    table.try_into::<Config>().ok()
                });
                config = accepted.unwrap_or(config);
            }
        }
        config
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parse_of_render_is_the_same_configuration(config in any_config()) {
        let text = config::render(&config).unwrap();
        prop_assert_eq!(parse(&text).unwrap(), config);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,60}", set in "\\PC{0,30}") {
        let _ = config::parse("run.toml", &text, &[set]);
        let _ = config::parse("run.toml", &format!("[search]\n{text}\n[run]\n"), &[]);
    }
}
