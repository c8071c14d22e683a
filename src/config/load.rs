//! Reads the files that a configuration consists of.
//!
//! The one part of `config` that touches the outside world. What the files hold is judged by the
//! pure part.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Origin};
use super::settings::VARIABLE_PREFIX;
use super::{File, Override, Settings, Sources, Variable};

/// Where the files are, if that was said. Without it, `config.yaml` is taken from the current
/// directory, and `tolerance.conf` from beside `config.yaml`, if they exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// `config.yaml`.
    pub config: Option<PathBuf>,
    /// `tolerance.conf`.
    pub tolerance: Option<PathBuf>,
}

impl Paths {
    /// These, and the files that are there though nobody named them. Whoever reads again later names
    /// them: a file that has gone by then is an error, and not the default.
    #[must_use]
    pub fn with_found(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let there = |path: PathBuf| fs::symlink_metadata(&path).is_ok().then_some(path);
        let named = environment.into_iter().any(|(name, _)| name == TOLERANCE_VARIABLE);
        let tolerance = (!named).then(|| there(self.beside().join("tolerance.conf"))).flatten();
        Self {
            config: self.config.clone().or_else(|| there(PathBuf::from("config.yaml"))),
            tolerance: self.tolerance.clone().or(tolerance),
        }
    }

    /// The folder of `config.yaml`.
    fn beside(&self) -> &Path {
        self.config.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new(""))
    }
}

/// The variable that says where `tolerance.conf` is.
const TOLERANCE_VARIABLE: &str = "HATOKUSE_TOLERANCE_FILE";

/// A configuration file larger than this is none.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads and checks the configuration. `environment` is usually [`std::env::vars_os`].
///
/// # Errors
/// A file that was named and cannot be read, or anything that is wrong in what was written.
pub fn load(
    paths: &Paths,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: Vec<Override>,
) -> Result<Settings, ConfigError> {
    let config = match &paths.config {
        Some(path) => Some(named(path)?),
        None => if_there(Path::new("config.yaml"))?,
    };
    let mut variables = BTreeMap::new();
    for (name, value) in environment {
        if let Some(name) = setting_variable(&name) {
            let origin = Origin::Variable(name.clone());
            let value = value.into_string();
            let value =
                value.map_err(|_| ConfigError::new(&origin, "the value is not UTF-8 text"))?;
            variables.insert(name, value);
        }
    }
    let tolerance_file = variables.remove(TOLERANCE_VARIABLE).map(PathBuf::from);
    let tolerance = match paths.tolerance.as_ref().or(tolerance_file.as_ref()) {
        Some(path) => Some(named(path)?),
        None => if_there(&paths.beside().join("tolerance.conf"))?,
    };
    let environment = variables.into_iter().map(variable).collect::<Result<_, _>>()?;
    Settings::from_sources(&Sources { config, tolerance, environment, overrides })
}

/// The name of a variable that gives a setting: one with a section and a key, or the tolerance.
/// Other `HATOKUSE_` variables belong to the command line.
fn setting_variable(name: &OsString) -> Option<String> {
    let name = name.to_str()?;
    let rest = name.strip_prefix(VARIABLE_PREFIX)?;
    let setting = rest.contains("__") || rest == "TOLERANCE" || name == TOLERANCE_VARIABLE;
    setting.then(|| name.to_owned())
}

/// The variable with its value, which may be in a file.
fn variable((name, value): (String, String)) -> Result<Variable, ConfigError> {
    if !name.ends_with("_FILE") {
        return Ok(Variable { name, value });
    }
    let text = read(Path::new(&value)).map_err(|error| {
        let origin = Origin::Variable(name.clone());
        ConfigError::new(&origin, format!("cannot read {value}: {error}"))
    })?;
    Ok(Variable { name, value: text.trim().to_owned() })
}

/// A file that must be there, because somebody named it.
fn named(path: &Path) -> Result<File, ConfigError> {
    let name = path.display().to_string();
    let text = read(path).map_err(|error| {
        let origin = Origin::Line { file: name.clone(), line: 0 };
        ConfigError::new(&origin, format!("cannot read it: {error}"))
    })?;
    Ok(File { name, text })
}

/// A file that need not be there, but must be readable if it is.
fn if_there(path: &Path) -> Result<Option<File>, ConfigError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => named(path).map(Some),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path)?;
    if file.metadata()?.nlink() == 0 {
        // So it is with one file mounted into a container, once another was put in its place.
        let problem = "another file was put in its place, which cannot be seen from here; write into \
                       the file instead of replacing it, or restart this container";
        return Err(io::Error::new(io::ErrorKind::NotFound, problem));
    }
    file.by_ref().take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    Ok(text)
}
