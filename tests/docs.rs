//! The pages of `docs/` that lead through a task: every command on them is carried out, in the order of the page, in a folder
//! laid out as a checkout, with the embedded engine and a tiny model in place of the real one.
//!
//! A comment before a block says that it is something else: `<!-- ends: ctrl-c -->` that it goes on until it is stopped, and
//! `<!-- needs: docker -->`, `gpu` or `minutes` that it cannot be carried out here. Of those last, subcommands, flags,
//! configurations and services are checked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PAGES: [&str; 6] = ["your-data", "one-gpu", "several-servers", "watch", "resume", "trouble"];

/// What takes the place of the quickstart: a random model of single bytes, for which its prompt is long.
const QUICKSTART: &str = r#"
base = "published.toml"
[run]
steps = 2
problems_per_step = 8
checkpoint_every = 1
[eval]
samples = 2
[curriculum]
filter_samples = 2
[prompt]
max_tokens = 1024
[search]
width = 3
step_tokens = 4
max_depth = 3
trajectories = 3
[inference]
max_model_tokens = 1200
[train]
threads = 1
drop_defective = false # a random model writes nothing else
[verify]
sidecar = false
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(format!("docs/{page}.md"))).unwrap()
}

/// A block of code with the line it begins at.
#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    language: String,
    /// `needs: gpu`, or empty.
    mark: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut is_inside, mut mark) = (false, String::new());
    for (index, line) in page.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            is_inside = !is_inside;
            if is_inside {
                let (language, mark) = (language.to_owned(), std::mem::take(&mut mark));
                blocks.push(Block { line: index + 1, language, mark, text: String::new() });
            }
        } else if is_inside {
            let block = blocks.last_mut().unwrap();
            block.text += line;
            block.text.push('\n');
        } else if let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
            mark = comment.to_owned();
        } else if !line.is_empty() {
            assert_eq!(mark, "", "line {}: the mark stands before no block", index + 1);
        }
    }
    blocks
}

/// A folder laid out as a checkout after `make quickstart`, but for the size of everything.
struct Checkout(tempfile::TempDir);

impl Checkout {
    fn new() -> Checkout {
        let checkout = Checkout(tempfile::tempdir().unwrap());
        for folder in ["target/release", "configs", "models", "runs/quickstart"] {
            fs::create_dir_all(checkout.path(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_orchestrator"), checkout.path("target/release/orchestrator")).unwrap();
        for name in ["inference", ".venv", "docker-compose.yml", "Makefile"] {
            symlink(root().join(name), checkout.path(name)).unwrap();
        }
        fs::copy(root().join(".env.example"), checkout.path(".env.example")).unwrap();
        for entry in fs::read_dir(root().join("configs")).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), checkout.path("configs").join(entry.file_name())).unwrap();
            }
        }
        fs::rename(checkout.path("configs/quickstart.toml"), checkout.path("configs/published.toml")).unwrap();
        fs::write(checkout.path("configs/quickstart.toml"), QUICKSTART).unwrap();
        checkout
    }

    /// One in which the quickstart has been run.
    fn after_the_quickstart() -> Checkout {
        let checkout = Checkout::new();
        let made = checkout.shell(
            "o=target/release/orchestrator
             $o model init --out models/smollm2-135m-instruct --seed 3 --std 0.1 --layers 2
             $o problems generate --out runs/quickstart/problems.jsonl --count 24 --mix sum=2,shopping
             $o problems generate --out runs/quickstart/heldout.jsonl --count 4 --held-out --mix sum=2,shopping
             $o run --config configs/quickstart.toml",
        );
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        checkout
    }

    /// Another that begins as this one is.
    fn copy(&self) -> Checkout {
        let copy = Checkout::new();
        for folder in ["models", "runs"] {
            let copied = Command::new("cp").arg("-r").arg(self.path(folder)).arg(copy.0.path()).status().unwrap();
            assert!(copied.success());
        }
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", text]).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn shell(&self, text: &str) -> Output {
        self.command(text).output().unwrap()
    }

    /// Carries a block out that goes on until Ctrl-C, which it gets when it has something to show.
    fn until_ctrl_c(&self, text: &str) -> Result<(), String> {
        let shown = self.path("shown");
        let file = fs::File::create(&shown).unwrap();
        let mut command = self.command(text);
        command.stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        let mut child = command.spawn().unwrap();
        let group = nix::unistd::Pid::from_raw(-i32::try_from(child.id()).unwrap());
        let started = Instant::now();
        let seen = || fs::read_to_string(&shown).unwrap_or_default();
        let mut is_asked = false;
        loop {
            let is_showing = seen().contains("http://") || seen().contains("step ");
            if !is_asked && is_showing {
                nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGINT).unwrap();
                is_asked = true;
            }
            if let Some(status) = child.try_wait().unwrap() {
                let is_good = is_asked && matches!(status.code(), Some(0 | 130));
                return if is_good { Ok(()) } else { Err(format!("{status}\n{}", seen())) };
            }
            if started.elapsed() > Duration::from_secs(90) {
                // Of the group that was started above and of no other.
                nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL).unwrap();
                child.wait().unwrap();
                return Err(format!("does not end:\n{}", seen()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What can be known of a block without carrying it out.
    fn check(&self, text: &str) -> Result<(), String> {
        let parsed = Command::new("bash").args(["-n", "-c", text]).output().unwrap();
        if !parsed.status.success() {
            return Err(String::from_utf8_lossy(&parsed.stderr).into_owned());
        }
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.trim_end_matches('&').split_whitespace().collect();
            let words: Vec<&str> = words.into_iter().skip_while(|word| word.contains('=')).collect();
            match words[0] {
                "docker" => self.check_compose(&words)?,
                "target/release/orchestrator" => self.check_call(&words[1..])?,
                "inference/start.sh" => {
                    // Any program in place of the Python shows that the script is content with its arguments.
                    let started = self.command(&words.join(" ")).env("PYTHON", "echo").output().unwrap();
                    if !started.status.success() {
                        return Err(format!("`{line}`: {}", String::from_utf8_lossy(&started.stderr)));
                    }
                }
                "make" | "export" | "mkdir" => {}
                other => return Err(format!("`{line}`: nothing is known of `{other}`")),
            }
        }
        Ok(())
    }

    fn check_call(&self, words: &[&str]) -> Result<(), String> {
        let names: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
        let help = Command::new(env!("CARGO_BIN_EXE_orchestrator")).args(&names).arg("--help").output().unwrap();
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        let known: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == ',').collect();
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            if !help.status.success() || !known.contains(flag) {
                return Err(format!("`{}`: `{flag}` is not in the help", words.join(" ")));
            }
        }
        if names == ["run"] {
            let text = format!("target/release/orchestrator {} --dry-run", words.join(" "));
            let tried = self.shell(&text);
            if !tried.status.success() {
                return Err(format!("`{text}`: {}", String::from_utf8_lossy(&tried.stderr)));
            }
        }
        Ok(())
    }

    /// `docker compose [--profile P] VERB [FLAG]... [SERVICE]...`
    fn check_compose(&self, words: &[&str]) -> Result<(), String> {
        let compose = fs::read_to_string(self.path("docker-compose.yml")).unwrap();
        let fail = |what: &str| Err(format!("`{}`: {what}", words.join(" ")));
        if words.get(1) != Some(&"compose") {
            return fail("not `docker compose`");
        }
        let mut rest = words[2..].iter().copied().peekable();
        if rest.next_if_eq(&"--profile").is_some() {
            let profile = rest.next().unwrap_or_default();
            if !compose.contains(&format!("profiles: [{profile}]\n")) {
                return fail("no such profile");
            }
        }
        let verb = rest.next().unwrap_or_default();
        if !["up", "down", "logs", "ps"].contains(&verb) {
            return fail("no such verb");
        }
        for service in rest.filter(|word| !word.starts_with('-')) {
            if !compose.contains(&format!("\n  {service}:\n")) {
                return fail("no such service");
            }
        }
        Ok(())
    }

    /// Everything on a page; the failures.
    fn follow(&self, page: &str) -> Vec<String> {
        let mut failures = Vec::new();
        for block in blocks(&read(page)) {
            let done = match (block.language.as_str(), block.mark.as_str()) {
                ("sh", "") => {
                    let output = self.shell(&block.text);
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    if output.status.success() { Ok(()) } else { Err(format!("{}\n{said}", output.status)) }
                }
                ("sh", "ends: ctrl-c") => self.until_ctrl_c(&block.text),
                ("sh", "needs: docker" | "needs: gpu" | "needs: minutes") => self.check(&block.text),
                ("toml", "") => {
                    fs::write(self.path("configs/block.toml"), format!("base = \"quickstart.toml\"\n{}", block.text))
                        .unwrap();
                    self.check_call(&["run", "--config", "configs/block.toml"])
                }
                ("text", "") => Ok(()),
                (language, mark) => Err(format!("nothing is known of `{language}` with the mark `{mark}`")),
            };
            failures.extend(done.err().map(|why| format!("docs/{page}.md, line {}: {why}", block.line)));
        }
        failures
    }
}

#[test]
fn commands_do_what_the_pages_say() {
    let first = Checkout::after_the_quickstart();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = PAGES.iter().map(|page| scope.spawn(|| first.copy().follow(page))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The pages' table rows quote messages; what stands for a value in them is `…`.
#[test]
fn messages_are_those_of_the_program() {
    let mut sources = String::new();
    let mut folders = vec![root().join("src"), root().join("inference")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let _ = fs::File::open(&path).unwrap().read_to_string(&mut sources);
            }
        }
    }
    // A message may be broken over lines in the source.
    let sources: Vec<&str> = sources.split_whitespace().map(|word| word.trim_end_matches('\\')).collect();
    let sources = sources.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    // Said by docker itself.
    let foreign = ["could not select device driver"];
    let mut count = 0;
    for line in read("trouble").lines().filter(|line| line.starts_with("| ``")) {
        let message = line.split("``").nth(1).unwrap().trim();
        for part in message.split('…').map(|part| part.trim_matches(['`', ' '])).filter(|part| part.len() > 4) {
            assert!(foreign.contains(&part) || sources.contains(part), "`{part}` of `{message}` is said nowhere");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

/// A code span such as `run.steps` or `run.steps = 3` names a setting.
#[test]
fn settings_exist() {
    let paper = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .args(["run", "--dry-run", "--config", "configs/paper.toml", "--set", "train.lora.rank=4"])
        .current_dir(root())
        .output()
        .unwrap();
    let known: toml::Table = toml::from_str(&String::from_utf8(paper.stdout).unwrap()).unwrap();
    let mut count = 0;
    for page in PAGES {
        for line in read(page).lines() {
            for span in line.split('`').skip(1).step_by(2) {
                let key = span.split([' ', '=']).next().unwrap();
                if !key.contains('.') {
                    continue;
                }
                let mut parts = key.split('.');
                let Some(toml::Value::Table(section)) = parts.next().and_then(|section| known.get(section)) else {
                    continue;
                };
                let mut found = parts.next().and_then(|name| section.get(name));
                for part in parts {
                    found = found.and_then(|table| table.get(part));
                }
                assert!(found.is_some(), "docs/{page}.md: there is no setting `{key}`");
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn the_readme_leads_to_every_page() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for page in PAGES {
        assert!(readme.contains(&format!("(docs/{page}.md")), "README.md has no link to docs/{page}.md");
    }
}

#[test]
fn pages_are_read_as_written() {
    let page = "a\n\n<!-- needs: gpu -->\n```sh\nx y\nz\n```\n\n```toml\n[a]\n```\n";
    let block = |line, language: &str, mark: &str, text: &str| Block {
        line,
        language: language.into(),
        mark: mark.into(),
        text: text.into(),
    };
    assert_eq!(blocks(page), [block(4, "sh", "needs: gpu", "x y\nz\n"), block(9, "toml", "", "[a]\n")]);
}

#[test]
fn what_cannot_be_carried_out_is_checked() {
    let checkout = Checkout::new();
    let wrong = |text: &str, why: &str| {
        let failure = checkout.check(text).unwrap_err();
        assert!(failure.contains(why), "`{text}`: {failure}");
    };
    wrong("docker compose up nowhere", "no such service");
    wrong("docker compose --profile tpu up", "no such profile");
    wrong("target/release/orchestrator serve --lisen 1", "not in the help");
    wrong("target/release/orchestrator run --config configs/paper.toml --set run.stepps=1", "run.steps");
    wrong("inference/start.sh models/none --port 1", "holds no config.json");
    wrong("if true; then", "syntax error");
    wrong("rm -rf x", "nothing is known of `rm`");
    checkout.check("docker compose logs -f orchestrator\nmake setup ENGINE=vllm").unwrap();
}
