//! What all modes of a measurement stand on: problems, verifier, a database in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::RolloutBenchSpec;
use crate::config::{Config, ReplayConfig};
use crate::data::ModelTokenizer;
use crate::data::draw::below;
use crate::inference::Engine;
use crate::rng::{self, Purpose};
use crate::run::bench::BenchError;
use crate::run::explore::{Explorer, Task};
use crate::run::flight::Room;
use crate::run::judge::Judge;
use crate::run::meter::Meter;
use crate::run::problems::{Language, Problems};
use crate::run::step::{Plan, Searcher, Selection, slot};
use crate::run::{DATABASE, Retention, RunError, record};
use crate::search::SpecialTokens;
use crate::store::{NewProblem, NewStep, NewWeightVersion, RunEnd, Store};
use crate::trainer::model::ModelConfig;
use crate::types::{ProblemId, Prompt, RoundId, RunId, StepId, TokenId, TreeKind, WeightVersion};
use crate::verify::Grader;

/// The step that all trees belong to.
const STEP: StepId = StepId(1);
const ROUND: RoundId = RoundId(1);

/// A folder, which goes with the measurement unless it was named.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    /// `named`, which must be empty, or a new one among the system's temporary files.
    ///
    /// # Errors
    /// It holds something, or cannot be made.
    pub fn make(named: Option<&Path>) -> Result<Folder, BenchError> {
        let path = match named {
            Some(dir) => dir.to_owned(),
            None => std::env::temp_dir().join(format!("orchestrator-bench-{}", std::process::id())),
        };
        if named.is_some() && std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(BenchError::NotEmpty { dir: path });
        }
        std::fs::create_dir_all(&path).map_err(|source| BenchError::Io {
            action: "create",
            path: path.clone(),
            source,
        })?;
        Ok(Folder { path, is_temporary: named.is_none() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What stays behind is for the system to clean up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The problems and everything of a run but its engine.
pub struct Ground {
    config: Config,
    tokenizer: Arc<ModelTokenizer>,
    vocab_tokens: usize,
    /// Their rows are not known before the database is there.
    tasks: Vec<Task>,
    rows: Vec<NewProblem>,
}

/// The search of one mode.
pub struct Field {
    /// What grows and records the trees.
    pub searcher: Searcher,
    /// Room that was given.
    pub room: Room,
    tasks: Vec<Task>,
    run: RunId,
}

impl Ground {
    /// Reads the model's tokenizer and the problems, or makes prompts up.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn prepare(spec: &RolloutBenchSpec) -> Result<Ground, BenchError> {
        let config = spec.config.clone();
        let model = |source| RunError::Model { dir: config.run.model.clone(), source };
        let vocab_tokens = usize::try_from(ModelConfig::read(&config.run.model)?.vocab_size).unwrap_or(0);
        let (tokenizer, posed) = match &spec.problems {
            Some(path) => {
                let language = Language::load(&config)?;
                let problems = Problems::load(path, 0, &language)?;
                let rows = problems.problems.iter().map(record::problem);
                let posed: Vec<_> = rows.zip(problems.prompts).collect();
                (language.tokenizer, posed)
            }
            None => {
                let tokenizer = Arc::new(ModelTokenizer::load(&config.run.model).map_err(model)?);
                let posed = (0..spec.trees).map(|index| made_up(spec, &tokenizer, vocab_tokens, index)).collect();
                (tokenizer, posed)
            }
        };
        if posed.is_empty() {
            return Err(BenchError::NoProblems);
        }
        let (rows, prompts): (Vec<NewProblem>, Vec<Prompt>) = posed.into_iter().cycle().take(spec.trees).unzip();
        let tasks = (0..).zip(rows.iter().zip(prompts)).map(|(slot, (row, prompt))| Task {
            step: STEP,
            slot,
            problem: ProblemId(0),
            kind: TreeKind::Search,
            known_solutions: 0,
            prompt,
            answer: row.answer.clone(),
        });
        Ok(Ground { tasks: tasks.collect(), rows, tokenizer, vocab_tokens, config })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<ModelTokenizer> {
        &self.tokenizer
    }

    /// Size of the model's vocabulary.
    pub fn vocab_tokens(&self) -> usize {
        self.vocab_tokens
    }

    /// Tokens of the longest prompt.
    pub fn longest_prompt_tokens(&self) -> usize {
        self.tasks.iter().map(|task| task.prompt.tokens.len()).max().unwrap_or(0)
    }

    /// Opens a database in `dir`.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn open(&mut self, dir: &Path) -> Result<Store, BenchError> {
        let store = Store::open(&dir.join(DATABASE)).await.map_err(RunError::from)?;
        let ids = store.insert_problems(self.rows.clone()).await.map_err(RunError::from)?;
        self.tasks.iter_mut().zip(ids).for_each(|(task, id)| task.problem = id);
        Ok(store)
    }

    /// Begins a run in the database, for all trees, with `engine` and so much `room`.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn begin(&self, store: &Store, engine: Arc<dyn Engine>, room: Room) -> Result<Field, BenchError> {
        let config = &self.config;
        let row = record::run(config).map_err(RunError::Config)?;
        let run = store.create_run(row).await.map_err(RunError::from)?;
        let weights = NewWeightVersion {
            run,
            version: WeightVersion::INITIAL,
            step: None,
            digest: "0".repeat(64),
            path: config.run.model.display().to_string(),
            size_bytes: 0,
            may_differ: false,
        };
        store.record_weight_version(weights).await.map_err(RunError::from)?;
        let slots = self.tasks.iter().map(slot).collect();
        let step = NewStep { run, step: STEP, round: ROUND, search_weight_version: WeightVersion::INITIAL, slots };
        store.begin_step(step).await.map_err(RunError::from)?;
        let observer: crate::run::Observer = Arc::new(|_| {});
        let judge = Judge {
            tokenizer: self.tokenizer.clone(),
            grader: Grader::new(config.verify_rules()),
            observer: observer.clone(),
        };
        let explorer = Explorer {
            engine,
            room: room.clone(),
            judge,
            search: config.search.clone(),
            special: SpecialTokens { end_of_text: self.tokenizer.end_of_text().to_vec(), padding: None },
            stop: config.prompt.stop.clone().into(),
            seed: config.run.seed,
            request_timeout: Duration::from_secs(config.inference.request_timeout_s),
            meter: Meter::default(),
            observer: observer.clone(),
        };
        let searcher = Searcher {
            explorer: Arc::new(explorer),
            store: store.clone(),
            run,
            replay: ReplayConfig { enabled: false, ..config.replay.clone() },
            selection: Selection { dynamic_sampling: 0, ..Selection::of(config) },
            retention: Retention::of(&config.run),
            observer,
        };
        Ok(Field { searcher, room, tasks: self.tasks.clone(), run })
    }
}

impl Field {
    /// Trees to grow.
    pub fn trees(&self) -> usize {
        self.tasks.len()
    }

    /// Grows the trees from `first` on, at most `count` of them. How many were refused by the engine.
    ///
    /// # Errors
    /// The engine is gone, it refused all trees, or the database cannot be written.
    pub async fn grow(&self, first: usize, count: usize) -> Result<usize, BenchError> {
        let tasks: Vec<Task> = self.tasks.iter().skip(first).take(count).cloned().collect();
        let plan = Plan {
            round: ROUND,
            step: STEP,
            search_version: WeightVersion::INITIAL,
            first: tasks.len(),
            tasks,
            reserve: Vec::new(),
            recorded: Vec::new(),
        };
        let (all_begun, _) = tokio::sync::oneshot::channel();
        Ok(self.searcher.search(plan, all_begun).await?.failed_trees())
    }

    /// The run is over, and its one step was never meant to be finished.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn end(&self) -> Result<(), BenchError> {
        Ok(self.searcher.store.finish_run(self.run, RunEnd::Interrupted).await.map_err(RunError::from)?)
    }
}

/// Random tokens, none of which ends a text.
fn made_up(
    spec: &RolloutBenchSpec,
    tokenizer: &ModelTokenizer,
    vocab_tokens: usize,
    index: usize,
) -> (NewProblem, Prompt) {
    let mut draw = rng::stream(spec.config.run.seed, Purpose::Bench, &[index as u64]);
    let drawn = std::iter::repeat_with(|| TokenId::try_from(below(&mut draw, vocab_tokens as u64)).unwrap_or_default());
    let ends = tokenizer.end_of_text();
    let tokens: Vec<TokenId> = drawn.filter(|token| !ends.contains(token)).take(spec.prompt_tokens).collect();
    // Only for people: tokens are what is sent.
    let text = tokenizer.decode(&tokens).unwrap_or_default();
    let row = NewProblem {
        name: format!("made-up-{index}"),
        text: text.clone(),
        answer: "0".to_owned(),
        level: None,
        topic: None,
        source: "bench".to_owned(),
    };
    (row, Prompt { tokens: tokens.into(), text: text.into() })
}
