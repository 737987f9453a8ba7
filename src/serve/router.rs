//! Addresses and their answers.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::api::{Part, ProblemQuery, TreeQuery};
use super::source::{Lent, Sources};
use super::text::Tokenizers;
use super::{ServeError, api, assets, guard, prometheus};
use crate::store::StoreError;
use crate::types::RunId;

/// What every answer is made from.
struct App {
    sources: Sources,
    tokenizers: Arc<Tokenizers>,
    /// Tells the tags of this process from those of one before it.
    started: u128,
}

type Shared = State<Arc<App>>;
type Made = Result<Option<Value>, ServeError>;

/// All addresses. Each answers GET (and HEAD) only.
pub fn router(sources: Sources, hosts: Vec<String>) -> Router {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let app = Arc::new(App { sources, tokenizers: Arc::new(Tokenizers::default()), started });
    Router::new()
        .route("/", get(page))
        .route("/assets/{name}", get(asset))
        .route("/metrics", get(metrics))
        .route("/api/runs", get(runs))
        .route("/api/runs/{run}", get(run))
        .route("/api/runs/{run}/curves", get(curves))
        .route("/api/runs/{run}/trees", get(trees))
        .route("/api/runs/{run}/trees/{tree}", get(tree))
        .route("/api/runs/{run}/trees/{tree}/nodes/{node}", get(node))
        .route("/api/runs/{run}/problems", get(problems))
        .route("/api/runs/{run}/problems/{problem}", get(problem))
        .route("/api/runs/{run}/mistakes", get(mistakes))
        .fallback(|| async { not_found() })
        .with_state(app)
        .layer(axum::middleware::from_fn_with_state(guard::Hosts::from(hosts), guard::guard))
}

async fn page() -> Response {
    typed("text/html; charset=utf-8", assets::page())
}

async fn asset(Path(name): Path<String>) -> Response {
    match assets::asset(&name) {
        Some((kind, text)) => typed(kind, text),
        None => not_found(),
    }
}

async fn metrics(State(app): Shared) -> Response {
    app.sources.refresh();
    typed("text/plain; version=0.0.4; charset=utf-8", prometheus::metrics(&app.sources).await)
}

async fn runs(State(app): Shared, headers: HeaderMap) -> Response {
    app.sources.refresh();
    tagged(&headers, None, async { Ok(Some(api::runs(&app.sources).await)) }).await
}

async fn run(State(app): Shared, Path(key): Path<String>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, api::run).await
}

async fn curves(State(app): Shared, Path(key): Path<String>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, api::run_curves).await
}

async fn trees(
    State(app): Shared,
    Path(key): Path<String>,
    Query(query): Query<TreeQuery>,
    headers: HeaderMap,
) -> Response {
    of_run(&app, &key, &headers, |lent, run| api::trees(lent, run, query)).await
}

async fn tree(State(app): Shared, Path((key, id)): Path<(String, i64)>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, |lent, run| api::one_tree(lent, run, id)).await
}

async fn node(State(app): Shared, Path((key, tree, id)): Path<(String, i64, u32)>, headers: HeaderMap) -> Response {
    let tokenizers = app.tokenizers.clone();
    of_run(&app, &key, &headers, |lent, run| api::node(lent, run, (tree, id), tokenizers)).await
}

async fn problems(
    State(app): Shared,
    Path(key): Path<String>,
    Query(query): Query<ProblemQuery>,
    headers: HeaderMap,
) -> Response {
    of_run(&app, &key, &headers, |lent, run| api::problems(lent, run, query)).await
}

async fn problem(State(app): Shared, Path((key, id)): Path<(String, i64)>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, |lent, run| async move { api::problem(&lent.reader, run, id).await }).await
}

async fn mistakes(
    State(app): Shared,
    Path(key): Path<String>,
    Query(part): Query<Part>,
    headers: HeaderMap,
) -> Response {
    of_run(&app, &key, &headers, |lent, run| api::mistakes(lent, run, part)).await
}

/// Answers for one run. The tag is what the files of its database say, looked at before anything is read: what is written
/// meanwhile makes the tag too old, never too new.
async fn of_run<F, M>(app: &App, key: &str, headers: &HeaderMap, make: F) -> Response
where
    F: FnOnce(Lent, RunId) -> M,
    M: Future<Output = Made>,
{
    let Some((source, run)) = app.sources.find(key) else { return not_found() };
    let name = source.stamp().and_then(|stamp| stamp.name());
    let tag = name.map(|name| format!("{:x}-{name}", app.started));
    tagged(headers, tag, async {
        let lent = app.sources.lend(&source).await?;
        match make(lent, run).await {
            Ok(made) => Ok(made),
            Err(error) => Err(app.sources.look_again(&source, error).await),
        }
    })
    .await
}

/// An answer under a tag, or that it is known already. Without a tag it is named by its content.
async fn tagged(headers: &HeaderMap, tag: Option<String>, make: impl Future<Output = Made>) -> Response {
    let is_known = |tag: &str| headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let tag = tag.map(|tag| format!("\"{tag}\""));
    let (mut response, tag) = match tag {
        Some(tag) if is_known(&tag) => (StatusCode::NOT_MODIFIED.into_response(), tag),
        tag => {
            let body = match make.await {
                Ok(Some(value)) => value.to_string(),
                Ok(None) => return not_found(),
                Err(error) => return failed(&error),
            };
            let tag = tag.unwrap_or_else(|| {
                let mut hasher = DefaultHasher::new();
                body.hash(&mut hasher);
                format!("\"{:x}-{:x}\"", body.len(), hasher.finish())
            });
            let is_known = is_known(&tag);
            let known = || StatusCode::NOT_MODIFIED.into_response();
            (if is_known { known() } else { typed("application/json", body) }, tag)
        }
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn typed(kind: &'static str, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn not_found() -> Response {
    let body = json!({ "error": "there is no such page, run, tree, node or problem" });
    (StatusCode::NOT_FOUND, typed("application/json", body.to_string())).into_response()
}

fn failed(error: &ServeError) -> Response {
    if let ServeError::Store(error @ StoreError::Missing { .. }) = error {
        let body = json!({ "error": error.to_string() });
        return (StatusCode::NOT_FOUND, typed("application/json", body.to_string())).into_response();
    }
    tracing::warn!(error = %crate::error::chain(error).join(": "), "a page could not be made");
    let body = json!({ "error": crate::error::chain(error).join(": ") });
    (StatusCode::INTERNAL_SERVER_ERROR, typed("application/json", body.to_string())).into_response()
}
