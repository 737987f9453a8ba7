//! The page: HTML, style and scripts, which are part of the program.

use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("assets/index.html");
const STYLE: &str = include_str!("assets/style.css");

/// In the order in which they are run.
const SCRIPTS: [(&str, &str); 8] = [
    ("core.js", include_str!("assets/core.js")),
    ("chart.js", include_str!("assets/chart.js")),
    ("layout.js", include_str!("assets/layout.js")),
    ("drawing.js", include_str!("assets/drawing.js")),
    ("explorer.js", include_str!("assets/explorer.js")),
    ("lists.js", include_str!("assets/lists.js")),
    ("pages.js", include_str!("assets/pages.js")),
    ("start.js", include_str!("assets/start.js")),
];

/// The page of the server: style and scripts are asked for one by one.
pub fn page() -> String {
    let scripts: Vec<String> =
        SCRIPTS.iter().map(|(name, _)| format!("<script src=\"/assets/{name}\" defer></script>")).collect();
    let head = format!("<link rel=\"stylesheet\" href=\"/assets/style.css\">\n{}", scripts.join("\n"));
    PAGE.replace("<!-- head -->", &head).replace("<!-- data -->", "")
}

/// A file of the page with its type.
pub fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    if name == "style.css" {
        return Some(("text/css; charset=utf-8", STYLE));
    }
    let found = SCRIPTS.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| ("text/javascript; charset=utf-8", *text))
}

/// The page as one file that holds its data, a JSON text. It may run the scripts that are in it and nothing else, and
/// load nothing.
pub fn single_file(data: &str) -> String {
    let hashes: Vec<String> = SCRIPTS.iter().map(|(_, text)| hash_of(text)).collect();
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        hashes.join(" "),
        hash_of(STYLE)
    );
    let head = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n<style>{STYLE}</style>");
    let scripts: Vec<String> = SCRIPTS.iter().map(|(_, text)| format!("<script>{text}</script>")).collect();
    // In JSON these stand in strings only, where an escape means the same.
    let data = data.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let body = format!("<script type=\"application/json\" id=\"data\">{data}</script>\n{}", scripts.join("\n"));
    PAGE.replace("<!-- head -->", &head).replace("<!-- data -->", &body)
}

/// What a Content-Security-Policy calls a script or style.
fn hash_of(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text.as_bytes())))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let all = chunk.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(all >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\0\u{7f}", "AH8=")];
        for (text, encoded) in known {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn nothing_in_the_assets_ends_a_script_early() {
        for (name, text) in SCRIPTS {
            assert!(!text.to_lowercase().contains("</script") && !text.contains("<!--"), "{name}");
        }
        assert!(!STYLE.to_lowercase().contains("</style"));
        assert_eq!(PAGE.matches("<!-- head -->").count(), 1);
        assert_eq!(PAGE.matches("<!-- data -->").count(), 1);
    }

    #[test]
    fn markup_in_the_data_stays_data() {
        let page = single_file(r#"{"text":"</script><script>alert(1)</script><!-- & -->"}"#);
        assert!(!page.contains("alert(1)</script>"));
        assert_eq!(page.matches("</script>").count(), SCRIPTS.len() + 1);
    }
}
