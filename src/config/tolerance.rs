//! `tolerance.conf`: how many copies each value gets.

use super::File;
use super::error::{ConfigError, Origin};

/// Copies where nothing else is said.
pub const DEFAULT_TOLERANCE: usize = 4;
/// The most copies that may be asked for.
pub const MAX_TOLERANCE: usize = 7;

const ALLOWED: &str = "write one number from 1 to 7, bare or as tolerance=4";

/// The number that `text` is, if it is a tolerance.
pub(super) fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_TOLERANCE).contains(number));
    number.ok_or_else(|| format!("'{}' is not a tolerance; {ALLOWED}", text.escape_debug()))
}

/// Reads the file: one number, bare or as `tolerance=4`; what follows a `#` is a comment.
///
/// # Errors
/// Where there is something else, no number, or a second one.
pub fn parse_tolerance(file: &File) -> Result<usize, ConfigError> {
    located(file).map(|(number, _)| number)
}

/// As [`parse_tolerance`], and where the number is.
pub(super) fn located(file: &File) -> Result<(usize, Origin), ConfigError> {
    let at = |line| Origin::Line { file: file.name.clone(), line };
    let mut found = None;
    for (line, text) in (1..).zip(file.text.trim_start_matches('\u{feff}').lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        if found.is_some() {
            return Err(ConfigError::new(&at(line), format!("a second value; {ALLOWED}")));
        }
        let value =
            number(value_of(text)).map_err(|problem| ConfigError::new(&at(line), problem))?;
        found = Some((value, at(line)));
    }
    found.ok_or_else(|| ConfigError::new(&at(0), format!("there is no number; {ALLOWED}")))
}

/// What follows `tolerance=`, or all of it.
fn value_of(text: &str) -> &str {
    match text.split_once(['=', ':']) {
        Some((name, value)) if name.trim_end().eq_ignore_ascii_case("tolerance") => value.trim(),
        _ => text,
    }
}
