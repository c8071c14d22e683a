//! Logs: set up once, by whoever starts the process.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// The environment variable that overrides the configured filter.
pub const FILTER_VARIABLE: &str = "HATOKUSE_LOG";
const DEFAULT_FILTER: &str = "info";

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Where logs go.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is logged, like `info` or `hatokuse=debug,warn`; `HATOKUSE_LOG` overrides it.
    pub filter: Option<String>,
    /// How it looks.
    pub format: Format,
    /// The file that is appended to; standard error if there is none.
    pub file: Option<PathBuf>,
}

/// Logs that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("'{filter}' is not a log filter; write for example info, or hatokuse=debug,warn")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The file cannot be opened.
    #[error("cannot write the log to {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Logs were set up before.
    #[error("logs are set up already")]
    Twice,
}

/// Starts logging as these options say, for the rest of the process's life.
pub fn start(options: &Options) -> Result<(), Error> {
    let to_terminal = options.file.is_none() && io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(options)?)
        .with_writer(writer(options)?)
        .with_ansi(to_terminal);
    let started = match options.format {
        Format::Text => subscriber.try_init(),
        Format::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| Error::Twice)
}

/// The environment is read here and not with the configuration: logs must work while that is read.
fn filter(options: &Options) -> Result<EnvFilter, Error> {
    let from_environment = std::env::var_os(FILTER_VARIABLE).filter(|filter| !filter.is_empty());
    let filter = from_environment
        .map(|filter| filter.to_string_lossy().into_owned())
        .or_else(|| options.filter.clone())
        .unwrap_or_else(|| DEFAULT_FILTER.into());
    EnvFilter::try_new(&filter).map_err(|source| Error::Filter { filter, source })
}

fn writer(options: &Options) -> Result<BoxMakeWriter, Error> {
    let Some(path) = &options.file else { return Ok(BoxMakeWriter::new(io::stderr)) };
    let file: Result<File, io::Error> = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|source| Error::File { path: path.clone(), source })?;
    Ok(BoxMakeWriter::new(Mutex::new(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_said() {
        let options = Options { filter: Some("loud=extremely".into()), ..Options::default() };
        let error = filter(&options).unwrap_err().to_string();
        assert!(error.contains("loud=extremely"), "{error}");
        let options = Options { file: Some("/nowhere/at/all".into()), ..Options::default() };
        let error = writer(&options).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
