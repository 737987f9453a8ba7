//! Which servers may be talked to, and with what key.
//!
//! Whoever reaches a server that takes new weights can replace the model or call any method of its workers: vLLM's key
//! guards `/v1` and not those paths. So a server has to be on this machine or in a private network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::InferenceConfig;
use crate::inference::EngineError;

/// A key that is never shown.
#[derive(Clone)]
pub(super) struct ApiKey(String);

impl ApiKey {
    /// The key that `inference.api_key_env` names, if it names one.
    ///
    /// # Errors
    /// [`EngineError::NoApiKey`] where the variable is not set, or holds what no header can carry.
    pub fn of(config: &InferenceConfig) -> Result<Option<ApiKey>, EngineError> {
        let variable = config.api_key_env.as_str();
        if variable.is_empty() {
            return Ok(None);
        }
        let key = std::env::var(variable).unwrap_or_default();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(EngineError::NoApiKey { variable: variable.to_owned() });
        }
        Ok(Some(ApiKey(key)))
    }

    /// The key itself, for a header or the environment of a server.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without the key, should a server repeat it.
    pub fn removed_from(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// Refuses a URL that carries a password, and one that leads out of the private network unless that is allowed.
///
/// # Errors
/// [`EngineError::Address`].
pub(super) async fn check_url(url: &str, allow_public: bool) -> Result<(), EngineError> {
    let parsed = reqwest::Url::parse(url);
    let refused = |url: &str, problem: String, hint: &str| EngineError::Address {
        url: url.to_owned(),
        problem,
        hint: hint.to_owned(),
    };
    let shown = without_userinfo(url);
    let parsed = parsed.map_err(|error| refused(&shown, error.to_string(), "write it as `http://HOST:PORT`"))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let hint = "leave out the part before `@`; a key goes into the variable that `inference.api_key_env` names";
        return Err(refused(&shown, "it carries a user or a password".into(), hint));
    }
    if allow_public {
        return Ok(());
    }
    let Some(host) = parsed.host_str() else {
        return Err(refused(&shown, "it has no host".into(), "write it as `http://HOST:PORT`"));
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<IpAddr> = match bare.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) if is_local_name(bare) => return Ok(()),
        // A name that is not known yet is no danger; it is an unreachable server.
        Err(_) => match tokio::net::lookup_host((bare, parsed.port_or_known_default().unwrap_or(80))).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => return Ok(()),
        },
    };
    match addresses.into_iter().find(|&address| !is_private(address)) {
        None => Ok(()),
        Some(address) => Err(refused(
            &shown,
            format!("`{address}` is a public address, where anyone could replace the model"),
            "use a server on this machine or in a private network, or a tunnel to it; where a firewall lets only this \
             machine in, set `inference.allow_public = true`",
        )),
    }
}

/// Names that only a local resolver knows: a container, a machine of the same network.
fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    !host.contains('.') || host.ends_with(".internal") || host.ends_with(".localhost")
}

/// Loopback, private, link-local and unspecified addresses.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| is_private_v6(v6), is_private_v4),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    // 100.64.0.0/10 is shared among the customers of a provider and not routed outside of it.
    let is_shared = a == 100 && (64..128).contains(&b);
    address.is_loopback() || address.is_private() || address.is_link_local() || address.is_unspecified() || is_shared
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local() || address.is_unspecified()
}

/// The URL as it may be shown.
fn without_userinfo(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Hint;

    async fn problem(url: &str) -> Option<String> {
        check_url(url, false).await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn only_private_addresses_pass() {
        for url in [
            "http://127.0.0.1:8000",
            "http://[::1]:8000",
            "http://10.1.2.3",
            "http://172.31.0.1:1",
            "http://192.168.7.7:1/base",
            "http://169.254.3.4:1",
            "http://100.100.0.1:1",
            "http://[fd00::1]:1",
            "http://[fe80::1]:1",
            "http://[::ffff:10.0.0.1]:1",
            "http://vllm:8000",
            "http://host.docker.internal:8000",
            "http://localhost:8000",
        ] {
            assert_eq!(problem(url).await, None, "{url}");
        }
        for url in
            ["http://8.8.8.8:8000", "http://172.32.0.1", "http://[2001:4860:4860::8888]:1", "http://[::ffff:8.8.8.8]:1"]
        {
            let problem = problem(url).await.expect(url);
            assert!(problem.contains("is a public address"), "{problem}");
            check_url(url, true).await.expect("allowed");
        }
    }

    #[tokio::test]
    async fn a_password_in_a_url_is_refused_and_not_shown() {
        for url in ["http://user:s3cret@127.0.0.1:1", "http://s3cret@vllm:1/x"] {
            let error = check_url(url, true).await.expect_err(url);
            assert!(error.to_string().contains("carries a user or a password"), "{error}");
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = ApiKey("s3cret".into());
        assert_eq!(format!("{key:?}"), "ApiKey(***)");
        assert_eq!(key.removed_from("no s3cret here"), "no *** here");
    }
}
