//! What operators decided that may cost data, written down where the metadata lies: one line of JSON
//! for each, in `audit.log`, durable before anything is done about it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::runtime::{clock, workers};

const NAME: &str = "audit.log";

/// The file. Clones write to the same.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    path: PathBuf,
}

#[derive(Serialize)]
struct Line<'a, T> {
    time: String,
    decision: &'a str,
    #[serde(flatten)]
    details: &'a T,
}

impl Audit {
    /// The file in the leader's data directory.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join(NAME) }
    }

    /// Writes a decision down, durably. `details` is a structure with fields of its own.
    pub(crate) async fn record(&self, decision: &str, details: &impl Serialize) -> io::Result<()> {
        let since = u64::try_from(clock::wall_milliseconds()).unwrap_or(0);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(since);
        let time = humantime::format_rfc3339_millis(time).to_string();
        let mut line = serde_json::to_vec(&Line { time, decision, details })?;
        line.push(b'\n');
        let path = self.path.clone();
        workers::once(move || append(&path, &line)).await?
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(line)?;
    file.sync_all()?;
    // A new file is there after a power cut only if its directory is synced.
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_decision_is_a_line_of_its_own() {
        #[derive(Serialize)]
        struct Details {
            stores: [u8; 2],
        }
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::in_directory(directory.path());
        for stores in [[1, 2], [3, 4]] {
            audit.record("tested", &Details { stores }).await.unwrap();
        }
        let text = std::fs::read_to_string(directory.path().join(NAME)).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["decision"], "tested");
        assert_eq!(lines[1]["stores"][0], 3);
        assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'));
    }
}
