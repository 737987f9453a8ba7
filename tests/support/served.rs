//! Whole runs on a made-up server in place of vLLM: fast, and as faulty as a test wants it.
#![allow(dead_code)]

use orchestrator::data::ModelTokenizer;
use orchestrator::store::Reader;

use crate::policy::{PolicyServer, Words};
use crate::scene::{Engine, Scene};

/// A scene whose runs sample from a made-up server.
pub struct Served {
    pub scene: Scene,
    pub server: PolicyServer,
    pub tokenizer: ModelTokenizer,
}

impl Served {
    pub fn new(steps: u32, more: &[&str]) -> Served {
        // The model of a scene is made with it, and the server has to know its tokens.
        let scene = Scene::new(Engine::Embedded, steps, more);
        let tokenizer = ModelTokenizer::load(&scene.path("model")).unwrap();
        let config = std::fs::read_to_string(scene.path("model/config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let words = Words {
            vocab_tokens: config["vocab_size"].as_u64().unwrap() as usize,
            filling: tokenizer.encode("0123456789 +-*=xyz").unwrap(),
            endings: (0..10).map(|digit| tokenizer.encode(&format!(" \\boxed{{{digit}}}")).unwrap()).collect(),
        };
        Served { scene, server: PolicyServer::start(words), tokenizer }
    }

    pub fn args(&self, name: &str, more: &[&str]) -> Vec<String> {
        let urls = format!("inference.urls=[\"{}\"]", self.server.url);
        let fixed = ["inference.engine=vllm", "inference.launch=false", &urls, "run.canary_tolerance_nats=100"];
        self.scene.run_args(name, &fixed.iter().chain(more).copied().collect::<Vec<_>>())
    }

    pub fn resume_args(&self, name: &str, more: &[&str]) -> Vec<String> {
        let mut args = self.scene.resume_args(name);
        args.extend(more.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
        args
    }

    pub async fn reader(&self, name: &str) -> Reader {
        Reader::open(&self.scene.database(name)).await.unwrap()
    }
}
