//! What a person sees of a run: a bar for the step in progress and one line per finished step, on stderr.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::run::{Evaluation, Event, StepSummary};
use crate::types::Verdict;

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
    /// Trees or problems that are finished.
    finished: u64,
    solved: u64,
    is_searching: bool,
    tokens: usize,
    search_started: Instant,
    /// What a benchmark knows so far.
    sampling: Option<Sampling>,
}

/// Samples of a benchmark.
#[derive(Debug, Default)]
struct Sampling {
    /// Taken by this process.
    done: usize,
    left: usize,
    settled: usize,
    correct: usize,
}

impl Sampling {
    fn judged(&mut self, verdict: Verdict) {
        self.settled += usize::from(verdict.is_settled());
        self.correct += usize::from(verdict == Verdict::Correct);
    }

    /// Share of right samples so far, and how long the others will take at the pace so far.
    fn describe(&self, elapsed: Duration) -> String {
        let share = |text: String| if self.settled > 0 { text } else { "-".to_owned() };
        let pass = share(format!("{:.1} %", 100.0 * self.correct as f64 / self.settled.max(1) as f64));
        let left = elapsed.mul_f64(self.left as f64 / self.done.max(1) as f64).as_secs();
        let eta = if self.done == 0 { "-".to_owned() } else { format!("{}:{:02}", left / 60, left % 60) };
        format!(" pass@1 {pass} | {} samples left, ETA {eta} |", self.left)
    }
}

impl Progress {
    /// Progress of a run of `steps` steps.
    pub fn new(steps: u32) -> Progress {
        Progress {
            draw: MultiProgress::new(),
            state: Mutex::new(State {
                bar: None,
                steps: u64::from(steps),
                finished: 0,
                solved: 0,
                is_searching: false,
                tokens: 0,
                search_started: Instant::now(),
                sampling: None,
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
            Event::Resumed { steps_done, checkpoint, repeated } => {
                let from = match checkpoint {
                    Some(step) => format!("the checkpoint of step {step}"),
                    None => "the model it began with".to_owned(),
                };
                drop(state);
                self.line(&format!(
                    "resumed after step {steps_done} from {from}, {repeated} updates repeated from stored trees"
                ));
            }
            Event::FilterStarted { round, problems } => {
                state.count(&self.draw, problems, &format!("round {round} filter"), "problems");
            }
            Event::Filtered => state.advance(),
            Event::RoundStarted { round, rounds, candidates, hard, cached } => {
                state.clear();
                drop(state);
                if rounds > 1 || hard < candidates {
                    self.line(&format!(
                        "round {round}/{rounds}: {hard} of {candidates} problems are hard, {cached} of them have a cached solution"
                    ));
                }
            }
            Event::EvaluationStarted { step, problems } => {
                state
                    .spinner(&self.draw)
                    .set_message(format!("measuring {problems} held-out problems after step {step}"));
            }
            Event::Evaluated(evaluation) => {
                state.clear();
                drop(state);
                self.line(&evaluation_line(&evaluation));
            }
            Event::SearchStarted { step, trees, weight_version } => {
                let what = format!("step {step}/{} search v{weight_version}", state.steps);
                state.count(&self.draw, trees, &what, "trees");
            }
            Event::Expanded { tokens } => {
                state.tokens += tokens;
                state.describe();
            }
            Event::TreeFinished { solved, .. } => {
                state.solved += u64::from(solved);
                state.is_searching = true;
                state.advance();
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
            Event::BenchmarkStarted { problems, problems_done, samples, verdicts } => {
                state.count(&self.draw, problems, "eval", "problems");
                state.finished = problems_done as u64;
                let mut sampling = Sampling { left: samples, ..Sampling::default() };
                verdicts.into_iter().for_each(|verdict| sampling.judged(verdict));
                state.sampling = Some(sampling);
                state.show();
            }
            Event::Sampled { tokens, verdict, is_last } => {
                state.tokens += tokens;
                state.finished += u64::from(is_last);
                if let Some(sampling) = &mut state.sampling {
                    sampling.judged(verdict);
                    sampling.done += 1;
                    sampling.left = sampling.left.saturating_sub(1);
                }
                state.show();
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

    /// A bar that counts to `total`.
    fn count(&mut self, draw: &MultiProgress, total: usize, what: &str, unit: &str) {
        self.clear();
        (self.finished, self.solved, self.tokens, self.is_searching) = (0, 0, 0, false);
        self.search_started = Instant::now();
        let bar = draw.add(ProgressBar::new(total as u64));
        bar.set_style(style(&format!("{{prefix}} [{{bar:24}}] {{pos}}/{{len}} {unit} {{msg}} {{elapsed}}")));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }

    fn advance(&mut self) {
        self.finished += 1;
        self.show();
    }

    fn show(&mut self) {
        self.describe();
        if let Some(bar) = &self.bar {
            bar.set_position(self.finished);
        }
    }

    fn describe(&self) {
        if let Some(bar) = &self.bar {
            let elapsed = self.search_started.elapsed();
            let rate = self.tokens as f64 / elapsed.as_secs_f64().max(1e-9);
            let solved = if let Some(sampling) = &self.sampling {
                sampling.describe(elapsed)
            } else if self.is_searching && self.finished > 0 {
                format!(" solved {:.0} % |", 100.0 * self.solved as f64 / self.finished as f64)
            } else {
                String::new()
            };
            bar.set_message(format!("| {rate:.0} tokens/s |{solved}"));
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

fn evaluation_line(e: &Evaluation) -> String {
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    format!(
        "held-out after step {}: pass@1 {}, pass@{} {} of {} problems in {}  (v{})",
        e.step,
        percent(e.pass_at_1),
        e.samples,
        percent(e.pass_at_k),
        e.problems,
        seconds(e.elapsed),
        e.weight_version,
    )
}

/// One line per step, the same columns every time so that lines compare by eye.
fn step_line(s: &StepSummary, steps: u64) -> String {
    let optional = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    format!(
        "step {:>3}/{steps}  solved {:>3}/{:<3}  cached {:<3}  pass {:>5.1} %  reward {:+.3}  {:>6} tokens at {:>5.0}/s  loss {}  grad {}  \
         ratio {}  search {} train {} publish {}  -> v{}",
        s.step,
        s.solved_trees,
        s.trees,
        s.replays,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{StepId, WeightVersion};

    #[test]
    fn a_measurement_of_which_nothing_is_known_is_not_zero() {
        let known = Evaluation {
            step: StepId(4),
            weight_version: WeightVersion(3),
            problems: 20,
            samples: 8,
            pass_at_1: Some(0.125),
            pass_at_k: Some(0.0),
            elapsed: Duration::from_millis(1500),
        };
        let line = "held-out after step 4: pass@1 12.5 %, pass@8 0.0 % of 20 problems in 1.5 s  (v3)";
        assert_eq!(evaluation_line(&known), line);
        let unknown = Evaluation { pass_at_1: None, pass_at_k: None, ..known };
        assert!(evaluation_line(&unknown).contains("pass@1 -, pass@8 - of 20 problems"));
    }
}
