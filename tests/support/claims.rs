//! What must hold of the verifier for any input. Shared by the fuzz targets and the test that replays their seeds.

use crate::config::{Extraction, Fallback, VerifyConfig};
use crate::types::Verdict;
use crate::verify::{DecidedBy, Verifier, extract};

/// Finding an answer never fails, finds parts of the text, and no setting finds less than the defaults do.
pub fn extract(text: &str) {
    let last_box = VerifyConfig::default();
    let library = VerifyConfig { extraction: Extraction::MathVerify, ..VerifyConfig::default() };
    let fallbacks = vec![Fallback::Phrase, Fallback::LastNumber];
    let fallbacks = VerifyConfig { fallbacks, ..VerifyConfig::default() };
    let boxed = extract::final_answer(text, &last_box);
    if let Some(boxed) = &boxed {
        assert_eq!(extract::final_answer(text, &fallbacks).as_ref(), Some(boxed), "a fallback hides a box");
    }
    if let Some(span) = extract::final_box(text) {
        assert!(text.contains(span));
        let braces = |text: &str| text.matches("\\boxed{").count() <= text.matches('}').count() + 1;
        assert!(braces(span), "a box that is not closed inside a box that is");
    }
    for config in [&last_box, &library, &fallbacks] {
        let _ = extract::final_answer(text, config);
        let reference = extract::reference(text, config);
        assert!(reference.len() <= 2 * text.len() + 16, "a reference grew");
    }
    for is_cut in [false, true] {
        let _ = crate::verify::defect(text, is_cut);
    }
}

/// Comparing two answers never fails, says the same twice, never refuses an answer that is the reference itself, and is the
/// same both ways where both are plain numbers.
pub fn compare(answer: &str, reference: &str) {
    let verifier = Verifier::default();
    let (verdict, by) = verifier.compare(answer, reference);
    assert_eq!((verdict, by), verifier.compare(answer, reference), "two verdicts on the same texts");
    assert!(by != DecidedBy::MathVerify && by != DecidedBy::Extraction);
    assert!(verdict != Verdict::NoAnswer);
    for text in [answer, reference] {
        let (verdict, by) = verifier.compare(text, text);
        assert!(verdict != Verdict::Incorrect || !says_something(text), "not itself, by {by:?}: {text:?}");
    }
    if is_number(answer) && is_number(reference) {
        let backward = verifier.compare(reference, answer).0;
        let contrary = matches!(
            (verdict, backward),
            (Verdict::Correct, Verdict::Incorrect) | (Verdict::Incorrect, Verdict::Correct)
        );
        assert!(!contrary, "{verdict:?} one way, {backward:?} the other: {answer:?} and {reference:?}");
    }
}

/// Whether a text is more than marks: `?` answers nothing, not even itself.
fn says_something(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

/// Whether a text is a number without anything that is read by one side only, such as a unit or a percent sign.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, decimals) = digits.split_once(['.', '/']).unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole) && all_digits(decimals)
}
