//! A scripted router in front of scripted servers: by the number in the header `x-session-id`, until it is told otherwise.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::scripted::{Scripted, read_request, send};

/// A running router; ends when dropped.
#[derive(Debug)]
pub struct ScriptedRouter {
    pub url: String,
    rule: Arc<Mutex<Rule>>,
    task: JoinHandle<()>,
}

/// What it does with a request.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Where the servers are.
    pub servers: Vec<String>,
    /// All requests go there.
    pub only: Option<usize>,
    /// Requests are answered with this status.
    pub fails: Option<u16>,
    /// Requests are taken and not answered.
    pub is_hung: bool,
    /// Headers of answers are not passed on.
    pub drops_headers: bool,
    /// Requests so far, beside questions after its health.
    pub requests: usize,
}

impl ScriptedRouter {
    pub async fn before(servers: &[&Scripted]) -> ScriptedRouter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let servers = servers.iter().map(|server| server.url.clone()).collect();
        let rule = Arc::new(Mutex::new(Rule { servers, ..Rule::default() }));
        let task = tokio::spawn(listen(listener, Arc::clone(&rule)));
        ScriptedRouter { url, rule, task }
    }

    /// What it does, to be looked at and changed.
    pub fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().expect("no test panicked in here")
    }
}

impl Drop for ScriptedRouter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, rule: Arc<Mutex<Rule>>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("client");
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, http.clone(), Arc::clone(&rule)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, http: reqwest::Client, rule: Arc<Mutex<Rule>>) {
    while let Some(asked) = read_request(&mut stream).await {
        let rule = {
            let mut rule = rule.lock().expect("rule");
            rule.requests += usize::from(asked.path != "/health");
            rule.clone()
        };
        if rule.is_hung {
            std::future::pending::<()>().await;
        }
        let is_sent = match rule.fails {
            _ if asked.path == "/health" => send(&mut stream, 200, "", "{}").await,
            Some(status) => send(&mut stream, status, "", r#"{"error": "no server"}"#).await,
            None => {
                let session: usize = asked.session.and_then(|session| session.parse().ok()).expect("a session");
                let server = &rule.servers[rule.only.unwrap_or(session % rule.servers.len())];
                let answer = http.post(format!("{server}{}", asked.path)).json(&asked.body).send().await;
                match answer {
                    Err(_) => send(&mut stream, 500, "", r#"{"error": "no answer"}"#).await,
                    Ok(answer) => {
                        let status = answer.status().as_u16();
                        let process = answer.headers().get("x-deepsearch-server").filter(|_| !rule.drops_headers);
                        let process = process.map(|name| name.to_str().expect("text").to_owned());
                        let body = answer.text().await.unwrap_or_default();
                        send(&mut stream, status, &process.unwrap_or_default(), &body).await
                    }
                }
            }
        };
        if !is_sent {
            return;
        }
    }
}
