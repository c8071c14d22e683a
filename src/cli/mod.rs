//! The command line: one binary, `hatokuse`, with a subcommand for each thing it can be.
//!
//! This is the top floor and the only place that knows all others: it turns configuration and flags
//! into what the components below ask for, starts them, and says how it went. What it promises to
//! those who call it from scripts:
//!
//! * **Standard output is for programs, standard error for people.** What was asked for goes to
//!   standard output, as a table or, with `-o json`, as JSON; hints, progress and errors never do.
//! * **Exit codes**: 0 done, 1 failed, 2 wrong usage, 3 done but degraded (fewer copies than
//!   `tolerance` asks for).
//! * The lines that `leader`, `node` and `dev` print are a contract ([`announce`]).
//! * Errors say what was wrong and what to do about it. This is where errors end: below, each
//!   module has its own type; here they become one message (`anyhow`).

mod admin;
pub mod announce;
mod arguments;
mod chaos;
mod console;
mod data;
mod dev;
mod health;
mod node;
mod operations;
mod output;
mod rebuild;
mod recovery;
mod serve;
mod slots;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::client::http::HttpError;
use crate::client::{Client, ClientError, Options};
use crate::config::ConfigError;
use admin::Refused;
use arguments::{Arguments, Command, Global, NodeCommand};
use output::{Outcome, Output};

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(outcome) => outcome.into(),
        Err(error) if output::is_closed_pipe(&error) => Outcome::Done.into(),
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            if let Some(hint) = hint(&error) {
                anstream::eprintln!("hint: {hint}");
            }
            let misused = error.downcast_ref::<ConfigError>().is_some();
            if misused { Outcome::Misused.into() } else { Outcome::Failed.into() }
        }
    }
}

fn dispatch(arguments: Arguments) -> anyhow::Result<Outcome> {
    let global = arguments.global;
    let mut output = Output::new(global.output);
    match arguments.command {
        Command::Leader(leader) => serve::leader::run(&global, &leader),
        Command::Node(NodeCommand { operation: Some(operation), .. }) => {
            ask(node::run(&global, &mut output, operation))
        }
        Command::Node(NodeCommand { run, .. }) => serve::node::run(&global, &run),
        Command::Dev(dev) => dev::run(&global, &dev),
        Command::Chaos(arguments) => ask(chaos::run(&global, &mut output, &arguments)),
        Command::Client => console::run(&global),
        Command::Get(key) => ask(data::get(&global, &mut output, key)),
        Command::Set(pair) => ask(data::set(&global, &mut output, pair)),
        Command::Del(key) => ask(data::delete(&global, &mut output, key)),
        Command::Nodes => ask(operations::nodes(&global, &mut output)),
        Command::Files => ask(operations::files(&global, &mut output)),
        Command::Status => ask(operations::status(&global, &mut output)),
        Command::Where(key) => ask(operations::where_(&global, &mut output, key)),
        Command::RebuildMetadata(arguments) => ask(rebuild::run(&global, &mut output, arguments)),
        Command::ForceRecover(arguments) => ask(recovery::run(&global, &mut output, arguments)),
        Command::Slots(slots) => slots::run(&global, &mut output, slots.command),
        Command::Health(health) => ask(health::run(&global, &mut output, health)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "hatokuse", &mut script);
            output.bytes(&script)?;
            Ok(Outcome::Done)
        }
    }
}

/// Runs one command of a client: one thread is enough.
fn ask(command: impl Future<Output = anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    client_runtime()?.block_on(command)
}

fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// A client of the leader that the global flags name.
fn client(global: &Global) -> Client {
    let mut options = Options::new(global.client_addr());
    options.connect_timeout = global.timeout;
    options.reply_timeout = global.timeout;
    Client::new(options)
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(Refused(problem)) = error.downcast_ref() {
        return problem.hint.clone();
    }
    let hint = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ClientError::Connect { .. }), _) => {
            "is a leader running there? `hatokuse dev` starts a cluster on this machine; --addr \
             names another one"
        }
        (_, Some(HttpError::Io { .. })) => {
            "is a leader running there? --admin-addr names its admin port, 8080 unless it was \
             configured otherwise"
        }
        (Some(ClientError::Timeout { .. }), _) | (_, Some(HttpError::Timeout { .. })) => {
            "--timeout 30s waits longer"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}
