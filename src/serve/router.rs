//! Addresses and their answers.

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
use super::source::{Source, Sources};
use super::text::Tokenizers;
use super::{ServeError, api, assets, guard, prometheus};
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
    app.sources.refresh().await;
    typed("text/plain; version=0.0.4; charset=utf-8", prometheus::metrics(&app.sources).await)
}

/// Whole minutes since a time in milliseconds.
fn minutes_since(written_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(written_ms) / 60_000
}

async fn runs(State(app): Shared, headers: HeaderMap) -> Response {
    let refused = app.sources.refresh().await;
    let mut tag = format!("{:x}-{}", app.started, refused.len());
    for source in app.sources.all() {
        match source.changes.count().await {
            Ok(count) => tag.push_str(&format!("-{count}")),
            // It is listed as what cannot be read.
            Err(_) => tag.push_str("-x"),
        }
        // A killed run writes nothing: that it is quiet is news once a minute.
        let quiet = source.written_at_ms().map_or(0, |written| minutes_since(written).min(60));
        tag.push_str(&format!(".{quiet}"));
    }
    tagged(&headers, &tag, async { Ok(Some(api::runs(&app.sources, refused).await)) }).await
}

async fn run(State(app): Shared, Path(key): Path<String>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::run(&source, run).await }).await
}

async fn curves(State(app): Shared, Path(key): Path<String>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::run_curves(&source, run).await }).await
}

async fn trees(
    State(app): Shared,
    Path(key): Path<String>,
    Query(query): Query<TreeQuery>,
    headers: HeaderMap,
) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::trees(&source, run, query).await }).await
}

async fn tree(State(app): Shared, Path((key, id)): Path<(String, i64)>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::one_tree(&source, run, id).await }).await
}

async fn node(State(app): Shared, Path((key, tree, id)): Path<(String, i64, u32)>, headers: HeaderMap) -> Response {
    let tokenizers = app.tokenizers.clone();
    let make = |source: Arc<Source>, run| async move { api::node(&source, run, (tree, id), tokenizers).await };
    of_run(&app, &key, &headers, make).await
}

async fn problems(
    State(app): Shared,
    Path(key): Path<String>,
    Query(query): Query<ProblemQuery>,
    headers: HeaderMap,
) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::problems(&source, run, query).await }).await
}

async fn problem(State(app): Shared, Path((key, id)): Path<(String, i64)>, headers: HeaderMap) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::problem(&source.reader, run, id).await }).await
}

async fn mistakes(
    State(app): Shared,
    Path(key): Path<String>,
    Query(part): Query<Part>,
    headers: HeaderMap,
) -> Response {
    of_run(&app, &key, &headers, |source, run| async move { api::mistakes(&source, run, part).await }).await
}

/// Answers for one run; the tag is that of its database.
async fn of_run<F, M>(app: &App, key: &str, headers: &HeaderMap, make: F) -> Response
where
    F: FnOnce(Arc<Source>, RunId) -> M,
    M: Future<Output = Made>,
{
    let Some((source, run)) = app.sources.find(key) else { return not_found() };
    // Before anything is read: what is written meanwhile makes the tag too old, never too new.
    let count = match source.changes.count().await {
        Ok(count) => count,
        Err(error) => return failed(&error.into()),
    };
    tagged(headers, &format!("{:x}-{count}", app.started), make(source, run)).await
}

async fn tagged(headers: &HeaderMap, tag: &str, make: impl Future<Output = Made>) -> Response {
    let tag = format!("\"{tag}\"");
    let is_known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match make.await {
            Ok(Some(value)) => typed("application/json", value.to_string()),
            Ok(None) => return not_found(),
            Err(error) => return failed(&error),
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
    tracing::warn!(error = %crate::error::chain(error).join(": "), "a page could not be made");
    let body = json!({ "error": crate::error::chain(error).join(": ") });
    (StatusCode::INTERNAL_SERVER_ERROR, typed("application/json", body.to_string())).into_response()
}
