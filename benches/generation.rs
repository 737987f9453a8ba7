//! Tokens per second of the engines, side by side, each started as a run starts it: `cargo bench --bench generation`.
//!
//! Decoding: so many sequences at once, one request each, all prompts different. A tree: eight children of a long prefix,
//! then eight grandchildren, whose prefix may be cached. Ends with one line of JSON.
//!
//! Engines run one after the other, since a server that waits takes processor time too. Arguments after `--`: names of
//! engines (`embedded`, `vllm-float32`, `vllm-bfloat16`), and `--sequences 1,8`, `--tokens 64`, `--prefix 1000`,
//! `--rounds 3`, `--model DIR`, `--threads 0` (those of the trainer, which are the embedded engine's).
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use orchestrator::config::{ComputeDtype, Config, DeviceChoice, EngineKind, ServerDevice};
use orchestrator::data::ModelTokenizer;
use orchestrator::inference::Engine;
use orchestrator::rng::{Purpose, seed, stream};
use orchestrator::run::engine::Parts;
use orchestrator::types::{GenerateRequest, RunId, Sampling, TokenId};
use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value, json};

const CONTEXT_TOKENS: usize = 2048;
const PROMPT_TOKENS: usize = 30;
const WIDTH: u32 = 8;
const ENGINES: [&str; 3] = ["embedded", "vllm-float32", "vllm-bfloat16"];

struct Options {
    engines: Vec<String>,
    sequences: Vec<u32>,
    tokens: u32,
    prefix: usize,
    rounds: usize,
    model: PathBuf,
    threads: u32,
}

impl Options {
    fn read() -> Options {
        let mut options = Options {
            engines: Vec::new(),
            sequences: vec![1, 8, 32, 64],
            tokens: 64,
            prefix: 1000,
            rounds: 3,
            model: "models/smollm2-135m-instruct".into(),
            threads: 0,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("`{word}` needs a value"));
            match word.as_str() {
                // What `cargo bench` adds by itself.
                "--bench" => {}
                "--sequences" => options.sequences = value().split(',').map(|n| n.parse().unwrap()).collect(),
                "--tokens" => options.tokens = value().parse().unwrap(),
                "--prefix" => options.prefix = value().parse().unwrap(),
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--model" => options.model = value().into(),
                "--threads" => options.threads = value().parse().unwrap(),
                name if ENGINES.contains(&name) => options.engines.push(name.to_owned()),
                other => panic!("`{other}` is neither an option nor one of {ENGINES:?}"),
            }
        }
        if options.engines.is_empty() {
            options.engines = ENGINES.map(str::to_owned).to_vec();
        }
        options
    }

    fn config(&self, engine: &str) -> Config {
        let mut config = Config::default();
        config.run.model = self.model.clone();
        config.train.device = DeviceChoice::Cpu;
        config.train.dtype = ComputeDtype::Float32;
        config.train.threads = self.threads;
        config.inference.max_model_tokens = CONTEXT_TOKENS;
        match engine.strip_prefix("vllm-") {
            None => config.inference.engine = EngineKind::Embedded,
            Some(dtype) => {
                config.inference.engine = EngineKind::Vllm;
                config.inference.launch = true;
                config.inference.device = ServerDevice::Cpu;
                config.inference.dtype = dtype.to_owned();
                // The prefix cache shares whole blocks only.
                config.inference.extra_args = ["--block-size", "32"].map(str::to_owned).to_vec();
            }
        }
        config
    }
}

/// An engine at work.
struct Bench<'a> {
    engine: &'a dyn Engine,
    options: &'a Options,
    /// Ids that no special token has.
    vocabulary: std::ops::Range<u64>,
    /// Names the next tree, prompt and seed: nothing is asked twice.
    next: u64,
}

impl Bench<'_> {
    fn request(&mut self, tokens: Vec<TokenId>, n: u32, max_tokens: u32) -> GenerateRequest {
        self.next += 1;
        GenerateRequest {
            affinity: self.next,
            tokens,
            n,
            max_tokens,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
            stop: Arc::new([]),
            stop_token_ids: Arc::new([]),
            seed: seed(1, Purpose::Sampling, &[self.next]),
            retain: true,
            deadline: Duration::from_secs(600),
        }
    }

    /// A text that is never the same; what it says does not change what it costs.
    fn prompt(&mut self, count: usize) -> Vec<TokenId> {
        self.next += 1;
        let mut rng = stream(1, Purpose::Problems, &[self.next]);
        let width = self.vocabulary.end - self.vocabulary.start;
        (0..count).map(|_| (self.vocabulary.start + rng.next_u64() % width) as TokenId).collect()
    }

    /// Tokens sampled and seconds taken.
    async fn decode(&mut self, sequences: u32) -> (usize, f64) {
        let (tokens, mut requests) = (self.options.tokens, Vec::new());
        for _ in 0..sequences {
            let prompt = self.prompt(PROMPT_TOKENS);
            requests.push(self.request(prompt, 1, tokens));
        }
        let begin = Instant::now();
        let answers = join_all(requests.into_iter().map(|request| self.engine.generate(request))).await;
        let seconds = begin.elapsed().as_secs_f64();
        let sampled = answers.into_iter().flat_map(Result::unwrap).map(|continuation| continuation.tokens.len()).sum();
        (sampled, seconds)
    }

    /// Counts of the engine's own: tokens read and tokens whose keys and values were there.
    async fn counts(&self) -> Option<(f64, f64)> {
        let counts = self.engine.take_counts().await.unwrap();
        let of = |wanted| counts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        Some((of("engine_prefill_tokens")?, of("engine_reused_tokens")?))
    }

    /// Eight children of a new prefix, then eight grandchildren.
    async fn expand(&mut self) -> [Expansion; 2] {
        let mut path = self.prompt(self.options.prefix);
        let mut found = [Expansion::default(), Expansion::default()];
        let affinity = self.next;
        for expansion in &mut found {
            let request = GenerateRequest { affinity, ..self.request(path.clone(), WIDTH, self.options.tokens) };
            self.counts().await;
            let begin = Instant::now();
            let children = self.engine.generate(request).await.unwrap();
            *expansion = Expansion { seconds: begin.elapsed().as_secs_f64(), counts: self.counts().await };
            let longest = children.into_iter().max_by_key(|child| child.tokens.len()).unwrap();
            path.extend(longest.tokens);
        }
        self.engine.release(affinity).await.unwrap();
        found
    }
}

#[derive(Clone, Copy, Default)]
struct Expansion {
    seconds: f64,
    counts: Option<(f64, f64)>,
}

impl Expansion {
    fn json(self) -> Value {
        let mut object = Map::from_iter([("seconds".to_owned(), json!(self.seconds))]);
        if let Some((prefill, reused)) = self.counts {
            object.extend([("prefill_tokens".to_owned(), json!(prefill)), ("reused_tokens".to_owned(), json!(reused))]);
        }
        Value::Object(object)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

async fn measure(name: &str, options: &Options) -> Value {
    let tokenizer = Arc::new(ModelTokenizer::load(&options.model).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let parts = Parts::start(&options.config(name), &tokenizer, RunId(1), folder.path()).await;
    let parts = parts.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    let engine = &*parts.engine;
    let vocabulary = 1000.min(engine.capabilities().vocab_tokens as u64 / 2)..engine.capabilities().vocab_tokens as u64;
    let mut bench = Bench { engine, options, vocabulary, next: 0 };
    let prompt = bench.prompt(PROMPT_TOKENS);
    let request = bench.request(prompt, 1, 1);
    engine.generate(request).await.unwrap();
    let first_answer_s = begin.elapsed().as_secs_f64();
    println!("{name} ({}): first answer after {first_answer_s:.1} s", engine.capabilities().engine);

    bench.decode(8).await;
    let mut decoding = Map::new();
    for &sequences in &options.sequences {
        let mut rates = Vec::new();
        for _ in 0..options.rounds {
            let (sampled, seconds) = bench.decode(sequences).await;
            rates.push(sampled as f64 / seconds);
        }
        println!("{name:<14} {sequences:>3} sequences {:>8.1} tokens/s  {rates:.1?}", median(rates.clone()));
        decoding.insert(sequences.to_string(), json!(median(rates)));
    }

    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(bench.expand().await);
    }
    let mut expansions = Vec::new();
    for (depth, what) in ["after the prefix", "one node deeper"].into_iter().enumerate() {
        let seconds = median(rounds.iter().map(|round| round[depth].seconds).collect());
        let counts = rounds[0][depth].counts;
        let detail = counts.map(|(prefill, reused)| format!("  read {prefill}, cached {reused}")).unwrap_or_default();
        println!("{name:<14} {WIDTH} siblings {what}: {seconds:.3} s{detail}");
        expansions.push(Expansion { seconds, counts }.json());
    }
    parts.stop().await;
    json!({ "engine": name, "version": engine.capabilities().engine, "first_answer_s": first_answer_s,
            "decoding_tokens_per_s": decoding, "expansions": expansions })
}

/// One row per number of sequences, one column per engine.
fn table(options: &Options, results: &[Value]) {
    let row = |head: String, cells: Vec<String>| {
        println!("{head:<24}{}", cells.iter().map(|cell| format!("{cell:>16}")).collect::<String>());
    };
    println!();
    row("tokens/s".into(), options.engines.clone());
    let number = |value: &Value, digits: usize| format!("{:.*}", digits, value.as_f64().unwrap_or(f64::NAN));
    for sequences in &options.sequences {
        let cell = |result: &Value| number(&result["decoding_tokens_per_s"][sequences.to_string()], 1);
        row(format!("{sequences} sequences"), results.iter().map(cell).collect());
    }
    row("first answer, s".into(), results.iter().map(|result| number(&result["first_answer_s"], 1)).collect());
    for (depth, what) in ["first expansion, s", "second expansion, s"].into_iter().enumerate() {
        let cell = |result: &Value| number(&result["expansions"][depth]["seconds"], 3);
        row(what.into(), results.iter().map(cell).collect());
    }
    println!();
}

fn main() {
    let options = Options::read();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let results: Vec<Value> = options.engines.iter().map(|name| runtime.block_on(measure(name, &options))).collect();
    table(&options, &results);
    let settings = json!({ "new_tokens": options.tokens, "prompt_tokens": PROMPT_TOKENS, "prefix_tokens": options.prefix,
                           "rounds": options.rounds, "siblings": WIDTH, "model": options.model });
    println!("{}", json!({ "bench": "generation", "settings": settings, "results": results }));
}
