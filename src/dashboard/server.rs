//! Accepts connections and bounds what each may cost: their number, the time to send a request, to take an answer, and
//! to live at all. Run on the dashboard's thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{interval, sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::routes;
use super::watch::Watch;

/// Connections at a time; a browser opens up to six for a page.
pub const MOST_CONNECTIONS: usize = 32;
/// For a request's head, from the connection's start or the answer before.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For a client that takes nothing of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// After this, a connection ends with the answer under way.
const LIFETIME: Duration = Duration::from_secs(60);
/// For that answer.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Bytes of a request's head, and of an answer's part.
const BUFFER: usize = 16 << 10;
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

/// Gives this thread a lower priority than the rest of the node, where it may.
pub fn step_back() {
    const NICE: i32 = 10;
    // On Linux this is about the calling thread alone; elsewhere it would be about the whole node.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("the dashboard keeps the node's priority: {error}");
    }
}

/// Answers until `stop`.
pub async fn serve(
    listener: std::net::TcpListener,
    watch: &Arc<Watch>,
    stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let loopback = listener.local_addr()?.ip().is_loopback();
    let router = routes::router(Arc::clone(watch), loopback);
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut look = interval(Watch::INTERVAL);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            // Dropped, too: whoever held the other end is gone.
            _ = &mut stop => return Ok(()),
            _ = look.tick() => watch.look(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Arc::clone(&free).try_acquire_owned() {
                    Ok(permit) => drop(tokio::spawn(connection(stream, router.clone(), permit))),
                    Err(_) => { let _ = stream.try_write(TOO_MANY); }
                },
                // No descriptors are left, for example. Others may close some.
                Err(error) => {
                    tracing::debug!("the dashboard cannot accept a connection: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// One connection, with one of the permits, to its end.
async fn connection(stream: TcpStream, router: axum::Router, _permit: OwnedSemaphorePermit) {
    // Answers are small and whole: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(REQUEST_TIMEOUT));
    stream.set_write_timeout(Some(STALL_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    tokio::pin!(connection);
    // A connection that breaks is its client's own business.
    let ended = timeout(LIFETIME, connection.as_mut()).await;
    if ended.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }
}
