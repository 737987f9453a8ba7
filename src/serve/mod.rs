//! The pages of runs in a browser: a server on this machine, or one file to send to a colleague.
//!
//! Reads and never writes: databases are opened read-only, every route answers GET. What a model or a problem file says
//! leaves here as JSON text and reaches the page as text, never as markup; the page may load nothing from elsewhere and
//! run no script but its own (`Content-Security-Policy`). The server listens on this machine only unless it is forced to
//! do otherwise, and answers no request that was addressed to a foreign name, which is how a web page elsewhere would
//! reach it through the reader's own browser.
//!
//! Deliberately absent: accounts, sessions, and anything that changes a run.

mod api;
mod assets;
mod curves;
mod error;
mod file;
mod guard;
mod prometheus;
mod router;
mod source;
mod text;
mod tree;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use error::ServeError;
pub use file::{PageFile, page_file};

/// How long open connections may take to end once the server was asked to stop.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is served, where, and to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Databases, run folders, and folders with run folders in them; the last are looked through again and again, so
    /// that a new run appears by itself.
    pub paths: Vec<PathBuf>,
    /// Name of the database in a run folder.
    pub database: &'static str,
    /// Where to listen; port 0 is a free one.
    pub listen: SocketAddr,
    /// Listen also where other machines can reach it.
    pub is_forced: bool,
    /// Names, beside `localhost` and addresses, under which the server may be asked for.
    pub hosts: Vec<String>,
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    router: axum::Router,
    address: SocketAddr,
    count: usize,
}

impl Server {
    /// Opens the databases and begins to listen.
    ///
    /// # Errors
    /// An address that others can reach and that was not forced, or that is in use; a path in which no database is, or
    /// one that cannot be read.
    pub async fn bind(options: Options) -> Result<Server, ServeError> {
        if !options.listen.ip().is_loopback() && !options.is_forced {
            return Err(ServeError::Public { address: options.listen });
        }
        let sources = source::Sources::open(options.paths, options.database).await?;
        let count = sources.all().len();
        let failed = |source| ServeError::Bind { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = router::router(sources, options.hosts);
        Ok(Server { listener, router, address, count })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Databases it has found.
    pub fn database_count(&self) -> usize {
        self.count
    }

    /// Answers until it is asked to stop; requests that are being answered are finished.
    ///
    /// # Errors
    /// The system ends it.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServeError> {
        let asked = stop.clone();
        let serving = axum::serve(self.listener, self.router).with_graceful_shutdown(stop.cancelled_owned());
        let late = async {
            asked.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            ended = std::future::IntoFuture::into_future(serving) => ended.map_err(|source| ServeError::Ended { source }),
            () = late => Ok(()),
        }
    }
}
