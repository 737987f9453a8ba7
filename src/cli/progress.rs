//! What a person sees of a run: a bar for the step in progress and one line per finished step, on stderr.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::run::{Event, StepSummary};

/// Draws the events of a run. On a terminal a live bar, elsewhere only the lines.
#[derive(Debug)]
pub struct Progress {
    draw: MultiProgress,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bar: Option<ProgressBar>,
    steps: u64,
    trees: u64,
    solved: u64,
    tokens: usize,
    search_started: Instant,
}

impl Progress {
    /// Progress of a run of `steps` steps.
    pub fn new(steps: u32) -> Progress {
        Progress {
            draw: MultiProgress::new(),
            state: Mutex::new(State {
                bar: None,
                steps: u64::from(steps),
                trees: 0,
                solved: 0,
                tokens: 0,
                search_started: Instant::now(),
            }),
        }
    }

    /// Runs `write` while the bar is out of the way.
    pub fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        self.draw.suspend(write)
    }

    /// Draws one event.
    pub fn on(&self, event: Event) {
        // A poisoned lock means another drawing call panicked; the figures are still good enough to draw.
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::Starting(what) => {
                let bar = state.spinner(&self.draw);
                bar.set_message(format!("{what} ..."));
                drop(state);
                self.line(&what);
            }
            Event::Ready { elapsed, max_sequences } => {
                state.clear();
                drop(state);
                self.line(&format!("ready in {}, up to {max_sequences} sequences in flight", seconds(elapsed)));
            }
            Event::SearchStarted { step, trees, weight_version } => {
                state.clear();
                state.trees = 0;
                state.solved = 0;
                state.tokens = 0;
                state.search_started = Instant::now();
                let bar = self.draw.add(ProgressBar::new(trees as u64));
                bar.set_style(style("{prefix} [{bar:24}] {pos}/{len} trees {msg} {elapsed}"));
                bar.set_prefix(format!("step {step}/{} search v{weight_version}", state.steps));
                bar.enable_steady_tick(Duration::from_millis(200));
                state.bar = Some(bar);
            }
            Event::Expanded { tokens } => {
                state.tokens += tokens;
                state.describe();
            }
            Event::TreeFinished { solved, .. } => {
                state.trees += 1;
                state.solved += u64::from(solved);
                state.describe();
                if let Some(bar) = &state.bar {
                    bar.set_position(state.trees);
                }
            }
            Event::UpdateStarted { step } => {
                let steps = state.steps;
                state.spinner(&self.draw).set_message(format!("step {step}/{steps} update"));
            }
            Event::PublishStarted { step, weight_version } => {
                let steps = state.steps;
                state.spinner(&self.draw).set_message(format!("step {step}/{steps} reload v{weight_version}"));
            }
            Event::StepFinished(summary) => {
                state.clear();
                let steps = state.steps;
                drop(state);
                self.line(&step_line(&summary, steps));
            }
            Event::Warning(text) => {
                drop(state);
                self.line(&format!("warning: {text}"));
            }
        }
    }

    /// Removes the bar, for the end of the run.
    pub fn finish(&self) {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    fn line(&self, text: &str) {
        self.suspend(|| super::Printer::new().note(text));
    }
}

impl State {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn spinner(&mut self, draw: &MultiProgress) -> &ProgressBar {
        self.clear();
        let bar = draw.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg} {elapsed}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar.insert(bar)
    }

    fn describe(&self) {
        if let Some(bar) = &self.bar {
            let rate = self.tokens as f64 / self.search_started.elapsed().as_secs_f64().max(1e-9);
            let solved = if self.trees == 0 {
                "-".to_owned()
            } else {
                format!("{:.0} %", 100.0 * self.solved as f64 / self.trees as f64)
            };
            bar.set_message(format!("| {rate:.0} tokens/s | solved {solved} |"));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; should one be malformed, the plain style still shows progress.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// One line per step, the same columns every time so that lines compare by eye.
fn step_line(s: &StepSummary, steps: u64) -> String {
    let optional = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    format!(
        "step {:>3}/{steps}  solved {:>3}/{:<3}  pass {:>5.1} %  reward {:+.3}  {:>6} tokens at {:>5.0}/s  loss {}  grad {}  \
         ratio {}  search {} train {} publish {}  -> v{}",
        s.step,
        s.solved_trees,
        s.trees,
        100.0 * s.terminal_pass_frac,
        s.mean_reward,
        s.generated_tokens,
        s.tokens_per_s(),
        optional(s.loss, 4),
        optional(s.grad_norm, 3),
        optional(s.engine_ratio_mean, 4),
        seconds(s.search),
        seconds(s.train),
        seconds(s.publish),
        s.weight_version,
    )
}
