//! `orchestrator export`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Printer;
use super::inspect::{database, missing};
use crate::config::ExportDtype;
use crate::error::{Failure, FailureClass, Hint};
use crate::report::card::CARD_MARK;
use crate::report::{CardError, CardSource, MeasuredBenchmark, Origin, card_text, measured_benchmark};
use crate::run::{FolderLock, tensorboard};
use crate::store::{Reader, RunRow, WeightHistory};
use crate::trainer::{TrainerError, export::digest_of_folder, folder, peft};
use crate::types::{RunId, WeightVersion};

/// Name of a model card in the folder of a model.
const CARD: &str = "README.md";
/// What is true of the machine only.
const MANIFEST: &str = "manifest.json";

/// A run for other programs: event files for TensorBoard, a model with its card for transformers and the hub.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write the figures of runs as event files for TensorBoard, one folder a run.
    ///
    /// A run keeps event files of its own in the folder `tensorboard` of its folder; this makes them from the database of any
    /// earlier run.
    ///
    /// Examples:
    ///   orchestrator export tensorboard runs/quickstart --out board/quickstart
    ///   orchestrator export tensorboard runs/quickstart --run 2 --out board/quickstart
    #[command(verbatim_doc_comment)]
    Tensorboard(TensorboardArgs),
    /// Copy a version of a run's weights to a folder in the Hugging Face layout, with a model card.
    ///
    /// The card says what the model was trained on and with which settings, and how good it was measured to be: on the held-out
    /// problems of the run, and by `orchestrator eval` where its folder is given.
    ///
    /// Examples:
    ///   orchestrator export model runs/quickstart --out models/quickstart
    ///   orchestrator export model runs/quickstart --weights 100 --out models/mine --eval evals/mine --license apache-2.0
    ///   orchestrator export model runs/lora --merge --out models/merged
    #[command(verbatim_doc_comment)]
    Model(ModelArgs),
}

#[derive(Debug, clap::Args)]
struct TensorboardArgs {
    /// Run folder or database file.
    #[arg(value_name = "RUN")]
    path: PathBuf,
    /// Folder to write, with one folder a run in it. Files of an earlier export of the same runs are replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only this run of the database.
    #[arg(long, value_name = "N")]
    run: Option<i64>,
}

#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Run folder or database file.
    #[arg(value_name = "RUN")]
    path: PathBuf,
    /// Folder to write. One that is there is replaced if it is an earlier export.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The run of the database; without it the newest.
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    /// Version of the weights; without it the newest that is still there.
    #[arg(long, value_name = "VERSION")]
    weights: Option<u64>,
    /// Folder of an `orchestrator eval` of these weights, or of the model before training. May be given several times.
    #[arg(long, value_name = "DIR")]
    eval: Vec<PathBuf>,
    /// What the model that training started from is called on the hub, as `ORGANISATION/NAME`.
    #[arg(long, value_name = "NAME")]
    base_model: Option<String>,
    /// Licence of the model as the hub writes it; without it that of the model that training started from.
    #[arg(long, value_name = "LICENCE")]
    license: Option<String>,
    /// What the model is called; without it the name of the folder.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Add adapters to the model that they belong to: a model like any other.
    #[arg(long)]
    merge: bool,
}

/// What was asked for cannot be exported.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the weights of version {version} are no longer in `{}`", dir.display())]
    Gone { version: WeightVersion, dir: PathBuf },
    #[error("no weights of run `{run}` are left")]
    NoneLeft { run: RunId },
    #[error("the weights in `{}` are not those that the run recorded: checksum `{found}`, recorded `{recorded}`", dir.display())]
    OtherWeights { dir: PathBuf, found: String, recorded: String },
    #[error("`{}` holds something other than an export, which would be lost", dir.display())]
    Occupied { dir: PathBuf },
    #[error("`{}` holds the run itself", dir.display())]
    OfTheRun { dir: PathBuf },
    #[error("`{}` is the model that the run began with", dir.display())]
    OfTheBase { dir: PathBuf },
    #[error("`{}` holds no benchmark", dir.display())]
    NoBenchmark { dir: PathBuf },
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Hint for ExportError {
    fn class(&self) -> FailureClass {
        match self {
            ExportError::OtherWeights { .. } | ExportError::Io { .. } => FailureClass::Environment,
            _ => FailureClass::User,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            ExportError::Gone { .. } | ExportError::NoneLeft { .. } => {
                "`run.keep_every` says which versions a run keeps; see `orchestrator inspect RUN weights`"
            }
            ExportError::OtherWeights { .. } => "the file was changed or damaged after the run wrote it",
            ExportError::Occupied { .. } | ExportError::OfTheRun { .. } | ExportError::OfTheBase { .. } => {
                "give another folder to `--out`"
            }
            ExportError::NoBenchmark { .. } => "make one: orchestrator eval MODEL FILE --out DIR",
            ExportError::Io { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// Runs the subcommand.
///
/// # Errors
/// A database that cannot be read, a run or weights that are not there, a folder that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let runtime = super::session::runtime()?;
    match args.command {
        Command::Tensorboard(args) => runtime.block_on(tensorboard_files(&args, printer)),
        Command::Model(args) => runtime.block_on(model(&args, printer)),
    }
}

async fn tensorboard_files(args: &TensorboardArgs, printer: &Printer) -> Result<u8, Failure> {
    let database = database(&args.path);
    let reader = Reader::open(&database).await?;
    let mut runs = reader.runs().await?;
    if let Some(run) = args.run {
        runs.retain(|row| row.run_id == RunId(run));
        if runs.is_empty() {
            return Err(missing(&args.path, format!("run `{run}`")).into());
        }
    }
    // A run that goes on keeps its own files, which must not be taken from under it.
    let own = database.parent().map(|dir| dir.join(tensorboard::FOLDER));
    let is_own = own
        .as_ref()
        .is_some_and(|own| own.canonicalize().is_ok_and(|own| args.out.canonicalize().is_ok_and(|out| out == own)));
    let _lock = match (is_own, database.parent()) {
        (true, Some(dir)) => Some(FolderLock::acquire(dir)?),
        _ => None,
    };
    tensorboard::refuse_others(&runs, &args.out)?;
    let mut figures = 0;
    for row in runs.iter().rev() {
        let (dir, count) = tensorboard::export(&reader, row.run_id, &args.out).await?;
        printer.note(&format!("{count} figures of run {} in {}", row.run_id, dir.display()));
        figures += count;
    }
    if figures == 0 {
        printer.note("no step is over yet");
    }
    printer.note(&format!("look: tensorboard --logdir {}", args.out.display()));
    Ok(0)
}

async fn model(args: &ModelArgs, printer: &Printer) -> Result<u8, Failure> {
    let database = database(&args.path);
    let reader = Reader::open(&database).await?;
    let run = match args.run {
        Some(run) => reader.run(RunId(run)).await?.ok_or_else(|| missing(&args.path, format!("run `{run}`")))?,
        None => reader.latest_run().await?.ok_or_else(|| missing(&args.path, "run yet".to_owned()))?,
    };
    let home = database.parent().unwrap_or(Path::new("."));
    let (version, source) = chosen_weights(&reader, &run, args.weights, home).await?;
    refuse_loss(&args.out, home, Path::new(&run.model))?;
    let name = args.name.clone().or_else(|| file_name(&args.out)).unwrap_or_else(|| run.name.clone());
    let mut origin = origin(&run, &source, name);
    if let Some(license) = &args.license {
        (origin.license, origin.license_other) = (Some(license.clone()), None);
    }
    if let Some(base) = &args.base_model {
        origin.base_model.clone_from(base);
    }
    let is_merged = args.merge && origin.is_adapter;
    origin.is_adapter &= !is_merged;
    let mut benchmarks: Vec<MeasuredBenchmark> = Vec::new();
    for dir in &args.eval {
        let reader = Reader::open(&self::database(dir)).await?;
        let name = dir.display().to_string();
        let found = measured_benchmark(&reader, &name).await.map_err(CardError::Store)?;
        benchmarks.push(found.ok_or_else(|| ExportError::NoBenchmark { dir: dir.clone() })?);
    }
    let recorded = reader.weight_version(run.run_id, version).await?.map(|row| row.digest).unwrap_or_default();
    let facts = CardSource::read(&reader, run.clone()).await?;
    // The card is part of the folder, which is there whole or not at all; it is written last, since it names a checksum.
    let staging = staging(&args.out)?;
    let filled = fill(&staging, &source, &run, is_merged, &origin.base_model, &recorded);
    let written = match filled {
        Ok(merged) => {
            origin.merged_digest = merged;
            match facts.card(version, origin, &benchmarks).await {
                Ok(card) => publish(&staging, &args.out, &card_text(&card)),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) => Err(error),
    };
    // What is left of it is of no use, whether it was copied or failed.
    let _ = fs::remove_dir_all(&staging);
    written?;
    printer.note(&format!(
        "version {version} of run {} in {}, with its card in {CARD}",
        run.run_id,
        args.out.display()
    ));
    Ok(0)
}

/// The version asked for, or the newest, and its folder.
async fn chosen_weights(
    reader: &Reader,
    run: &RunRow,
    wanted: Option<u64>,
    home: &Path,
) -> Result<(WeightVersion, PathBuf), Failure> {
    let mut known = reader.weight_history(run.run_id).await?;
    known.retain(|weights| weights.is_confirmed && wanted.is_none_or(|wanted| weights.weight_version.0 == wanted));
    let Some(newest) = known.last() else {
        return Err(match wanted {
            Some(version) => CardError::NoVersion { run: run.run_id, version: WeightVersion(version) }.into(),
            None => ExportError::NoneLeft { run: run.run_id }.into(),
        });
    };
    let found =
        known.iter().rev().find_map(|weights| Some((weights.weight_version, weights_folder(weights, run, home)?)));
    found.ok_or_else(|| match wanted {
        Some(version) => ExportError::Gone { version: WeightVersion(version), dir: PathBuf::from(&newest.path) }.into(),
        None => ExportError::NoneLeft { run: run.run_id }.into(),
    })
}

/// Where the weights are: as recorded, or below the run's folder as it is now.
fn weights_folder(weights: &WeightHistory, run: &RunRow, home: &Path) -> Option<PathBuf> {
    let recorded = PathBuf::from(&weights.path);
    let moved = home.join(format!("run-{}", run.run_id)).join("weights").join(recorded.file_name()?);
    [moved, recorded].into_iter().find(|dir| dir.is_dir())
}

/// Only what an export has made is replaced: it has a card, no manifest as the run's own folders have, and no folders,
/// which an export never makes. Never the model that the run began with.
fn refuse_loss(out: &Path, home: &Path, base: &Path) -> Result<(), ExportError> {
    let place = |path: &Path| path.canonicalize().ok();
    if let Some(out_place) = place(out) {
        let dir = || out.to_owned();
        if place(home).is_some_and(|home| home.starts_with(&out_place)) {
            return Err(ExportError::OfTheRun { dir: dir() });
        }
        if place(base) == Some(out_place) {
            return Err(ExportError::OfTheBase { dir: dir() });
        }
    }
    let is_empty = fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    let has_card = fs::read_to_string(out.join(CARD)).is_ok_and(|card| card.contains(CARD_MARK));
    let has_folders = || fs::read_dir(out).is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()));
    let is_export = has_card && !out.join(MANIFEST).exists() && !has_folders();
    if is_empty || is_export { Ok(()) } else { Err(ExportError::Occupied { dir: out.to_owned() }) }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
    move |source| ExportError::Io { action, path: path.to_owned(), source }
}

/// A folder beside `out` to make it in.
fn staging(out: &Path) -> Result<PathBuf, ExportError> {
    let out = std::path::absolute(out).map_err(io("write", out))?;
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let staging = out.with_file_name(format!(".{name}.export-{}", std::process::id()));
    let _ = fs::remove_dir_all(&staging);
    fs::create_dir_all(&staging).map_err(io("write", &staging))?;
    Ok(staging)
}

/// Puts the files of a model into an empty folder. Returns the digest of weights that adapters were added to.
fn fill(
    staging: &Path,
    source: &Path,
    run: &RunRow,
    is_merged: bool,
    base_model: &str,
    recorded: &str,
) -> Result<Option<String>, Failure> {
    if is_merged {
        let manifest = peft::merge(Path::new(&run.model), source, ExportDtype::Source, staging)?;
        fs::remove_file(staging.join(MANIFEST)).map_err(io("remove", staging))?;
        without_folders(staging, base_model)?;
        return Ok(Some(manifest.digest));
    }
    for entry in fs::read_dir(source).map_err(io("read", source))? {
        let path = entry.map_err(io("read", source))?.path();
        let name = file_name(&path).unwrap_or_default();
        if path.is_file() && name != MANIFEST && name != CARD && !name.starts_with('.') {
            fs::copy(&path, staging.join(&name)).map_err(io("copy", &path))?;
        }
    }
    without_folders(staging, base_model)?;
    if !staging.join("adapter_config.json").exists() {
        // What was copied, read again: neither the original nor the copy is damaged.
        let found = digest_of_folder(staging)?;
        if found != recorded {
            let (dir, recorded) = (source.to_owned(), recorded.to_owned());
            return Err(ExportError::OtherWeights { dir, found, recorded }.into());
        }
    }
    Ok(None)
}

/// Calls the base model by its name where a file names a folder of this machine.
fn without_folders(model: &Path, base_model: &str) -> Result<(), Failure> {
    for (file, key) in [
        ("config.json", "_name_or_path"),
        ("tokenizer_config.json", "name_or_path"),
        ("adapter_config.json", "base_model_name_or_path"),
    ] {
        let path = model.join(file);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let mut config: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| TrainerError::malformed(&path, error.to_string()))?;
        if let Some(name) = config.get_mut(key)
            && name.as_str().is_some_and(|name| !is_published(name))
        {
            *name = base_model.into();
            fs::write(&path, format!("{config:#}\n")).map_err(io("write", &path))?;
        }
    }
    Ok(())
}

/// `ORGANISATION/NAME`, as models are called on the hub, and no folder.
fn is_published(name: &str) -> bool {
    name.split('/').count() == 2 && !name.starts_with(['.', '/', '~']) && !name.contains('\\')
}

/// Moves what was made to its place.
fn publish(staging: &Path, out: &Path, card: &str) -> Result<(), Failure> {
    folder::publish(out, |partial| {
        for entry in fs::read_dir(staging).map_err(TrainerError::read(staging))? {
            let path = entry.map_err(TrainerError::read(staging))?.path();
            let target = partial.join(path.file_name().unwrap_or_default());
            let file = fs::File::open(&path).map_err(TrainerError::read(&path))?;
            file.sync_all().and_then(|()| fs::rename(&path, &target)).map_err(TrainerError::write(&target))?;
        }
        let path = partial.join(CARD);
        let written = fs::File::create(&path).and_then(|mut file| {
            file.write_all(card.as_bytes())?;
            file.sync_all()
        });
        written.map_err(TrainerError::write(&path))
    })?;
    Ok(())
}

/// Writes the card of every version of a run's weights that is kept, in its folder. Cards that are there stay, but for that
/// of the newest version, of which more may be known now.
///
/// # Errors
/// The database cannot be read or a card not written.
pub(super) async fn write_cards(home: &Path, run: RunId) -> Result<(), Failure> {
    // Somebody may have begun to go on with the run, who may remove what is written into here.
    let _lock = FolderLock::acquire(home)?;
    let reader = Reader::open(&database(home)).await?;
    let Some(row) = reader.run(run).await? else { return Ok(()) };
    let versions: BTreeMap<WeightVersion, PathBuf> = reader
        .weight_history(run)
        .await?
        .iter()
        .filter(|weights| weights.is_confirmed)
        .filter_map(|weights| Some((weights.weight_version, weights_folder(weights, &row, home)?)))
        .collect();
    let newest = versions.keys().last().copied();
    let lacking = |(version, dir): &(&WeightVersion, &PathBuf)| Some(**version) == newest || !dir.join(CARD).exists();
    let lacking: Vec<_> = versions.iter().filter(lacking).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let facts = CardSource::read(&reader, row.clone()).await?;
    for (version, dir) in lacking {
        let origin = origin(&row, dir, format!("{}-{version}", row.name));
        let text = card_text(&facts.card(*version, origin, &[]).await?);
        let (path, temporary) = (dir.join(CARD), dir.join(format!(".{CARD}.tmp")));
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)).map_err(io("write", &path))?;
    }
    Ok(())
}

/// What the folders of the weights and of the model that they come from say.
fn origin(run: &RunRow, weights: &Path, name: String) -> Origin {
    let base = Path::new(&run.model);
    let header = header(&base.join(CARD));
    let config = fs::read_to_string(base.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
    let base_model = config.get("_name_or_path").and_then(serde_json::Value::as_str);
    let base_model = base_model.filter(|name| is_published(name));
    let own = header.get("license_name").zip(header.get("license_link"));
    Origin {
        name,
        base_model: base_model.map(str::to_owned).or_else(|| file_name(base)).unwrap_or_else(|| "unknown".to_owned()),
        license: header.get("license").cloned(),
        license_other: own.map(|(name, link)| (name.clone(), link.clone())),
        is_adapter: weights.join("adapter_config.json").is_file(),
        merged_digest: None,
    }
}

/// The plain keys in the YAML header of a card; empty where there is none.
fn header(card: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(card).unwrap_or_default();
    let Some((header, _)) = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")) else {
        return BTreeMap::new();
    };
    let pairs =
        header.lines().filter(|line| !line.starts_with([' ', '-', '#'])).filter_map(|line| line.split_once(':'));
    let value = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    pairs.map(|(key, text)| (key.trim().to_owned(), value(text))).filter(|(_, value)| !value.is_empty()).collect()
}

fn file_name(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok().or_else(|| std::path::absolute(path).ok())?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}
