//! What a person sees of a run: a bar for the step in progress and one line per finished step, on stderr.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::run::{Evaluation, Event, StepSummary};
use crate::types::{StepId, Verdict, WeightVersion};

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
    /// Problems that are finished.
    finished: u64,
    /// Searches that are not over. Of those that run side by side the oldest is shown.
    searches: BTreeMap<StepId, Search>,
    /// The one that the bar is of.
    shown: Option<StepId>,
    /// Something else is shown, that the run waits for.
    is_busy: bool,
    tokens: usize,
    /// Since when these are counted.
    since: Instant,
    /// What a benchmark knows so far.
    sampling: Option<Sampling>,
}

/// The search of one step.
#[derive(Debug)]
struct Search {
    trees: usize,
    weight_version: WeightVersion,
    finished: u64,
    solved: u64,
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
                searches: BTreeMap::new(),
                shown: None,
                is_busy: false,
                tokens: 0,
                since: Instant::now(),
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
                state.go_on(&self.draw);
                drop(state);
                self.line(&evaluation_line(&evaluation));
            }
            Event::SearchStarted { step, trees, weight_version } => {
                state.searches.insert(step, Search { trees, weight_version, finished: 0, solved: 0 });
                if !state.is_busy {
                    state.show_search(&self.draw);
                }
            }
            Event::Expanded { tokens } => {
                state.tokens += tokens;
                state.describe();
            }
            Event::TreeFinished { step, solved, .. } => {
                if let Some(search) = state.searches.get_mut(&step) {
                    search.finished += 1;
                    search.solved += u64::from(solved);
                }
                state.show();
            }
            Event::UpdateStarted { step } => {
                let steps = state.steps;
                state.searches.remove(&step);
                state.spinner(&self.draw).set_message(format!("step {step}/{steps} update"));
            }
            Event::PublishStarted { step, weight_version } => {
                let steps = state.steps;
                state.spinner(&self.draw).set_message(format!("step {step}/{steps} reload v{weight_version}"));
            }
            Event::StepFinished(summary) => {
                state.go_on(&self.draw);
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
        (self.shown, self.is_busy) = (None, false);
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// What was waited for is over: a search may be under way.
    fn go_on(&mut self, draw: &MultiProgress) {
        self.clear();
        self.show_search(draw);
    }

    fn spinner(&mut self, draw: &MultiProgress) -> &ProgressBar {
        self.clear();
        self.is_busy = true;
        let bar = draw.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg} {elapsed}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar.insert(bar)
    }

    /// The oldest search, unless it is shown already.
    fn show_search(&mut self, draw: &MultiProgress) {
        let Some((&step, search)) = self.searches.first_key_value() else { return };
        if self.shown == Some(step) {
            return;
        }
        let what = format!("step {step}/{} search v{}", self.steps, search.weight_version);
        let trees = search.trees;
        self.count(draw, trees, &what, "trees");
        self.shown = Some(step);
        self.show();
    }

    /// A bar that counts to `total`.
    fn count(&mut self, draw: &MultiProgress, total: usize, what: &str, unit: &str) {
        self.clear();
        (self.finished, self.tokens) = (0, 0);
        self.since = Instant::now();
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

    fn search(&self) -> Option<&Search> {
        self.searches.get(&self.shown?)
    }

    fn show(&mut self) {
        self.describe();
        let Some(bar) = self.bar.as_ref().filter(|_| !self.is_busy) else { return };
        let finished = self.search().map_or(self.finished, |search| search.finished);
        // A step may draw further problems.
        bar.set_length(finished.max(bar.length().unwrap_or(0)));
        bar.set_position(finished);
    }

    fn describe(&self) {
        let Some(bar) = self.bar.as_ref().filter(|_| !self.is_busy) else { return };
        let elapsed = self.since.elapsed();
        let rate = self.tokens as f64 / elapsed.as_secs_f64().max(1e-9);
        let solved = match (&self.sampling, self.search()) {
            (Some(sampling), _) => sampling.describe(elapsed),
            (None, Some(search)) if search.finished > 0 => {
                format!(" solved {:.0} % |", 100.0 * search.solved as f64 / search.finished as f64)
            }
            _ => String::new(),
        };
        bar.set_message(format!("| {rate:.0} tokens/s |{solved}"));
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
    use crate::types::RoundId;

    fn finished(step: i64) -> Event {
        Event::TreeFinished { step: StepId(step), solved: true, verdicts: Vec::new() }
    }

    fn started(step: i64, trees: usize) -> Event {
        Event::SearchStarted { step: StepId(step), trees, weight_version: WeightVersion(3) }
    }

    fn summary(step: i64) -> StepSummary {
        StepSummary {
            round: RoundId(1),
            step: StepId(step),
            trees: 3,
            solved_trees: 0,
            failed_trees: 0,
            replays: 0,
            tokens_saved: 0.0,
            cached_trajectories: 0,
            defective_trajectories: 0,
            trajectories: 0,
            distinct_trajectories: 0,
            terminal_pass_frac: 0.0,
            mean_reward: 0.0,
            generated_tokens: 0,
            search: Duration::ZERO,
            train: Duration::ZERO,
            publish: Duration::ZERO,
            wall: Duration::ZERO,
            generating: Duration::ZERO,
            loss: None,
            grad_norm: None,
            engine_ratio_mean: None,
            groups_skipped: 0,
            is_diverged: false,
            search_version: WeightVersion(3),
            weight_version: WeightVersion(4),
        }
    }

    #[test]
    fn trees_count_for_the_step_that_they_belong_to() {
        let progress = Progress::new(9);
        let shown = || {
            let state = progress.state.lock().unwrap();
            let bar = state.bar.as_ref().unwrap();
            (bar.prefix(), bar.position(), bar.length())
        };
        let of = |step: i64, at: u64, len: u64| (format!("step {step}/9 search v3"), at, Some(len));
        [started(4, 3), finished(4), started(5, 2), finished(5), finished(4)].into_iter().for_each(|e| progress.on(e));
        assert_eq!(shown(), of(4, 2, 3), "the tail of the older search is what is waited for");
        progress.on(finished(4));
        progress.on(finished(4));
        assert_eq!(shown(), of(4, 4, 4), "a further problem was drawn");
        progress.on(Event::UpdateStarted { step: StepId(4) });
        for event in [finished(5), started(6, 7), Event::Expanded { tokens: 5 }] {
            progress.on(event);
        }
        let message = progress.state.lock().unwrap().bar.as_ref().unwrap().message();
        assert_eq!(message, "step 4/9 update", "searches beside it do not get in its way");
        progress.on(Event::StepFinished(Box::new(summary(4))));
        assert_eq!(shown(), of(5, 2, 2), "with what ended meanwhile");
    }

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
