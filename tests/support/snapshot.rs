//! Text compared with a file of `tests/snapshots/`; `UPDATE_SNAPSHOTS=1` writes the file instead.

use std::path::Path;

/// Compares `actual` with the snapshot `name`.
pub fn check(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "`{name}` differs; `UPDATE_SNAPSHOTS=1 cargo test` accepts this:\n{actual}\n--- instead of:\n{expected}"
    );
}
