//! Rounds, kept solutions and measurements, and the views about them.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;

use orchestrator::config::Algorithm;
use orchestrator::store::{
    FilteredProblem, ImportCounts, ImportedSolution, NewEvaluation, NewRound, NewSlot, NewStep, NewTree, RoundReason,
    RoundStatus, SolutionFilter, StepEnd, Store, StoreError, TrajectoryRow,
};
use orchestrator::types::{
    Defect, ProblemId, Provenance, RoundId, RunId, SolutionId, StepId, TreeKind, Verdict, WeightVersion,
};
use support::*;

fn imported(tokens: &[u32]) -> ImportedSolution {
    ImportedSolution {
        problem: new_problem("add-2", "What is 2 + 2?", "4"),
        tokens: tokens.to_vec(),
        logprobs: vec![f32::NAN; tokens.len()],
        text: "four: \\boxed{4}".into(),
        answer: "4".into(),
    }
}

/// A run with version 0 and three problems.
async fn begun(store: &Store) -> (RunId, Vec<ProblemId>) {
    let run = store.create_run(new_run()).await.unwrap();
    store.record_weight_version(new_weights(run, 0)).await.unwrap();
    let problems = ["a", "b", "c"].map(|name| new_problem(name, "1 + 1", "2"));
    (run, store.insert_problems(problems.to_vec()).await.unwrap())
}

fn new_round(run: RunId, candidates: &[ProblemId]) -> NewRound {
    NewRound {
        run,
        round: RoundId(1),
        weight_version: WeightVersion(0),
        first_step: StepId(1),
        last_step: StepId(4),
        candidates: candidates.to_vec(),
    }
}

#[tokio::test]
async fn a_round_is_begun_filtered_trained_and_finished() {
    let (_folder, store) = fresh().await;
    let (run, problems) = begun(&store).await;
    let reader = store.reader();
    let round = RoundId(1);
    let order = [problems[2], problems[0], problems[1], problems[2]];
    for _ in 0..2 {
        store.begin_round(new_round(run, &order)).await.unwrap();
    }
    let conflict = store.begin_round(new_round(run, &problems)).await.unwrap_err();
    assert!(matches!(conflict, StoreError::Conflict { .. }), "another order is another plan: {conflict}");
    let later = NewRound { last_step: StepId(5), ..new_round(run, &order) };
    let conflict = store.begin_round(later).await.unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "round `1` of run `1` is recorded as `3 problems, steps 1 to 4, filtered with weight version 0`, \
         now it is given as `3 problems, steps 1 to 5, filtered with weight version 0`"
    );

    let row = reader.rounds(run).await.unwrap().remove(0);
    assert_eq!((row.status, row.candidate_count, row.filtered_at_ms), (RoundStatus::Filtering, 3, None));
    let early = store.finish_round(run, round).await.unwrap_err();
    assert!(matches!(early, StoreError::Conflict { .. }), "{early}");
    let unknown = reader.round_problems(run, round).await.unwrap();
    assert_eq!(unknown.iter().map(|row| row.problem_id).collect::<Vec<_>>(), order[..3]);
    assert!(unknown.iter().all(|row| (row.sample_count, row.is_hard, row.has_solution) == (None, None, None)));

    let hard = FilteredProblem {
        solutions: vec![new_solution(&[7, 8]), new_solution(&[7, 8]), new_solution(&[9])],
        ..filtered(problems[0], 1, RoundReason::Hard)
    };
    let undecided = FilteredProblem { errors: 4, ..filtered(problems[1], 0, RoundReason::Undecided) };
    let stranger = filtered(ProblemId(99), 1, RoundReason::Hard);
    let refused = store.record_filtered(run, round, vec![hard.clone(), stranger]).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotFound { what: "candidate", .. }), "{refused}");
    assert_eq!(reader.cached_solutions(run, problems[0]).await.unwrap(), [], "nothing of it was kept");
    store.record_filtered(run, round, vec![hard.clone(), undecided]).await.unwrap();
    store.record_filtered(run, round, vec![hard.clone()]).await.unwrap();
    let other = FilteredProblem { correct: 2, ..hard.clone() };
    let conflict = store.record_filtered(run, round, vec![other]).await.unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "problem `1` in round `1` of run `1` is recorded as `hard: 1 of 4 correct, 0 errors`, \
         now it is given as `hard: 2 of 4 correct, 0 errors`"
    );
    store.record_filtered(run, round, vec![filtered(problems[2], 2, RoundReason::Easy)]).await.unwrap();
    let kept = reader.cached_solutions(run, problems[0]).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|row| (row.tokens.clone(), row.tree_id, row.provenance)).collect();
    assert_eq!(kept, [(vec![7, 8], None, Provenance::Rollout), (vec![9], None, Provenance::Rollout)]);

    for _ in 0..2 {
        store.begin_training(run, round).await.unwrap();
    }
    let late = store.record_filtered(run, round, vec![hard]).await.unwrap_err();
    assert!(matches!(late, StoreError::Conflict { .. }), "{late}");
    let rows = reader.round_problems(run, round).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.problem_id, row.reason, row.is_hard, row.has_solution)).collect();
    let expected = [
        (problems[2], Some(RoundReason::Easy), Some(false), Some(false)),
        (problems[0], Some(RoundReason::Hard), Some(true), Some(true)),
        (problems[1], Some(RoundReason::Undecided), Some(false), Some(false)),
    ];
    assert_eq!(rows, expected);
    let summary = reader.round_summary(run).await.unwrap().remove(0);
    assert_eq!((summary.undecided_count, summary.pass_rate_mean), (1, Some(0.375)), "errors are no wrong answers");

    for _ in 0..2 {
        store.finish_round(run, round).await.unwrap();
    }
    store.begin_training(run, round).await.unwrap();
    let row = reader.rounds(run).await.unwrap().remove(0);
    assert_eq!(row.status, RoundStatus::Done);
    assert!(row.filtered_at_ms.is_some() && row.ended_at_ms.is_some());

    // More steps: the round goes on; as many as before, or fewer, change nothing.
    for last in [3, 4] {
        store.reopen_round(run, round, StepId(last)).await.unwrap();
        assert_eq!(reader.rounds(run).await.unwrap(), std::slice::from_ref(&row));
    }
    for _ in 0..2 {
        store.reopen_round(run, round, StepId(6)).await.unwrap();
        let longer = reader.rounds(run).await.unwrap().remove(0);
        assert_eq!((longer.status, longer.last_step_id, longer.ended_at_ms), (RoundStatus::Training, StepId(6), None));
        assert_eq!(longer.filtered_at_ms, row.filtered_at_ms);
    }
    // Fewer steps than are to come: the round ends sooner, but not before its last finished step.
    let skipped = StepEnd { update_skip_reason: Some("no signal".into()), ..StepEnd::default() };
    for step in 1..=3 {
        let plan = NewStep { search_weight_version: WeightVersion(0), ..new_step(run, step, &problems) };
        store.begin_step(plan).await.unwrap();
        if step < 3 {
            store.finish_step(run, StepId(step), skipped.clone(), Vec::new()).await.unwrap();
        }
    }
    for (asked, last) in [(5, 5), (3, 3), (1, 2), (6, 6), (2, 2)] {
        store.reopen_round(run, round, StepId(asked)).await.unwrap();
        let row = reader.rounds(run).await.unwrap().remove(0);
        assert_eq!((row.status, row.last_step_id), (RoundStatus::Training, StepId(last)), "asked for {asked}");
    }
    store.finish_round(run, round).await.unwrap();
    let unknown = store.reopen_round(run, RoundId(2), StepId(6)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "round", .. })));
    assert!(matches!(store.begin_training(run, RoundId(2)).await, Err(StoreError::NotFound { what: "round", .. })));
}

#[tokio::test]
async fn a_round_without_a_filter_takes_all() {
    let (_folder, store) = fresh().await;
    let (run, problems) = begun(&store).await;
    let nothing = NewRound { first_step: StepId(3), last_step: StepId(2), ..new_round(run, &problems) };
    store.begin_round(nothing).await.unwrap();
    let all = |problem: &ProblemId| FilteredProblem {
        samples: 0,
        generated_tokens: 0,
        ..filtered(*problem, 0, RoundReason::All)
    };
    store.record_filtered(run, RoundId(1), problems.iter().map(all).collect()).await.unwrap();
    store.begin_training(run, RoundId(1)).await.unwrap();
    let rows = store.reader().round_problems(run, RoundId(1)).await.unwrap();
    assert!(rows.iter().all(|row| row.is_hard == Some(true) && row.sample_count == Some(0)));
    let summary = store.reader().round_summary(run).await.unwrap().remove(0);
    assert_eq!((summary.hard_count, summary.unsolved_count, summary.pass_rate_mean), (3, 3, None));
}

#[tokio::test]
async fn imported_solutions_are_every_runs_and_kept_once() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();
    let counts = store.import_solutions(vec![imported(&[1, 2]), imported(&[3]), imported(&[1, 2])]).await.unwrap();
    assert_eq!(counts, ImportCounts { added: 2, known: 1 });
    assert_eq!(store.import_solutions(vec![imported(&[3])]).await.unwrap(), ImportCounts { added: 0, known: 1 });
    let empty = store.import_solutions(vec![imported(&[4]), imported(&[])]).await.unwrap_err();
    assert_eq!(empty.to_string(), "the database refused a row by `solution_tokens_whole`");

    let second = store.create_run(new_run()).await.unwrap();
    for run in [made.run, second] {
        let rows = reader.cached_solutions(run, made.problems[1]).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>(), [vec![1, 2], vec![3]]);
        let first = &rows[0];
        assert_eq!((first.run_id, first.tree_id, first.weight_version), (None, None, None));
        assert_eq!(first.provenance, Provenance::Imported);
        assert!(first.logprobs.iter().all(|logprob| logprob.is_nan()));
    }
    // What one run found is not the other's, and each may find it for itself.
    assert_eq!(reader.cached_solutions(second, made.problems[0]).await.unwrap(), []);
    let counts = |pairs: &[(usize, u32)]| -> BTreeMap<ProblemId, u32> {
        pairs.iter().map(|(index, count)| (made.problems[*index], *count)).collect()
    };
    assert_eq!(reader.solution_counts(made.run).await.unwrap(), counts(&[(0, 1), (1, 2), (2, 1)]));
    assert_eq!(reader.solution_counts(second).await.unwrap(), counts(&[(1, 2)]));
    store.record_weight_version(new_weights(second, 0)).await.unwrap();
    store.begin_step(new_step(second, 1, &made.problems[..1])).await.unwrap();
    let tree = new_tree(second, 1, 0, made.problems[0]);
    store.record_tree(tree, vec![root()], vec![], vec![new_solution(&[11, 12])]).await.unwrap();
    assert_eq!(reader.solution_counts(second).await.unwrap(), counts(&[(0, 1), (1, 2)]));

    let list = async |filter: SolutionFilter| reader.all_solutions(filter).await.unwrap().len();
    assert_eq!(list(SolutionFilter::default()).await, 5);
    assert_eq!(list(SolutionFilter { run: Some(made.run), problem: None }).await, 2);
    assert_eq!(list(SolutionFilter { run: None, problem: Some(made.problems[0]) }).await, 2);
    assert_eq!(list(SolutionFilter { run: Some(second), problem: Some(made.problems[1]) }).await, 0);
}

#[tokio::test]
async fn a_measurement_is_recorded_once() {
    let (_folder, store) = fresh().await;
    let (run, problems) = begun(&store).await;
    let figures = [(problems[0], 4), (problems[1], 0), (problems[2], 1)];
    store.record_evaluation(new_evaluation(run, 0, &figures)).await.unwrap();
    store.record_evaluation(new_evaluation(run, 0, &[(problems[0], 2)])).await.unwrap();
    let row = store.reader().evaluations(run).await.unwrap().remove(0);
    assert_eq!((row.problem_count, row.sample_count, row.correct_count, row.no_answer_count), (3, 4, 5, 3));
    assert_eq!((row.pass_at_1, row.pass_at_k), (Some(5.0 / 12.0), Some(2.0 / 3.0)));
    assert_eq!(row.refused_count, 1);
    let more = NewEvaluation { refused: 2, ..new_evaluation(run, 1, &figures[..1]) };
    let impossible = store.record_evaluation(more).await.unwrap_err();
    assert_eq!(impossible.to_string(), "the database refused a row by `evaluation_refused_among_problems`");
    let impossible = store.record_evaluation(new_evaluation(run, 1, &[(problems[0], 9)])).await.unwrap_err();
    assert!(matches!(impossible, StoreError::Refused { .. }), "{impossible}");
}

#[tokio::test]
async fn views_give_the_figures_of_the_fixture() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();

    let round = reader.round_summary(made.run).await.unwrap().remove(0);
    assert_eq!(round.status, RoundStatus::Training);
    assert_eq!((round.candidate_count, round.measured_count), (4, 4));
    assert_eq!((round.hard_count, round.easy_count, round.undecided_count), (3, 1, 0));
    assert_eq!((round.cached_count, round.unsolved_count), (1, 2));
    assert_eq!((round.searched_count, round.skipped_count, round.solved_count), (3, 1, 1));
    assert_eq!((round.search_tree_count, round.replay_tree_count, round.rollout_count), (3, 1, 0));
    assert_eq!((round.pass_rate_mean, round.generated_tokens), (Some(0.375), 400));

    let bad = reader.bad_outputs(made.run, 10).await.unwrap();
    assert_eq!(bad.len(), 1);
    assert_eq!((bad[0].defect, bad[0].verdict, bad[0].tree_id), (Defect::Garbled, Verdict::Incorrect, made.trees[1]));
    assert_eq!((bad[0].problem.as_str(), bad[0].response.as_str()), ("What is 2 + 2?", "\\boxed{5}"));

    let curve = reader.learning_curve(made.run).await.unwrap();
    let figures: Vec<_> = curve.iter().map(|p| (p.step_id.0, p.pass_at_1, p.generated_tokens)).collect();
    assert_eq!(figures, [(0, Some(0.125), 0), (1, Some(0.375), 450)], "the filter counts once its round has begun");
    assert_eq!((curve[1].trained_tokens, curve[1].search_s, curve[1].train_s), (35, 0.5, 0.3));
    assert_eq!((curve[1].algorithm, curve[1].name.as_str()), (Algorithm::Deepsearch, "fixture"));
    assert_eq!(curve.iter().map(|p| (p.wall_s, p.refused_count)).collect::<Vec<_>>(), [(0.0, 1), (1.25, 1)]);

    let other = new_run();
    store.create_run(orchestrator::store::NewRun { algorithm: Algorithm::Dapo, ..other }).await.unwrap();
    let runs = reader.run_comparison().await.unwrap();
    assert_eq!((runs[0].steps_done, runs[0].best_step_id), (2, Some(StepId(1))));
    assert_eq!((runs[0].first_pass_at_1, runs[0].last_pass_at_1), (Some(0.125), Some(0.375)));
    assert_eq!((runs[0].best_pass_at_1, runs[0].generated_tokens, runs[0].trained_tokens), (Some(0.375), 474, 35));
    assert_eq!((runs[1].algorithm, runs[1].steps_done, runs[1].best_pass_at_1), (Algorithm::Dapo, 0, None));

    let steps = reader.steps(made.run).await.unwrap();
    assert_eq!(steps.iter().map(|s| (s.round_id.0, s.replay_count)).collect::<Vec<_>>(), [(1, 0), (1, 1), (1, 0)]);
}

/// A replay of two rollouts, one cached: its node carries the version of another time.
#[tokio::test]
async fn a_replay_is_accounted_and_its_cached_nodes_are_nobodys_weights() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let reader = store.reader();
    store.import_solutions(vec![imported(&[1, 2])]).await.unwrap();
    let cached: SolutionId = reader.cached_solutions(made.run, made.problems[1]).await.unwrap()[0].solution_id;
    let slot = NewSlot { kind: TreeKind::Replay, known_solutions: 1, ..new_slot(9, made.problems[1]) };
    store.extend_step(made.run, StepId(3), vec![slot]).await.unwrap();

    // Version 77 was never recorded by this run.
    let nodes = vec![
        root(),
        judged(node(1, &root(), "0.1", 4, "\\boxed{5}", 1), Verdict::Incorrect, -1.0),
        judged(node(2, &root(), "0.2", 2, "\\boxed{4}", 77), Verdict::Correct, 1.0),
    ];
    let old = TrajectoryRow {
        provenance: Provenance::Cached,
        solution: Some(cached),
        ..trajectory(&[2], Verdict::Correct, 0.1, 2)
    };
    let own = TrajectoryRow { provenance: Provenance::Rollout, ..trajectory(&[1], Verdict::Incorrect, 0.2, 4) };
    let tree = NewTree { kind: TreeKind::Replay, generated_tokens: 8, ..new_tree(made.run, 3, 9, made.problems[1]) };
    let id = store.record_tree(tree, nodes, vec![own, old.clone()], vec![]).await.unwrap();
    let row = reader.tree(id).await.unwrap().unwrap();
    assert_eq!((row.kind, row.round_id), (TreeKind::Replay, RoundId(1)));
    assert_eq!((row.weight_version_min, row.weight_version_max), (Some(WeightVersion(1)), Some(WeightVersion(1))));
    assert!(!row.is_solved, "only the kept solution is correct");
    assert_eq!(reader.trajectories(id).await.unwrap()[1], old);

    let only_cached = vec![root(), judged(node(1, &root(), "0.1", 2, "x", 77), Verdict::Correct, 1.0)];
    let path = TrajectoryRow { provenance: Provenance::Cached, ..trajectory(&[1], Verdict::Correct, 0.1, 2) };
    let tree = NewTree { kind: TreeKind::Replay, generated_tokens: 0, ..new_tree(made.run, 3, 8, made.problems[1]) };
    let id = store.record_tree(tree, only_cached, vec![path], vec![]).await.unwrap();
    assert_eq!(reader.tree(id).await.unwrap().unwrap().weight_version_min, None);

    let solved = reader.steps(made.run).await.unwrap();
    assert_eq!(solved.iter().map(|step| step.solved_count).collect::<Vec<_>>(), [1, 1, 0]);
    // Terminals are what was sampled, as in the step that grew them.
    let recorded = reader.recorded_trees(made.run, StepId(3)).await.unwrap();
    let terminals: Vec<_> = recorded.iter().map(|t| (t.slot, t.terminals, t.correct_terminals, t.wall_ms)).collect();
    assert_eq!(terminals, [(8, 0, 0, 1500), (9, 1, 0, 1500)]);

    // Of plain rollouts a correct one counts, and the problem counts once however often it comes.
    for slot in [10, 11] {
        let nodes = vec![root(), judged(node(1, &root(), "0.1", 2, "x", 1), Verdict::Correct, 1.0)];
        let path = TrajectoryRow { provenance: Provenance::Rollout, ..trajectory(&[1], Verdict::Correct, 0.1, 2) };
        let tree = NewTree { kind: TreeKind::Rollout, ..new_tree(made.run, 3, slot, made.problems[1]) };
        store.record_tree(tree, nodes, vec![path], vec![]).await.unwrap();
    }
    let round = reader.round_summary(made.run).await.unwrap().remove(0);
    assert_eq!((round.searched_count, round.skipped_count, round.solved_count), (3, 2, 2));
    assert_eq!((round.search_tree_count, round.replay_tree_count, round.rollout_count), (3, 3, 2));

    // Searches before step 3: 40 and 10 tokens in step 1, and one that failed. Those of step 3 itself do not count.
    store.record_tree(new_tree(made.run, 3, 12, made.problems[2]), vec![root()], vec![], vec![]).await.unwrap();
    assert_eq!(reader.mean_search_tokens(made.run, StepId(3)).await.unwrap(), Some(25.0));
    assert_eq!(reader.mean_search_tokens(made.run, StepId(1)).await.unwrap(), None);
    let used = reader.replay_use(made.run).await.unwrap();
    let counts: Vec<_> = used.iter().map(|u| (u.slot_count, u.replay_count, u.cached_count, u.replay_tokens)).collect();
    assert_eq!(counts, [(3, 0, 0, 0), (1, 1, 0, 24), (5, 2, 2, 8)]);
    assert_eq!(used[2].saved_tokens, Some(25.0 * 2.0 - 8.0));
    assert_eq!((used[0].search_tokens_mean, used[0].saved_tokens), (None, None));
}

#[tokio::test]
async fn a_step_may_end_before_another() {
    let (_folder, store) = fresh().await;
    let made = fixture(&store).await;
    let fourth = NewStep { search_weight_version: WeightVersion(1), ..new_step(made.run, 4, &made.problems) };
    store.begin_step(fourth).await.unwrap();
    let numbers = |rows: Vec<orchestrator::store::StepRow>| rows.iter().map(|row| row.step_id.0).collect::<Vec<_>>();
    assert_eq!(numbers(store.reader().unfinished_steps(made.run).await.unwrap()), [3, 4]);
    let end = StepEnd { update_skip_reason: Some("no signal".into()), ..StepEnd::default() };
    store.finish_step(made.run, StepId(3), end, vec![]).await.unwrap();
    assert_eq!(numbers(store.reader().unfinished_steps(made.run).await.unwrap()), [4]);
    assert_eq!(numbers(store.reader().done_steps(made.run).await.unwrap()), [1, 2, 3]);
}
