//! The prompt and what was said before, loaded, answered and printed.

use std::io::{IsTerminal, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::answer::{Answer, Ended, Sampler};
use super::{Args, DeviceName, DtypeName, GenerateError};
use crate::cli::Printer;
use crate::config::{ComputeDtype, DeviceChoice, TrainConfig};
use crate::data::{ChatTemplate, DataError, Message, ModelTokenizer, pose_chat, pose_text};
use crate::error::Failure;
use crate::report::text::lines;
use crate::trainer::{GeneratorSpec, Neighbor, Trainer, TrainerSpec, Use};
use crate::types::{Sampling, TokenId};

/// Exit code where a signal called the answer off, as a shell reports SIGINT.
const INTERRUPTED: u8 = 130;

/// Context of a model whose configuration does not say it.
const UNNAMED_CONTEXT_TOKENS: usize = 4096;

/// One answer, several, or a conversation; returns the exit code.
///
/// # Errors
/// A model that cannot be used, a prompt that does not fit, output that cannot be written.
pub async fn talk(args: Args, printer: &Printer) -> Result<u8, Failure> {
    crate::data::tokenizer::refuse_adapters(&args.model)?;
    if !args.model.join("config.json").exists() {
        return Err(GenerateError::NoModel { model: args.model }.into());
    }
    let tokenizer = Arc::new(ModelTokenizer::load(&args.model)?);
    let template = if args.plain { None } else { Some(load_template(&tokenizer)?) };
    let is_conversation = args.prompt.is_none() && !args.plain && std::io::stdin().is_terminal();
    let context_tokens = tokenizer.context_tokens().unwrap_or(UNNAMED_CONTEXT_TOKENS);
    let mut talk = Talk { printer, template, context_tokens, turns: 0, messages: Vec::new(), args };
    let system = talk.args.system.take();
    talk.messages.extend(system.map(|content| Message { role: "system".to_owned(), content }));
    if is_conversation {
        let sampler = talk.load(tokenizer, context_tokens).await?;
        return talk.conversation(&sampler).await;
    }
    let prompt = match talk.args.prompt.take() {
        Some(prompt) => prompt,
        None => read_all()?,
    };
    let tokens = talk.pose(&tokenizer, prompt)?;
    let room = talk.room(&tokens)?;
    let sampler = talk.load(tokenizer, tokens.len() + room as usize).await?;
    talk.once(&sampler, &tokens, room).await
}

struct Talk<'a> {
    args: Args,
    printer: &'a Printer,
    template: Option<ChatTemplate>,
    context_tokens: usize,
    /// Answers given.
    turns: u64,
    messages: Vec<Message>,
}

impl Talk<'_> {
    async fn load(&self, tokenizer: Arc<ModelTokenizer>, most_tokens: usize) -> Result<Sampler, Failure> {
        let args = &self.args;
        let started = Instant::now();
        let config = TrainConfig {
            device: match args.device {
                DeviceName::Auto => DeviceChoice::Auto,
                DeviceName::Cpu => DeviceChoice::Cpu,
                DeviceName::Cuda => DeviceChoice::Cuda,
            },
            dtype: match args.dtype {
                DtypeName::Float32 => ComputeDtype::Float32,
                DtypeName::Bfloat16 => ComputeDtype::Bfloat16,
            },
            threads: args.threads,
            ..TrainConfig::default()
        };
        let decoder = tokenizer.clone();
        let generator = GeneratorSpec {
            max_sequences: args.samples as usize,
            cache_bytes: args.cache_mib << 20,
            max_model_tokens: most_tokens,
            end_of_text: tokenizer.end_of_text().to_vec(),
            // Only looked at for stop texts: one that cannot be decoded has none.
            decode: Arc::new(move |tokens| decoder.decode(tokens).unwrap_or_default()),
        };
        let model_dir = args.model.clone();
        // Nothing is trained: temperature and budget are those of no trajectory.
        let spec = TrainerSpec {
            config,
            model_dir,
            temperature: 1.0,
            response_budget_tokens: 1,
            generator: Some(generator),
            purpose: Use::Generation,
            seed: 0,
            neighbor: Neighbor::None,
        };
        let trainer = Trainer::spawn(spec).await?;
        self.remark(|| format!("loaded in {:.1} s", started.elapsed().as_secs_f64()));
        let sampling = Sampling { temperature: args.temperature, top_p: args.top_p, top_k: args.top_k };
        let stop = args.stop.iter().map(|stop| stop.replace("\\n", "\n")).collect();
        Ok(Sampler { trainer, tokenizer, sampling, stop, seed: args.seed })
    }

    /// The prompt with what was said before, as token ids.
    fn pose(&mut self, tokenizer: &ModelTokenizer, prompt: String) -> Result<Vec<TokenId>, Failure> {
        if prompt.trim().is_empty() {
            return Err(GenerateError::EmptyPrompt.into());
        }
        let Some(template) = &self.template else { return Ok(pose_text(tokenizer, &prompt)?) };
        self.messages.push(Message { role: "user".to_owned(), content: prompt });
        Ok(pose_chat(tokenizer, template, &self.messages)?)
    }

    /// Tokens that an answer may have.
    fn room(&self, prompt: &[TokenId]) -> Result<u32, Failure> {
        let (prompt_tokens, context_tokens) = (prompt.len(), self.context_tokens);
        if prompt_tokens >= context_tokens {
            return Err(GenerateError::PromptTooLong { prompt_tokens, context_tokens }.into());
        }
        Ok(self.args.max_tokens.min(u32::try_from(context_tokens - prompt_tokens).unwrap_or(u32::MAX)))
    }

    async fn once(&mut self, sampler: &Sampler, prompt: &[TokenId], room: u32) -> Result<u8, Failure> {
        let mut interrupt = interrupts()?;
        if self.args.samples == 1 {
            let answer = self.show(sampler, prompt, room, &mut interrupt).await?;
            return Ok(if answer.ended == Ended::Interrupted { INTERRUPTED } else { 0 });
        }
        let Some(answers) = sampler.several(prompt, room, self.args.samples, &mut interrupt).await? else {
            return Ok(INTERRUPTED);
        };
        for (number, answer) in answers.iter().enumerate() {
            self.printer.note(&format!(
                "sample {} of {}: {} tokens, {}",
                number + 1,
                answers.len(),
                answer.tokens,
                ending(answer.ended)
            ));
            if !self.printer.piece(&format!("{}\n", harmless(&answer.text)))? {
                break;
            }
        }
        let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
        let elapsed = answers.first().map_or(Duration::ZERO, |answer| answer.elapsed);
        self.remark(|| format!("{tokens} tokens in {}", pace(tokens, elapsed)));
        Ok(0)
    }

    async fn conversation(&mut self, sampler: &Sampler) -> Result<u8, Failure> {
        let mut interrupt = interrupts()?;
        loop {
            self.printer.ask("> ");
            let line = tokio::select! {
                _ = interrupt.recv() => {
                    self.printer.note("");
                    return Ok(INTERRUPTED);
                }
                line = tokio::task::spawn_blocking(read_line) => line.map_err(std::io::Error::from).flatten(),
            };
            let line = line.map_err(GenerateError::Unreadable)?;
            if line.trim().is_empty() {
                return Ok(0);
            }
            let prompt = self.pose(&sampler.tokenizer, line)?;
            let room = self.room(&prompt)?;
            let answer = self.show(sampler, &prompt, room, &mut interrupt).await?;
            self.messages.push(Message { role: "assistant".to_owned(), content: answer.text });
        }
    }

    /// One answer to stdout as it is sampled, then a line break.
    async fn show(
        &mut self,
        sampler: &Sampler,
        prompt: &[TokenId],
        room: u32,
        interrupt: &mut Signal,
    ) -> Result<Answer, Failure> {
        let printer = self.printer;
        let show = |piece: &str| Ok(printer.piece(&harmless(piece))?);
        let answer = sampler.stream(self.turns, prompt, room, interrupt, show).await?;
        self.turns += 1;
        printer.piece("\n")?;
        self.remark(|| {
            let first = answer.first.as_secs_f64();
            let (asked, tokens, pace) = (prompt.len(), answer.tokens, pace(answer.tokens, answer.elapsed));
            format!(
                "{asked} tokens asked, {tokens} answered in {pace}, the first after {first:.2} s, {}",
                ending(answer.ended)
            )
        });
        Ok(answer)
    }

    /// A line on stderr for a person who watches.
    fn remark(&self, text: impl FnOnce() -> String) {
        if self.args.verbose || std::io::stderr().is_terminal() {
            self.printer.note(&text());
        }
    }
}

fn load_template(tokenizer: &ModelTokenizer) -> Result<ChatTemplate, Failure> {
    ChatTemplate::load(tokenizer).map_err(|error| match error {
        DataError::NoChatTemplate { model } => GenerateError::NoChatTemplate { model }.into(),
        other => other.into(),
    })
}

fn interrupts() -> Result<Signal, Failure> {
    Ok(signal(SignalKind::interrupt()).map_err(GenerateError::Runtime)?)
}

/// Standard input to its end, less one line break there.
fn read_all() -> Result<String, GenerateError> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(GenerateError::Unreadable)?;
    let kept = text.strip_suffix('\n').map_or(text.len(), str::len);
    text.truncate(kept);
    Ok(text)
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// What a model wrote cannot control a terminal; a file or a pipe gets it unchanged.
fn harmless(text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    text.split('\t').map(lines).collect::<Vec<_>>().join("\t")
}

fn ending(ended: Ended) -> &'static str {
    match ended {
        Ended::Stop => "ended by itself",
        Ended::Length => "cut at the limit",
        Ended::Interrupted | Ended::Unread => "called off",
    }
}

fn pace(tokens: usize, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    format!("{seconds:.1} s ({:.0}/s)", tokens as f64 / seconds.max(1e-9))
}
