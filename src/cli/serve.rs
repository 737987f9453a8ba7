//! `orchestrator serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Printer;
use crate::error::Failure;
use crate::run::DATABASE;
use crate::serve::{Options, Server};

/// Look at runs in a browser: curves, trees, problems, also while they go on.
///
/// The page is part of this program and loads nothing from elsewhere; databases are read and never written. The address goes
/// to standard output. Under /metrics are the newest figures of each run for Prometheus.
///
/// Examples:
///   orchestrator serve                             every run below runs/
///   orchestrator serve runs/quickstart runs/mine   two runs, one over the other
///   orchestrator serve --listen 8080               at a port of your choice
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Run folders, databases, or folders with run folders in them; without any, `runs`.
    #[arg(value_name = "RUN")]
    paths: Vec<PathBuf>,
    /// Where to listen: a port, an address, or both as in 127.0.0.1:8080. Without it 127.0.0.1 and a free port.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Listen also at an address that other machines can reach: everybody there can read the runs.
    #[arg(long)]
    force: bool,
    /// A name under which the server may be asked for, beside localhost and addresses. May be given several times.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let parsed = text.parse::<SocketAddr>().ok();
    let parsed = parsed.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0)));
    let parsed = parsed.or_else(|| text.parse::<u16>().ok().map(|port| SocketAddr::new(local, port)));
    parsed.ok_or_else(|| "has to be a port, an IP address, or both".to_owned())
}

/// Runs the subcommand.
///
/// # Errors
/// An address that cannot be used, or no run.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let paths = if args.paths.is_empty() { vec!["runs".into()] } else { args.paths };
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let options = Options { paths, database: DATABASE, listen, is_forced: args.force, hosts: args.hosts };
    super::session::runtime()?.block_on(async {
        let server = Server::bind(options).await?;
        let stop = CancellationToken::new();
        let asked = stop.clone();
        let signals = tokio::spawn(async move {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                // Without handlers the default action ends the process, and there is nothing to lose.
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            asked.cancel();
        });
        printer.note(&format!("{} databases; Ctrl-C ends it", server.database_count()));
        printer.data(&format!("http://{}/", server.address()))?;
        server.run(stop).await?;
        signals.abort();
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_port() {
        assert_eq!(address("8080"), Ok("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(address("0.0.0.0"), Ok("0.0.0.0:0".parse().unwrap()));
        assert_eq!(address("[::1]:9"), Ok("[::1]:9".parse().unwrap()));
        assert!(address("gpu7:80").is_err() && address("70000").is_err());
    }
}
