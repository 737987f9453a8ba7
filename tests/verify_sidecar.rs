//! Math-Verify in processes of its own: its verdicts, and everything that can go wrong with a process. The faults are
//! played by small scripts in the worker's place.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orchestrator::config::{Doubtful, VerifyConfig};
use orchestrator::error::Hint;
use orchestrator::types::Verdict::{self, Correct, Error, Incorrect, Undecided};
use orchestrator::verify::sidecar::{MOST_BYTES, Ruling, Sidecar, SidecarError};
use orchestrator::verify::{DecidedBy, Grader, Judged};

/// The environment of the set-up.
///
/// # Panics
/// Without it: a skipped test would look like a passed one.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "this test needs Python at `{}`: run `make setup`", python.display());
    python
}

fn config() -> VerifyConfig {
    VerifyConfig { python: python(), timeout_s: 10, ..VerifyConfig::default() }
}

async fn verdict(sidecar: &Sidecar, answer: &str, reference: &str) -> Verdict {
    sidecar.decide(answer, reference).await.verdict
}

/// A script that says that it is ready, and then for each request what `body` makes of `request` (a dict) and `served`
/// (from 1), with `reply(verdict)` at hand.
fn script(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "import json, os, signal, sys, time\n\
         def say(text): print(text, flush=True)\n\
         def reply(verdict): say(json.dumps({{'id': request['id'], 'verdict': verdict}}))\n\
         say('{{\"ready\": true, \"math_verify\": \"0\"}}')\n\
         for served, line in enumerate(sys.stdin, 1):\n    request = json.loads(line)\n{body}"
    )
}

fn faulty(body: &str) -> Sidecar {
    Sidecar::with_script(&VerifyConfig { timeout_s: 2, ..config() }, &script(body))
}

#[tokio::test]
async fn what_only_a_computer_algebra_system_knows() {
    let sidecar = Sidecar::new(&config());
    for (answer, reference, expected) in [
        (r"\begin{bmatrix}1&2\\3&\frac{8}{2}\end{bmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", Correct),
        (r"\begin{bmatrix}1&2\\3&5\end{bmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", Incorrect),
        (r"\int_0^1 x^2 dx", r"\frac13", Correct),
        (r"\sum_{k=1}^\infty \frac{1}{k^2}", r"\frac{\pi^2}{6}", Correct),
        (r"2\sin x\cos x", r"\sin 2x", Correct),
        (r"2\sin x", r"\sin 2x", Incorrect),
        (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}", Correct),
        (r"(1+i)^2", "2i", Correct),
        (r"(1+i)^3", "2i", Incorrect),
        ("2y=4x+2", "y=2x+1", Correct),
        ("y=2x+2", "y=2x+1", Incorrect),
        (r"\{2,\sqrt{1}\}", r"\{1,2\}", Correct),
        (r"\{1,3\}", r"\{1,2\}", Incorrect),
        (r"[0,\pi]", r"[0,\pi)", Incorrect),
        (r"(3,4)\cup(1,2)", r"(1,2)\cup(3,4)", Correct),
        ("0.5", r"\frac12", Correct),
    ] {
        assert_eq!(verdict(&sidecar, answer, reference).await, expected, "{answer} for {reference}");
    }
}

/// What the library accepts, or reads in a way of its own, must not become a reward.
#[tokio::test]
async fn the_worker_is_stricter_than_the_library() {
    let sidecar = Sidecar::new(&config());
    for (answer, reference) in [
        (r"3 \bmod 7", "7"),
        ("?", "5"),
        ("sey", "Yes"),
        ("on", "No"),
        ("0", "n-N"),
        ("3", "3h"),
        ("4", "4m"),
        ("2", "2t"),
        (r"\log_{10} 2", r"\log 2"),
        ("10^{-21}", "10^{-20}"),
        ("0.0000002", "0.0000001"),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"),
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
        ("0.333333", r"\frac13"),
        ("50", r"50\%"),
        ("30", r"30^\circ"),
        ("5", "2 3"),
        (r"\{1,2\}", "(1,2)"),
        ("10", "10_{2}"),
        (r"\frac{2}{3}(E_1 + E_2)", r"\frac{1}{3}(E_1 + E_2)"),
        ("3", "3 apples and 4 pears"),
    ] {
        let ruling = sidecar.decide(answer, reference).await;
        assert!(matches!(ruling.verdict, Incorrect | Undecided), "{answer} for {reference}: {ruling:?}");
    }
    // What is refused for the library's reading, not for being wrong.
    for (answer, reference) in [("2k+1", "2n+1"), (r"\cos(n\pi)", "(-1)^n"), ("x^2+K", "x^2+C")] {
        assert_eq!(verdict(&sidecar, answer, reference).await, Undecided, "{answer} for {reference}");
    }
}

/// What is left is the library's own verdict for those who want it, and named as such.
#[tokio::test]
async fn the_bare_word_is_taken_only_where_it_is_asked_for() {
    let pair = ("8:7:3", r"\frac{8}{21}");
    let strict = Sidecar::new(&config()).decide(pair.0, pair.1).await;
    assert_eq!((strict.verdict, strict.is_bare), (Undecided, false), "{strict:?}");
    let rules = VerifyConfig { doubtful: Doubtful::MathVerify, ..config() };
    let grader = Grader::new(rules.clone());
    for (answer, reference, verdict, decided_by) in [
        (pair.0, pair.1, Correct, DecidedBy::BareMathVerify),
        // The price of it: this one is right.
        ("n>2", r"n\ge3", Incorrect, DecidedBy::BareMathVerify),
        // What the library can prove is told from what it only says.
        (r"\sum_{k=1}^\infty \frac{1}{k^2}", r"\frac{\pi^2}{6}", Correct, DecidedBy::MathVerify),
        (r"\sum_{k=1}^{10000000000}\sin k", r"\pi", Undecided, DecidedBy::Nothing),
    ] {
        let judged = grader.grade(&format!("\\boxed{{{answer}}}"), reference).await;
        assert_eq!((judged.verdict, judged.decided_by), (verdict, decided_by), "{answer} for {reference}");
    }
}

#[tokio::test]
async fn hostile_answers_are_undecided_and_the_next_one_is_not() {
    let config = VerifyConfig { timeout_s: 4, memory_mib: 384, ..config() };
    let sidecar = Sidecar::new(&config);
    let deep = format!("{}x{}", "{".repeat(2000), "}".repeat(2000));
    let parentheses = format!("{}x{}", "(".repeat(300), ")".repeat(300));
    for answer in [
        "9^{9^{9^9}}",
        "1000000!",
        r"\binom{100000000}{50000000}",
        r"\sum_{k=1}^{10000000000}\sin k",
        r"\prod_{k=1}^{100000000} k",
        // Parsed, this is a matrix of a hundred million elements.
        r"\begin{pmatrix}1&1\\1&1\end{pmatrix}^{10^{10^{7}}}",
        &deep,
        &parentheses,
        &"9".repeat(MOST_BYTES + 1),
        "\u{0}\u{1b}[2J",
        "}}}{{{\\boxed{",
        "",
    ] {
        let ruling = sidecar.decide(answer, r"\pi").await;
        let shown: String = answer.chars().take(40).collect();
        assert_eq!(ruling.verdict, Undecided, "{shown}: {ruling:?}");
        assert_eq!(verdict(&sidecar, r"2\sin x\cos x", r"\sin 2x").await, Correct, "after {shown}");
    }
}

#[tokio::test]
async fn memory_has_a_limit_and_what_earlier_requests_left_does_not_count() {
    // As the real worker does it: the limit is the system's, a fresh process gets the request once more.
    let hog = "import resource\n\
               resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)\n\
               try:\n    hog = bytearray(1 << 40) if request['answer'] == 'much' else None\n    reply('correct')\n\
               except MemoryError:\n    \
               say(json.dumps({'id': request['id'], 'verdict': 'undecided', 'retire': True, 'detail': str(served)}))\n    \
               break";
    let sidecar = faulty(hog);
    assert_eq!(verdict(&sidecar, "little", "1").await, Correct);
    let ruling = sidecar.decide("much", "1").await;
    assert_eq!(
        ruling,
        Ruling { verdict: Undecided, detail: Some("1".into()), is_bare: false },
        "a fresh process was asked"
    );
    assert_eq!(verdict(&sidecar, "little", "1").await, Correct);
}

#[tokio::test]
async fn a_process_that_dies_is_replaced_and_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("died");
    let once = format!(
        "import pathlib\nmark = pathlib.Path({:?})\nif request['answer'] == 'kill' and not mark.exists():\n    \
         mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\nreply('correct')",
        mark.display().to_string()
    );
    let sidecar = faulty(&once);
    for answer in ["a", "kill", "kill", "b"] {
        assert_eq!(verdict(&sidecar, answer, "1").await, Correct, "{answer}");
    }
    assert!(mark.exists());
}

#[tokio::test]
async fn idle_processes_that_died_cost_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("pids");
    // Each waits for the others' requests, so that there are three processes.
    let body = format!(
        "note = {:?}\nif request['answer'] == 'note':\n    open(note, 'a').write(f'{{os.getpid()}} ')\n    \
         while len(open(note).read().split()) < 3: time.sleep(0.01)\nreply('correct')",
        note.display().to_string()
    );
    let config = VerifyConfig { workers: 3, timeout_s: 30, ..config() };
    let sidecar = Sidecar::with_script(&config, &script(&body));
    let asked = (0..3).map(|_| {
        let sidecar = sidecar.clone();
        tokio::spawn(async move { verdict(&sidecar, "note", "1").await })
    });
    for task in asked.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), Correct);
    }
    for pid in std::fs::read_to_string(&note).unwrap().split_whitespace() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), nix::sys::signal::SIGKILL).unwrap();
    }
    for answer in ["a", "b", "c", "d"] {
        assert_eq!(verdict(&sidecar, answer, "1").await, Correct, "{answer}");
    }
}

#[tokio::test]
async fn what_keeps_going_wrong_is_an_error_and_no_verdict() {
    for (what, body) in [
        ("dies", "os._exit(7)"),
        ("garbage", "say('Traceback (most recent call last):')"),
        ("wrong id", "say(json.dumps({'id': 99, 'verdict': 'correct'}))"),
        ("no verdict", "say(json.dumps({'id': request['id']}))"),
        ("foreign verdict", "reply('probably')"),
        ("a verdict that is not its to give", "reply('no_answer')"),
        ("endless line", "print('x' * 1000000, end='', flush=True)"),
        ("closed output", "os.close(1)\ntime.sleep(60)"),
    ] {
        let sidecar = faulty(body);
        let started = Instant::now();
        let ruling = sidecar.decide("1", "1").await;
        // One that lives on without an output may also be taken for one that hangs.
        let is_lost = what == "closed output" && ruling.verdict == Undecided;
        assert!(ruling.verdict == Error || is_lost, "{what}: {ruling:?}");
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        assert!(sidecar.take_failure().is_none(), "{what}");
    }
}

#[tokio::test]
async fn a_process_that_hangs_is_ended_with_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("pids");
    let body = format!(
        "import subprocess\nif request['answer'] == 'hang':\n    child = subprocess.Popen(['sleep', '600'])\n    \
         open({:?}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n    time.sleep(600)\nreply('correct')",
        note.display().to_string()
    );
    let sidecar = faulty(&body);
    let started = Instant::now();
    let ruling = sidecar.decide("hang", "1").await;
    assert_eq!(ruling, Ruling { verdict: Undecided, detail: Some("out of time".into()), is_bare: false });
    assert!(started.elapsed() < Duration::from_secs(8));
    gone(&note).await;
    assert_eq!(verdict(&sidecar, "1", "1").await, Correct);
}

/// Waits until none of the processes in a file is there.
async fn gone(note: &Path) {
    let text = std::fs::read_to_string(note).unwrap();
    for pid in text.split_whitespace() {
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        let is_there = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        for _ in 0..200 {
            if !is_there() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!is_there(), "process {pid} is still there");
    }
}

#[tokio::test]
async fn processes_end_with_the_pool_and_with_a_caller_who_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("pids");
    let body = format!(
        "open({:?}, 'w').write(str(os.getpid()))\nif request['answer'] == 'slow': time.sleep(600)\nreply('correct')",
        note.display().to_string()
    );
    let sidecar = faulty(&body);
    let left = tokio::time::timeout(Duration::from_millis(1500), sidecar.decide("slow", "1")).await;
    assert!(left.is_err());
    gone(&note).await;
    assert_eq!(verdict(&sidecar, "1", "1").await, Correct);
    drop(sidecar);
    gone(&note).await;
}

#[tokio::test]
async fn workers_answer_side_by_side_and_each_its_own() {
    let config = VerifyConfig { workers: 3, timeout_s: 30, ..config() };
    let body = "time.sleep(0.02)\nreply('correct' if request['answer'] == request['reference'] else 'incorrect')";
    let sidecar = Sidecar::with_script(&config, &script(body));
    let asked = (0..60).map(|i| {
        let sidecar = sidecar.clone();
        tokio::spawn(async move { (i, verdict(&sidecar, &format!("{i}"), &format!("{}", i / 2 * 2)).await) })
    });
    for task in asked.collect::<Vec<_>>() {
        let (i, verdict) = task.await.unwrap();
        assert_eq!(verdict, if i % 2 == 0 { Correct } else { Incorrect }, "{i}");
    }
}

#[tokio::test]
async fn without_math_verify_everything_stays_undecided_and_it_is_said_once() {
    let nowhere = VerifyConfig { python: "/nonexistent/python".into(), ..config() };
    let empty =
        "import json; print(json.dumps({'ready': False, 'detail': \"ModuleNotFoundError: No module named 'x'\"}))";
    let silent = "import sys; sys.exit(3)";
    for (sidecar, message, hint) in [
        (Sidecar::new(&nowhere), "`/nonexistent/python` does not run", "pip install math-verify==0.9.0"),
        (Sidecar::with_script(&config(), empty), "ModuleNotFoundError: No module named 'x'", "`make setup`"),
        (Sidecar::with_script(&config(), silent), "exit status: 3", "verify.sidecar = false"),
        (Sidecar::with_script(&config(), "print('hello')"), "it said \"hello\\n\"", "verify.memory_mib"),
    ] {
        for _ in 0..3 {
            assert_eq!(verdict(&sidecar, "1", "1").await, Undecided);
        }
        let failure: SidecarError = sidecar.take_failure().expect("a reason");
        assert!(failure.to_string().contains(message), "{failure}");
        assert!(failure.hint().unwrap().contains(hint), "{:?}", failure.hint());
        assert!(failure.notice().contains(message) && failure.notice().contains(hint));
        assert!(sidecar.take_failure().is_none(), "it is told once");
    }
}

#[tokio::test]
async fn the_grader_asks_about_what_is_undecided_and_nothing_else() {
    let body = "reply('correct' if request == {'id': request['id'], 'reference': 'R', 'answer': 'A'} else 'incorrect')";
    let grader = Grader::with_sidecar(config(), Some(faulty(body)));
    let judged = |verdict, answer: Option<&str>| Judged {
        verdict,
        decided_by: DecidedBy::Nothing,
        answer: answer.map(str::to_owned),
    };
    let settled = grader.settle(judged(Undecided, Some("A")), "R").await;
    assert_eq!((settled.verdict, settled.decided_by), (Correct, DecidedBy::MathVerify));
    for untouched in [judged(Correct, Some("B")), judged(Verdict::NoAnswer, None), judged(Error, Some("B"))] {
        assert_eq!(grader.settle(untouched.clone(), "R").await, untouched);
    }
    let alone = Grader::with_sidecar(config(), None);
    assert_eq!(alone.settle(judged(Undecided, Some("A")), "R").await, judged(Undecided, Some("A")));
    let broken = Grader::with_sidecar(config(), Some(faulty("os._exit(1)")));
    let settled = broken.settle(judged(Undecided, Some("A")), "R").await;
    assert_eq!((settled.verdict, settled.decided_by), (Error, DecidedBy::Nothing));
}
