//! Where something was written, and what is wrong with it.

use std::fmt;

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file; line 0 stands for the file as a whole.
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line: 0 } => f.write_str(file),
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A configuration that cannot be used: where, what is wrong, and what is allowed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong with it, and what is allowed.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(origin: &Origin, problem: impl Into<String>) -> Self {
        Self { origin: origin.clone(), problem: problem.into() }
    }
}
