//! What `orchestrator db` says: findings, sizes, what was dropped.

use std::fmt::Write as _;

use super::listing::{Column, listing};
use crate::store::{DatabaseSize, Finding, Pruned, Vacuumed};

/// Findings, one rule per line; the rule's meaning and an example where it is broken.
pub fn findings_table(findings: &[Finding], width: usize) -> String {
    let result = |finding: &Finding| match finding.count {
        0 => "ok".to_owned(),
        count => format!("BROKEN ({count})"),
    };
    let columns = vec![
        Column::word("rule", 0, findings.iter().map(|finding| finding.rule.clone())),
        Column::word("result", 0, findings.iter().map(result)),
        Column::text("what must hold", 1, findings.iter().map(|finding| finding.meaning.as_str())),
    ];
    let mut text = listing(columns, width);
    for finding in findings.iter().filter(|finding| !finding.holds()) {
        let example = finding.example.as_deref().map(super::text::one_line).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}: {} broken, for instance {example}", finding.rule, finding.count);
    }
    text
}

/// What takes the room in a database.
pub fn size_table(size: &DatabaseSize, width: usize) -> String {
    let tables = || size.tables.iter().filter(|table| table.row_count > 0);
    let columns = vec![
        Column::word("table", 0, tables().map(|table| table.name.clone())),
        Column::number("rows", 0, tables().map(|table| table.row_count.to_string())),
        Column::number("size", 0, tables().map(|table| bytes_text(table.bytes()))),
        Column::number("of it indexes", 1, tables().map(|table| bytes_text(table.index_bytes))),
        Column::number("bytes per row", 2, tables().map(|table| (table.bytes() / table.row_count).to_string())),
    ];
    let mut text = listing(columns, width);
    let _ = write!(text, "\n{} in all, {} of it free", bytes_text(size.file_bytes), bytes_text(size.free_bytes));
    if let Some(mean) = size.tree_bytes_mean {
        let _ = write!(text, "; {} trees of {} each", size.tree_count, bytes_text(mean as u64));
    }
    text + "\n"
}

/// What was dropped, or would be.
pub fn pruned_text(pruned: &Pruned, is_dry: bool) -> String {
    let (would, free) = if is_dry { ("would lose", "would be free") } else { ("lost", "are free") };
    if *pruned == Pruned::default() {
        return "nothing to drop\n".to_owned();
    }
    let mut text = String::new();
    if pruned.node_count > 0 {
        let _ = writeln!(text, "{} nodes {would} tokens, logprobs and text", pruned.node_count);
    }
    if pruned.logprob_count > 0 {
        let _ = writeln!(text, "{} nodes {would} their logprobs", pruned.logprob_count);
    }
    let _ = writeln!(text, "{} {free}; `orchestrator db vacuum` makes the file smaller", bytes_text(pruned.bytes));
    text
}

/// What a vacuum gave back.
pub fn vacuumed_text(vacuumed: &Vacuumed) -> String {
    let saved = vacuumed.before_bytes.saturating_sub(vacuumed.after_bytes);
    format!(
        "{} before, {} now: {} given back\n",
        bytes_text(vacuumed.before_bytes),
        bytes_text(vacuumed.after_bytes),
        bytes_text(saved)
    )
}

/// `340 B`, `12.5 kB`, `3.1 MB`, `5.2 GB`.
pub fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let texts = [0, 999, 1_000, 12_540, 3_100_000, 5_200_000_000].map(bytes_text);
        assert_eq!(texts, ["0 B", "999 B", "1.0 kB", "12.5 kB", "3.1 MB", "5.2 GB"]);
        let vacuumed = Vacuumed { before_bytes: 3_100_000, after_bytes: 1_000_000 };
        assert_eq!(vacuumed_text(&vacuumed), "3.1 MB before, 1.0 MB now: 2.1 MB given back\n");
    }

    #[test]
    fn what_is_dropped_is_said() {
        let pruned = Pruned { node_count: 3, logprob_count: 2, bytes: 4_000 };
        assert_eq!(
            pruned_text(&pruned, true),
            "3 nodes would lose tokens, logprobs and text\n2 nodes would lose their logprobs\n4.0 kB would be free; \
             `orchestrator db vacuum` makes the file smaller\n"
        );
        assert_eq!(pruned_text(&Pruned::default(), false), "nothing to drop\n");
    }
}
