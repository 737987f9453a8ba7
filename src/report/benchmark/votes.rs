//! Which final answers of a problem are the same, by the verifier that judged them.

use std::collections::BTreeMap;

use super::statistics::Votes;
use crate::store::BenchmarkSampleRow;
use crate::types::Verdict;
use crate::verify::Verifier;

/// Comparisons of one problem's answers: enough for 64 that all differ. Beyond, only identical texts are the same.
const MOST_COMPARISONS: u32 = 4096;

/// The votes of the settled samples, and each group's answer as its first sample writes it. The right ones are one group,
/// whatever the verifier says of two of them: each equals the reference. The others are compared with each other.
pub fn count(samples: &[&BenchmarkSampleRow], verifier: &Verifier) -> (Votes, Vec<String>) {
    let mut groups: Vec<(&str, bool)> = Vec::new();
    let mut left = MOST_COMPARISONS;
    let mut known: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    let settled = samples.iter().filter(|sample| sample.verdict.is_settled());
    let votes = settled
        .map(|sample| {
            let answer = sample.answer.as_deref().filter(|_| sample.verdict != Verdict::NoAnswer)?.trim();
            let is_right = sample.verdict == Verdict::Correct;
            let group = *known.entry((is_right, answer)).or_insert_with(|| {
                let found = groups.iter().position(|&(other, is_other_right)| {
                    is_right == is_other_right && (is_right || same(verifier, answer, other, &mut left))
                });
                found.unwrap_or_else(|| {
                    groups.push((answer, is_right));
                    groups.len() - 1
                })
            });
            Some(group)
        })
        .collect();
    let (answers, is_right) = groups.into_iter().map(|(answer, is_right)| (answer.to_owned(), is_right)).unzip();
    (Votes { votes, is_right }, answers)
}

/// Equal whichever of the two is taken for the reference. An answer may be right where another is the reference and not the
/// other way round: `8 %` answers 8, but not every 8 is 8 %.
fn same(verifier: &Verifier, a: &str, b: &str, left: &mut u32) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    let is_right = |answer, reference| verifier.compare(answer, reference).0 == Verdict::Correct;
    is_right(a, b) && is_right(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FinishReason;

    fn sample(number: u32, verdict: Verdict, answer: Option<&str>) -> BenchmarkSampleRow {
        BenchmarkSampleRow {
            file_id: 1,
            ordinal: 0,
            sample: number,
            token_count: 5,
            finish_reason: FinishReason::Stop,
            verdict,
            answer: answer.map(str::to_owned),
        }
    }

    #[test]
    fn equal_answers_vote_together_and_unsettled_or_missing_ones_do_not() {
        let samples = [
            sample(0, Verdict::Incorrect, Some("3")),
            sample(1, Verdict::Correct, Some("\\frac{1}{2}")),
            sample(2, Verdict::Undecided, Some("3")),
            sample(3, Verdict::NoAnswer, None),
            sample(4, Verdict::Correct, Some(" 0.5")),
            sample(5, Verdict::NoAnswer, Some("")),
            sample(6, Verdict::Error, None),
        ];
        let (votes, answers) = count(&samples.iter().collect::<Vec<_>>(), &Verifier::default());
        assert_eq!(votes.votes, [Some(0), Some(1), None, Some(1), None]);
        assert_eq!(votes.is_right, [false, true]);
        assert_eq!(answers, ["3", "\\frac{1}{2}"]);
        assert_eq!(votes.winner(), Some(1));
    }

    #[test]
    fn what_equals_the_reference_is_one_group_and_holds_nothing_else() {
        // Right for the reference `8 %` each, but not for each other; and one that was not judged right.
        let samples = [
            sample(0, Verdict::Incorrect, Some("9")),
            sample(1, Verdict::Correct, Some("8")),
            sample(2, Verdict::Correct, Some("8 \\%")),
            sample(3, Verdict::Incorrect, Some("8")),
            sample(4, Verdict::Correct, Some("no verifier reads this")),
            sample(5, Verdict::Incorrect, Some("9.0")),
        ];
        let (votes, answers) = count(&samples.iter().collect::<Vec<_>>(), &Verifier::default());
        assert_eq!(votes.votes, [Some(0), Some(1), Some(1), Some(2), Some(1), Some(0)]);
        assert_eq!(votes.is_right, [false, true, false]);
        assert_eq!(answers, ["9", "8", "8"]);
        assert_eq!(votes.winner(), Some(1));
    }

    #[test]
    fn comparisons_are_bounded() {
        let samples: Vec<_> =
            (0..400).map(|number| sample(number, Verdict::Incorrect, Some(&format!("{number}")))).collect();
        let again: Vec<&BenchmarkSampleRow> = samples.iter().chain(&samples).collect();
        let (votes, answers) = count(&again, &Verifier::default());
        assert_eq!(answers.len(), 400);
        assert_eq!(votes.votes[..400], votes.votes[400..], "identical texts are the same at any number");
    }
}
