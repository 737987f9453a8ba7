//! A card as Markdown with the YAML header that the Hugging Face hub reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{CARD_MARK, Card, CardResult, settings};
use crate::report::summary::cell;
use crate::report::table::{duration, percent};
use crate::types::WeightVersion;

/// The card. The same facts give the same bytes.
pub fn card_text(card: &Card) -> String {
    let mut out = header(card);
    let (origin, run, weights) = (&card.origin, &card.run, &card.weights);
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "\n# {}\n", cell(&origin.name));
    let what = if origin.is_adapter { "Low-rank adapters for" } else { "A language model trained from" };
    let how = match run.algorithm {
        crate::config::Algorithm::Deepsearch => {
            "by tree search within reinforcement learning (DeepSearch, arXiv 2509.25454)"
        }
        crate::config::Algorithm::Grpo => "by reinforcement learning on direct rollouts (GRPO)",
        crate::config::Algorithm::Dapo => "by reinforcement learning on direct rollouts (DAPO)",
    };
    let _ = if weights.weight_version == WeightVersion::INITIAL {
        writeln!(out, "The weights that the run `{}` started from, before any training.", plain(&run.name))
    } else {
        writeln!(
            out,
            "{what} {} {how}, to solve problems whose final answer can be checked. Weight version {} of the run `{}`.",
            cell(&origin.base_model),
            weights.weight_version,
            plain(&run.name)
        )
    };
    results(&mut out, card);
    usage(&mut out, card);
    training(&mut out, card);
    data(&mut out, card);
    weights_section(&mut out, card);
    settings_section(&mut out, card);
    out
}

/// Between the dashes: YAML, its texts quoted as JSON is, which YAML reads.
fn header(card: &Card) -> String {
    let origin = &card.origin;
    let mut out = String::from("---\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("license: {}", quoted(origin.license.as_deref().unwrap_or("unknown"))));
    if let Some((name, link)) = &origin.license_other {
        line(format!("license_name: {}", quoted(name)));
        line(format!("license_link: {}", quoted(link)));
    }
    line(format!("base_model: {}", quoted(&origin.base_model)));
    line(format!("library_name: {}", if origin.is_adapter { "peft" } else { "transformers" }));
    line("pipeline_tag: text-generation".to_owned());
    line("tags:".to_owned());
    for tag in [card.run.algorithm.as_str(), "reinforcement-learning", "math", "reasoning"] {
        line(format!("- {tag}"));
    }
    let sets = data_sets(card);
    if !sets.is_empty() {
        line("datasets:".to_owned());
        sets.iter().for_each(|set| line(format!("- {}", quoted(set))));
    }
    if !card.results.is_empty() {
        line("model-index:".to_owned());
        line(format!("- name: {}", quoted(&origin.name)));
        line("  results:".to_owned());
        for result in &card.results {
            line("  - task:".to_owned());
            line("      type: text-generation".to_owned());
            line("    dataset:".to_owned());
            line(format!("      name: {}", quoted(&result.set)));
            line(format!("      type: {}", quoted(&result.set)));
            line("    metrics:".to_owned());
            let first = result.pass_at_1.map(|value| (1, value));
            for (k, value) in first.into_iter().chain(result.pass_at.iter().map(|(&k, &value)| (k, value))) {
                line(format!("    - type: \"pass@{k}\""));
                line(format!("      value: {}", json!(value)));
                line(format!("      name: \"pass@{k} ({} samples a problem)\"", result.samples));
            }
        }
    }
    out.push_str("---\n");
    out
}

/// Names of the training sets that can be names on the hub.
fn data_sets(card: &Card) -> BTreeSet<&str> {
    let is_name = |name: &str| {
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        let mut parts = name.split('/');
        parts.clone().count() <= 2 && parts.all(is_part) && name.len() <= 96
    };
    let training = card.data.iter().filter(|data| data.purpose == "training");
    training.flat_map(|data| data.sources.keys()).map(String::as_str).filter(|name| is_name(name)).collect()
}

fn results(out: &mut String, card: &Card) {
    if card.results.is_empty() {
        out.push_str("\nIt has not been measured.\n");
        return;
    }
    let every_k: BTreeSet<u32> = card.results.iter().flat_map(|result| result.pass_at.keys().copied()).collect();
    let mut table = Table::new(&["problems", "count", "samples", "temperature", "pass@1", "95 %"]);
    every_k.iter().for_each(|k| table.head.push(format!("pass@{k}")));
    table.head.extend(["tokens per answer".to_owned(), "pass@1 before training".to_owned()]);
    for result in &card.results {
        let CardResult { set, problems, samples, temperature, pass_at_1, interval, pass_at, tokens_mean, before } =
            result;
        let mut row = vec![
            cell(set),
            counted(*problems),
            samples.to_string(),
            temperature.map_or_else(|| "-".to_owned(), |value| value.to_string()),
            percent(*pass_at_1),
            interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("{:.1}..{:.1}%", 100.0 * low, 100.0 * high)),
        ];
        row.extend(every_k.iter().map(|k| percent(pass_at.get(k).copied())));
        row.push(tokens_mean.map_or_else(|| "-".to_owned(), |tokens| format!("{tokens:.1}")));
        row.push(percent(*before));
        table.rows.push(row);
    }
    out.push_str("\n## Results\n\n");
    table.write(out);
    out.push_str(
        "\npass@1 is the mean over the problems of the share of correct samples, pass@k the chance that one of k is correct. \
         The interval is a bootstrap over the problems: what other problems of the same kind would have given.\n",
    );
}

fn usage(out: &mut String, card: &Card) {
    let config = &card.run.config_toml;
    let setting = |key: &str| settings::text_of(config, "prompt", key).unwrap_or_default();
    let literal = |text: &str| Value::from(text).to_string();
    let is_chat = setting("kind") == "chat";
    let load = if card.origin.is_adapter {
        format!(
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             base = {base}\ntokenizer = AutoTokenizer.from_pretrained(base)\n\
             model = AutoModelForCausalLM.from_pretrained(base, dtype=\"auto\")\n\
             model = PeftModel.from_pretrained(model, {name})\n",
            base = literal(&card.origin.base_model),
            name = literal(&card.origin.name)
        )
    } else {
        format!(
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\nname = {name}\n\
             tokenizer = AutoTokenizer.from_pretrained(name)\n\
             model = AutoModelForCausalLM.from_pretrained(name, dtype=\"auto\")\n",
            name = literal(&card.origin.name)
        )
    };
    let (prefix, format) = (setting("prefix"), setting("format"));
    let prefix = if prefix.is_empty() { String::new() } else { format!("{} + ", literal(&prefix)) };
    let question = format!("text = {prefix}{}.replace(\"{{problem}}\", problem)\n", literal(&format));
    let tokens = if is_chat {
        "messages = [{\"role\": \"user\", \"content\": text}]\n\
         text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)\n\
         tokens = tokenizer(text, return_tensors=\"pt\", add_special_tokens=False)\n"
    } else {
        "tokens = tokenizer(text, return_tensors=\"pt\")\n"
    };
    let code = format!(
        "{load}\nproblem = \"What is 3 + 4?\"\n{question}{tokens}answer = model.generate(**tokens, max_new_tokens=256)\n\
         print(tokenizer.decode(answer[0, tokens[\"input_ids\"].shape[1]:], skip_special_tokens=True))\n"
    );
    out.push_str("\n## Use\n\nPosed as in training:\n\n");
    fenced(out, "python", &code);
    let stop = settings::texts_of(config, "prompt", "stop");
    if !stop.is_empty() {
        let stop: Vec<String> = stop.iter().map(|text| format!("`{}`", literal(text))).collect();
        let _ = writeln!(out, "\nIn training an answer ended at {}.", stop.join(" or "));
    }
}

fn training(out: &mut String, card: &Card) {
    let (training, run) = (&card.training, &card.run);
    let share = (training.trees > 0).then(|| training.solved_trees as f64 / training.trees as f64);
    let program = match &run.git_commit {
        Some(commit) => format!("orchestrator {} ({commit})", run.program_version),
        None => format!("orchestrator {}", run.program_version),
    };
    out.push_str("\n## Training\n\n| | |\n| --- | --- |\n");
    for (name, value) in [
        ("algorithm", run.algorithm.as_str().to_owned()),
        ("rounds", counted(training.rounds)),
        ("steps", counted(training.steps)),
        ("trees", counted(training.trees)),
        ("trees with a correct answer", percent(share)),
        ("generated tokens", counted(training.generated_tokens)),
        ("trained tokens", counted(training.trained_tokens)),
        ("search", duration(Some(training.search_ms))),
        ("update", duration(Some(training.train_ms))),
        ("seed", run.seed.to_string()),
        ("program", cell(&program)),
    ] {
        let _ = writeln!(out, "| {name} | {value} |");
    }
}

fn data(out: &mut String, card: &Card) {
    if card.data.is_empty() {
        return;
    }
    let mut table = Table::new(&["use", "file", "problems", "of", "digest"]);
    for data in &card.data {
        let sources: Vec<String> =
            data.sources.iter().map(|(name, count)| format!("{} ({})", cell(name), counted(*count))).collect();
        let (file, digest) = (cell(&data.file), format!("`{}`", data.digest));
        table.rows.push(vec![data.purpose.to_owned(), file, counted(data.problems), sources.join(", "), digest]);
    }
    out.push_str("\n## Data\n\n");
    table.write(out);
    out.push_str(
        "\nThe digest is the SHA-256 over the problems' own digests (SHA-256 over name, text and answer), sorted, one a line.\n",
    );
}

fn weights_section(out: &mut String, card: &Card) {
    let weights = &card.weights;
    out.push_str("\n## Weights\n\n| | |\n| --- | --- |\n");
    let _ = writeln!(out, "| version | {} |", weights.weight_version);
    let _ =
        writeln!(out, "| made by step | {} |", weights.step_id.map_or_else(|| "-".to_owned(), |step| step.to_string()));
    let _ = writeln!(out, "| checksum | `{}` |", weights.digest);
    if let Some(merged) = &card.origin.merged_digest {
        let _ = writeln!(out, "| checksum with the adapters added | `{merged}` |");
    }
    out.push_str(
        "\nThe checksum is the SHA-256 over `name \\0 crc32 \\n` of every tensor in the order of names, the CRC-32 of its bytes as 8 \
         hexadecimal digits.\n",
    );
}

fn settings_section(out: &mut String, card: &Card) {
    let run = &card.run;
    let _ = writeln!(
        out,
        "\n## Settings\n\n{CARD_MARK}: `{}`. Below, folders and addresses are left out.\n\n\
         <details>\n<summary>All settings</summary>\n",
        run.config_sha256
    );
    fenced(out, "toml", &settings::published(&run.config_toml));
    out.push_str("\n</details>\n");
}

/// A block whose fence is longer than any in the text.
fn fenced(out: &mut String, language: &str, text: &str) {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let _ = writeln!(out, "{fence}{language}\n{}\n{fence}", text.trim_end());
}

struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "| {} |", self.head.join(" | "));
        let _ = writeln!(out, "|{}", " --- |".repeat(self.head.len()));
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
    }
}

/// Text in quotes, as JSON and YAML read it alike: YAML refuses more control characters.
fn quoted(text: &str) -> String {
    let is_refused = |c: &char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}');
    let quoted = Value::from(text).to_string();
    quoted.chars().map(|c| if is_refused(&c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

/// Within a code span.
fn plain(text: &str) -> String {
    crate::report::text::one_line(text).replace('`', "'")
}

/// `1,234,567`.
fn counted(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_fences() {
        assert_eq!([0, 999, 1000, 1_234_567].map(counted), ["0", "999", "1,000", "1,234,567"]);
        let mut out = String::new();
        fenced(&mut out, "toml", "a = \"```\"\n");
        assert_eq!(out, "````toml\na = \"```\"\n````\n");
    }
}
