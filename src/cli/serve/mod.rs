//! `leader` and `node`: settings become options, and the process lives until it is told to stop.
//!
//! Both do the same things in the same order: read the configuration and refuse a wrong one, start
//! the log, open the ports, say so on standard output (a contract, see
//! [`announce`](super::announce)), and end in good order when they are asked to: by SIGTERM, by
//! SIGINT, or, as children of `dev`, by the end of their standard input.

pub(super) mod leader;
pub(super) mod node;
mod parent;

use std::path::PathBuf;
use std::thread;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

pub(super) use parent::Parent;

use super::arguments::Global;
use crate::config::load::{self, Paths};
use crate::config::{LogFormat, Override, Settings};
use crate::runtime::telemetry;

/// Reads the configuration.
fn read(paths: &Paths, overrides: Vec<Override>) -> anyhow::Result<Settings> {
    Ok(load::load(paths, std::env::vars_os(), overrides)?)
}

/// The settings of whoever reads what a node has written.
pub(super) fn settings(global: &Global, overrides: Vec<Override>) -> anyhow::Result<Settings> {
    read(&paths(global, None), overrides)
}

/// Where the configuration is, named file by file, so that none can be missed later.
fn paths(global: &Global, tolerance: Option<&PathBuf>) -> Paths {
    let paths = Paths { config: global.config.clone(), tolerance: tolerance.cloned() };
    paths.with_found(std::env::vars_os())
}

/// Starts the log, and begins it with what somebody who chose these settings should know.
fn start_log(settings: &Settings) -> anyhow::Result<()> {
    telemetry::start(&telemetry::Options {
        filter: Some(settings.telemetry.log.clone()),
        format: match settings.telemetry.log_format {
            LogFormat::Text => telemetry::Format::Text,
            LogFormat::Json => telemetry::Format::Json,
        },
        file: None,
    })?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(())
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A runtime with so many threads. One alone needs no locks and no waking of others: on few
/// processors it is the fastest.
fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = match threads {
        0 | 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("cannot start the runtime")
}
