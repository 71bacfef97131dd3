//! Which path gives which answer, what is refused, and the headers that every answer has. Called by `server`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use super::watch::Watch;
use super::{assets, metrics};

const JSON: &str = "application/json";

/// Every path. `loopback` says that only this machine can connect.
pub fn router(watch: Arc<Watch>, loopback: bool) -> Router {
    let mut router = Router::new()
        .route("/metrics", get(prometheus))
        .route("/healthz", get(healthz))
        .route("/api/status", get(status))
        .route("/api/latency", get(latency))
        .route("/api/cycles", get(cycles))
        .route("/api/chunk", get(chunk));
    for asset in assets::ALL {
        router = router.route(asset.path, get(|| async { answer(asset.content_type, asset.text) }));
    }
    router
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here; the page is at /\n") })
        .layer(middleware::from_fn(move |request, next| guard(loopback, request, next)))
        .with_state(watch)
}

/// Refuses what no reader needs, and adds the headers.
async fn guard(loopback: bool, request: Request, next: Next) -> Response {
    let mut response = match refusal(loopback, request.method(), request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    for (name, value) in SECURITY {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Of every answer: the page loads and talks to nothing but this server, and nothing else may embed or keep it.
const SECURITY: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

fn refusal(loopback: bool, method: &Method, headers: &HeaderMap) -> Option<Response> {
    if method != Method::GET && method != Method::HEAD {
        let allow = [(header::ALLOW, "GET, HEAD"), (header::CONNECTION, "close")];
        return Some((StatusCode::METHOD_NOT_ALLOWED, allow, "this is read-only\n").into_response());
    }
    let length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if length || headers.contains_key(header::TRANSFER_ENCODING) {
        let close = [(header::CONNECTION, "close")];
        return Some((StatusCode::PAYLOAD_TOO_LARGE, close, "requests have no body here\n").into_response());
    }
    // A web page elsewhere whose name was made to point to this machine would else read what only this machine may.
    if loopback && !headers.get(header::HOST).is_none_or(names_this_machine) {
        let message = "ask for this machine by address or as localhost\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, message).into_response());
    }
    None
}

fn names_this_machine(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn answer(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

async fn prometheus(State(watch): State<Arc<Watch>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = metrics::Format::accepted(accept);
    answer(format.content_type(), watch.metrics(format))
}

async fn healthz(State(watch): State<Arc<Watch>>) -> Response {
    let (running, body) = watch.health();
    let status = if running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, answer(JSON, body)).into_response()
}

async fn status(State(watch): State<Arc<Watch>>) -> Response {
    answer(JSON, watch.status())
}

async fn latency(State(watch): State<Arc<Watch>>) -> Response {
    answer(JSON, watch.latency())
}

#[derive(Deserialize)]
struct After {
    /// The first cycle that is wanted.
    #[serde(default)]
    from: u64,
}

async fn cycles(State(watch): State<Arc<Watch>>, Query(after): Query<After>) -> Response {
    answer(JSON, watch.cycles(after.from))
}

async fn chunk(State(watch): State<Arc<Watch>>) -> Response {
    answer(JSON, watch.chunk())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_addresses_and_one_name() {
        for host in ["127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]:9464", "[::1]", "192.168.0.7"] {
            assert!(names_this_machine(&HeaderValue::from_static(host)), "{host}");
        }
        for host in ["evil.example:9464", "localhost.evil.example", "", "127.0.0.1.evil.example:80"] {
            assert!(!names_this_machine(&HeaderValue::from_static(host)), "{host}");
        }
    }
}
