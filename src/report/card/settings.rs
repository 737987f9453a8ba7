//! Settings as they may be published: every value, but of paths only file names and of servers only how many.

use toml::{Table, Value};

use super::file_name;

/// The settings of a run without what they say of its machine. Text that cannot be read as settings is left out.
pub fn published(config_toml: &str) -> String {
    let mut config: Table = config_toml.parse().unwrap_or_default();
    for (section, keys) in &mut config {
        let Value::Table(keys) = keys else { continue };
        // What is sent to the model is no path, whatever it looks like.
        if section == "prompt" {
            continue;
        }
        if let Some(urls) = keys.get_mut("urls") {
            let count = urls.as_array().map_or(0, Vec::len);
            *urls = Value::Array(vec![Value::String("server".into()); count]);
        }
        // Words for a server may be its secrets.
        if let Some(words) = keys.get_mut("extra_args").and_then(Value::as_array_mut) {
            words.iter_mut().for_each(without_value);
        }
        keys.iter_mut().for_each(|(_, value)| without_folders(value));
    }
    toml::to_string(&config).unwrap_or_default()
}

/// Of a word of a command line only a flag's name.
fn without_value(word: &mut Value) {
    if let Value::String(word) = word {
        *word = match word.split_once('=') {
            Some((flag, _)) if flag.starts_with('-') => format!("{flag}=..."),
            _ if word.starts_with('-') => return,
            _ => "...".to_owned(),
        };
    }
}

fn without_folders(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("://") => "address".clone_into(text),
        Value::String(text) if text.contains(['/', '\\']) => *text = file_name(&text.replace('\\', "/")),
        Value::Array(values) => values.iter_mut().for_each(without_folders),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| without_folders(value)),
        _ => {}
    }
}

/// The text of a setting.
pub fn text_of(config_toml: &str, section: &str, key: &str) -> Option<String> {
    value_of(config_toml, section, key)?.as_str().map(str::to_owned)
}

/// The texts of a setting that holds a list.
pub fn texts_of(config_toml: &str, section: &str, key: &str) -> Vec<String> {
    let values = value_of(config_toml, section, key);
    let texts = values.as_ref().and_then(Value::as_array).into_iter().flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The number of a setting.
pub fn number_of(config_toml: &str, section: &str, key: &str) -> Option<f64> {
    let value = value_of(config_toml, section, key)?;
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

fn value_of(config_toml: &str, section: &str, key: &str) -> Option<Value> {
    let config: Table = config_toml.parse().ok()?;
    config.get(section)?.get(key).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_and_no_address_is_left() {
        let config = "[run]\nmodel = \"/home/me/models/base\"\nseed = 7\n[prompt]\nformat = \"a/b {problem}\"\n\
            [inference]\nurls = [\"http://10.0.0.7:8000\"]\nrouter = \"http://ops:hunter2@10.0.0.7\"\ncommand = [\"/opt/me/bin/python\", \"-m\"]\nextra_args = [\"--x=/home/me/y\", \"--api-key\", \"sk-1\"]\n\
            [verify]\npython = \"../env/bin/python\"\n";
        let shown = published(config);
        for secret in ["/home", "/opt", "10.0.0.7", "hunter2", "sk-1", "../"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        for kept in [
            "model = \"base\"",
            "seed = 7",
            "a/b {problem}",
            "\"python\", \"-m\"",
            "urls = [\"server\"]",
            "\"--x=...\"",
        ] {
            assert!(shown.contains(kept), "`{kept}` is not in {shown}");
        }
        assert_eq!(text_of(config, "run", "model").as_deref(), Some("/home/me/models/base"));
        assert_eq!(number_of(config, "run", "seed"), Some(7.0));
        assert_eq!(published("no settings ["), "");
    }
}
