//! A server of pages that ends with the test, and requests to it as they are written.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use orchestrator::serve::{Options, Server};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// A server that ends with the test.
pub struct Running {
    pub address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub fn options(path: &Path) -> Options {
    Options {
        paths: vec![path.to_owned()],
        database: "run.db",
        listen: "127.0.0.1:0".parse().unwrap(),
        is_forced: false,
        hosts: vec!["gpu7".into()],
    }
}

pub async fn start(path: &Path) -> Running {
    let server = Server::bind(options(path)).await.unwrap();
    let address = server.address();
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let task = tokio::spawn(async move { server.run(asked).await.unwrap() });
    Running { address, stop, task }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type").as_deref(), Some("application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let wanted = format!("{name}: ");
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&wanted))?;
        Some(line[wanted.len()..].to_owned())
    }
}

/// A request as written: nothing is cleaned up on the way.
pub async fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let host = format!("Host: {address}");
    let has_host = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
    let mut lines = vec![format!("{method} {path} HTTP/1.1")];
    lines.extend((!has_host).then_some(host));
    lines.extend(headers.iter().map(ToString::to_string));
    lines.push("Connection: close\r\n\r\n".into());
    stream.write_all(lines.join("\r\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[]).await
}

/// An answer once the database has been quiet for so long that its tag is what its files say, and no longer its content.
pub async fn settled(address: SocketAddr, path: &str) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = get(address, path).await;
        if answer.header("etag").unwrap().contains('.') {
            return answer;
        }
        assert!(Instant::now() < deadline, "the files of {path} do not settle");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
