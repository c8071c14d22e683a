//! Every operation's time, for those who want to draw them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use hatokuse::bench::{Load, Measurement};

/// A file of comma-separated values, a line for each operation.
pub(super) struct Times {
    path: PathBuf,
    file: BufWriter<File>,
    rows: usize,
}

impl Times {
    /// A new file, which replaces an old one.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::new(file);
        writeln!(file, "work,value_bytes,system,turn,client,operation,begun_us,latency_us")?;
        Ok(Self { path: path.to_owned(), file, rows: 0 })
    }

    pub(super) fn write(
        &mut self,
        load: &Load,
        system: &str,
        turn: u8,
        measurement: &Measurement,
    ) -> anyhow::Result<()> {
        for sample in &measurement.samples {
            let (client, operation) = (sample.client, sample.operation.name());
            let (begun, micros, size) = (sample.begun.0, sample.micros, load.value_bytes);
            let row = format!("\"{load}\",{size},{system},{turn},{client},{operation}");
            writeln!(self.file, "{row},{begun},{micros}")?;
        }
        self.rows += measurement.samples.len();
        Ok(())
    }

    /// Says what was written.
    pub(super) fn finish(mut self) -> anyhow::Result<String> {
        self.file.flush()?;
        Ok(format!("\n{} times are in {}\n", self.rows, self.path.display()))
    }
}
