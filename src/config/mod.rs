//! Configuration: from what people wrote to [`Settings`] that can be relied on, or an error that
//! says where it is wrong and what is allowed.
//!
//! There are three sources, each stronger than the one before:
//!
//! 1. `config.yaml`, with the sections `leader`, `node`, `storage`, `limits`, `security` and
//!    `telemetry`, and `tolerance.conf` for the one number that people change most;
//! 2. the environment: `HATOKUSE_LEADER__CLIENT_PORT=6000` is `leader.client_port: 6000`, and
//!    `..._FILE` names a file that holds the value, as secrets come in containers;
//! 3. flags of the command line, handed in as [`Override`]s.
//!
//! All three become a list of assignments - a key, a value, where it was written - and one
//! table of keys reads them. So a wrong value gets the same explanation wherever it was written,
//! with file and line, variable or flag; an unknown key is refused, with the nearest one suggested;
//! and a setting that a later version will have is refused too, because a setting that does nothing
//! is a lie. Nothing is patched up quietly: an impossible value stops the start.
//!
//! Everything here is pure but [`load`], which reads the files.

mod document;
mod error;
mod keys;
pub mod load;
mod settings;
mod suggestion;
mod tolerance;
mod value;

#[cfg(test)]
mod tests;

pub use error::{ConfigError, Origin};
pub use settings::{
    ClientAuthentication, IoMode, LeaderSettings, Limits, Listener, LogFormat, NodeSettings,
    ReplyMode, Reserve, Settings, StorageSettings, TelemetrySettings,
};
pub use tolerance::{DEFAULT_TOLERANCE, MAX_TOLERANCE, parse_tolerance};

/// A file that was read: its name as errors show it, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The name.
    pub name: String,
    /// The text.
    pub text: String,
}

/// A setting that a flag of the command line gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key, like `leader.client_port`, or `tolerance`.
    pub path: String,
    /// The value as it was typed.
    pub value: String,
    /// The flag, like `--client-port`, for errors.
    pub flag: String,
}

/// A variable of the environment that gives a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name, like `HATOKUSE_LEADER__CLIENT_PORT`.
    pub name: String,
    /// Its value, or what the file it names holds.
    pub value: String,
}

/// Everything that was written, in order of strength.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `config.yaml`, if there is one.
    pub config: Option<File>,
    /// `tolerance.conf`, if there is one.
    pub tolerance: Option<File>,
    /// Variables of the environment that begin with `HATOKUSE_` and give settings.
    pub environment: Vec<Variable>,
    /// Flags.
    pub overrides: Vec<Override>,
}
