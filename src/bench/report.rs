//! Figures as tables that a newcomer understands.

use std::fmt::{self, Display};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use super::load::{Load, Mix};
use super::options::{IoMode, Peer};
use super::recorder::Measurement;

/// From this share of all processors' time on they are the limit.
const PROCESSORS_FULL: f64 = 0.85;
/// From this share of one processor's time on the driver's one thread is the limit.
const DRIVER_FULL: f64 = 0.93;
/// From this share of the time on the disk is the limit.
const DISK_FULL: f64 = 0.70;
/// Bytes in the values that the goals are for.
const GOAL_VALUE_BYTES: usize = 100;

/// What all processes of one role have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Processor time in the measured time.
    pub cpu: Duration,
    /// Memory of the largest of them at its end, in bytes.
    pub memory: u64,
}

/// What one run of one work on one system came to.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What the clients saw.
    pub measurement: Measurement,
    /// The process that clients talk to.
    pub front: Share,
    /// The other processes.
    pub back: Share,
    /// The load driver itself.
    pub driver: Share,
    /// Syncs of files that the system counted; nothing if it counts none.
    pub fsyncs: Option<u64>,
    /// Flushes of the disk's cache, whoever asked for them.
    pub flushes: Option<u64>,
    /// The share of all processors' time that was used, by whomever.
    pub processors: f64,
    /// The share of the time that the disk had something to do.
    pub disk: Option<f64>,
}

/// What kept a run from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The load driver: the figure says little about the server.
    Driver,
    /// The machine's processors.
    Processor,
    /// The disk.
    Disk,
    /// Neither: clients and processes waited for each other.
    RoundTrips,
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Processor => "processor",
            Self::Disk => "disk",
            Self::RoundTrips => "round trips",
        })
    }
}

impl Figures {
    /// What kept this run from being faster.
    pub fn limit(&self) -> Limit {
        let time = self.measurement.time.as_secs_f64();
        if self.driver.cpu.as_secs_f64() >= DRIVER_FULL * time {
            Limit::Driver
        } else if self.processors >= PROCESSORS_FULL {
            Limit::Processor
        } else if self.disk.is_some_and(|busy| busy >= DISK_FULL) {
            Limit::Disk
        } else {
            Limit::RoundTrips
        }
    }

    fn cells(&self) -> Vec<String> {
        let figures = &self.measurement;
        vec![
            whole(figures.rate()),
            milliseconds(figures.quantile(0.5)),
            milliseconds(figures.quantile(0.99)),
            milliseconds(figures.quantile(0.999)),
            milliseconds(figures.longest()),
            self.each(self.front),
            self.each(self.back),
            self.each(self.driver),
            self.per_second(self.fsyncs),
            self.per_second(self.flushes),
            megabytes(self.front.memory),
            megabytes(self.back.memory),
            format!("{} %", whole(self.processors * 100.0)),
            self.disk.map_or("n/a".to_owned(), |busy| format!("{} %", whole(busy * 100.0))),
            self.limit().to_string(),
        ]
    }

    /// Processor time for each operation, in microseconds.
    fn each(&self, share: Share) -> String {
        let answered = count(self.measurement.answered);
        if answered > 0.0 {
            format!("{:.1}", share.cpu.as_secs_f64() * 1e6 / answered)
        } else {
            "n/a".to_owned()
        }
    }

    fn per_second(&self, number: Option<u64>) -> String {
        let rate = |number| whole(count(number) / self.measurement.time.as_secs_f64());
        number.map_or("n/a".to_owned(), rate)
    }

    /// What a reader must know besides the figures.
    fn remarks(&self) -> Vec<String> {
        let figures = &self.measurement;
        let mut remarks = Vec::new();
        if figures.degraded > 0 {
            remarks.push(format!(
                "{} of {} writes were acknowledged with fewer copies than asked for",
                figures.degraded, figures.answered
            ));
        }
        if let Some(refusal) = &figures.refusal {
            let refused = figures.refused;
            remarks.push(format!("{refused} requests were refused; the first: {refusal}"));
        }
        remarks
    }
}

/// The names of a system's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// The system.
    pub name: &'static str,
    /// The process that clients talk to.
    pub front: &'static str,
    /// The others.
    pub back: &'static str,
}

/// What the figures of one work mean, for those who see them for the first time.
const LEGEND: &str = "\
ops/s           operations that were answered, and answered rightly, per second
p50 ... longest half, 99 %, 99.9 % and all of the operations took at most this many milliseconds
us/op           processor time for each operation, in microseconds, all processes of a kind together
fsync/s flush/s syncs of files the system counted; cache flushes of the disk (one may serve several)
MB              memory of the process, of the largest if there are several
busy            share of the time that the processors (all programs), and the disk, had work
limit           driver: the load driver's own thread was full; processor: the machine's were (85 %);
                disk: it was at work 70 % of the time; round trips: none was, all waited for each other";

const COLUMNS: [&str; 15] = [
    "ops/s", "p50", "p99", "p99.9", "longest", "", "", "driver", "fsync/s", "flush/s", "", "",
    "cpu", "disk", "limit",
];
/// Where the names of the processes go in [`COLUMNS`].
const FRONT: [usize; 2] = [5, 10];
const BACK: [usize; 2] = [6, 11];

fn headings(first: &[&str], words: Words) -> Vec<String> {
    let units = |at: usize, name: &str| match at {
        1..=4 => format!("{name}\nms"),
        5..=7 => format!("{name}\nus/op"),
        10..=11 => format!("{name}\nMB"),
        12..=13 => format!("{name}\nbusy"),
        _ => name.to_owned(),
    };
    let columns = COLUMNS.iter().enumerate().map(|(at, name)| match at {
        at if FRONT.contains(&at) => units(at, words.front),
        at if BACK.contains(&at) => units(at, words.back),
        _ => units(at, name),
    });
    first.iter().map(|name| (*name).to_owned()).chain(columns).collect()
}

/// A table whose first columns are texts, and the others figures.
fn table(headings: Vec<String>, texts: usize, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings).add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if at >= texts {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The figures of one system, a row for each work.
pub fn alone(words: Words, runs: &[(Load, Figures)]) -> String {
    let sizes: Vec<_> = runs.iter().map(|(load, _)| load.value_bytes).collect();
    let one_size = sizes.windows(2).all(|pair| pair.first() == pair.last());
    let name = |load: &Load| {
        if one_size { load.to_string() } else { format!("{load}, {} B", load.value_bytes) }
    };
    let row = |(load, figures): &(Load, Figures)| [vec![name(load)], figures.cells()].concat();
    let mut text = table(headings(&["work"], words), 1, runs.iter().map(row).collect());
    for (load, figures) in runs {
        let remarks = figures.remarks().into_iter();
        text.extend(remarks.map(|remark| format!("! {}: {remark}\n", name(load))));
    }
    text + "\n" + LEGEND + "\n"
}

/// One turn: ours, and theirs directly after.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Ours.
    pub ours: Figures,
    /// Theirs.
    pub theirs: Figures,
}

impl Turn {
    /// How many times as many operations per second are ours.
    fn ratio(&self) -> f64 {
        self.ours.measurement.rate() / self.theirs.measurement.rate()
    }
}

/// All turns of one work.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The work.
    pub load: Load,
    /// What is aimed at.
    pub goal: Option<Goal>,
    /// The turns.
    pub turns: Vec<Turn>,
}

/// A ratio that is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Its name among the goals.
    pub name: &'static str,
    /// At least this many times as many operations per second.
    pub ratio: f64,
}

impl Goal {
    /// The goal for a work with three copies, if there is one.
    pub fn of(load: &Load, peer: Peer, io_mode: IoMode) -> Option<Self> {
        if load.value_bytes != GOAL_VALUE_BYTES {
            return None;
        }
        let (name, ratio) = match (peer, io_mode, load.mix, load.clients, load.pipeline) {
            (Peer::Redis, IoMode::Unbuffered, Mix::SET, 50, 1) => ("P1", 1.6),
            (Peer::Redis, IoMode::Unbuffered, Mix::SET, 200, 1) => ("P1", 1.9),
            (Peer::Redis, IoMode::Unbuffered, Mix::SET, 50, 16) => ("P2", 2.4),
            (Peer::Etcd, IoMode::Unbuffered, Mix::SET, 50, 1) => ("P3", 4.0),
            (Peer::Redis, IoMode::Buffered, Mix::SET, 50, 1) => ("P4", 1.2),
            (Peer::Redis, _, Mix::GET, 50, 1) => ("P5", 1.0),
            (Peer::Redis, _, Mix::GET, 50, 16) => ("P5", 1.3),
            _ => return None,
        };
        Some(Self { name, ratio })
    }
}

impl Comparison {
    /// The ratios, the smallest first.
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<_> = self.turns.iter().map(Turn::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// The ratio in the middle; of two, their mean.
    pub fn median(&self) -> Option<f64> {
        let ratios = self.ratios();
        let upper = ratios.get(ratios.len() / 2)?;
        let lower = ratios.get((ratios.len() - 1) / 2)?;
        Some(f64::midpoint(*lower, *upper))
    }

    fn summary(&self) -> Vec<String> {
        let ratios = self.ratios();
        let spread = ratios.first().zip(ratios.last());
        let spread = spread.map(|(least, most)| format!("{least:.2} - {most:.2}"));
        let (median, none) = (self.median(), || "n/a".to_owned());
        let goal = self.goal.map(|goal| format!("{} {:.1} x", goal.name, goal.ratio));
        let verdict = self.goal.zip(median).map(|(goal, median)| {
            if median >= goal.ratio { "reached" } else { "not reached" }.to_owned()
        });
        let rate = |figures: fn(&Turn) -> &Figures| {
            let mut rates: Vec<_> =
                self.turns.iter().map(|turn| figures(turn).measurement.rate()).collect();
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).map_or_else(none, |rate| whole(*rate))
        };
        vec![
            self.load.to_string(),
            rate(|turn| &turn.ours),
            rate(|turn| &turn.theirs),
            median.map_or_else(none, |median| format!("{median:.2} x")),
            spread.unwrap_or_else(none),
            goal.unwrap_or_else(|| "none".to_owned()),
            verdict.unwrap_or_default(),
        ]
    }
}

/// Two systems side by side: every run, then the ratios.
pub fn compared(ours: Words, theirs: Words, works: &[Comparison]) -> String {
    let roles = Words { name: "", front: "front", back: "others" };
    let mut text = format!(
        "front: the {} of {}, the {} of {}; others: the {} and the {}\n",
        ours.front, ours.name, theirs.front, theirs.name, ours.back, theirs.back
    );
    for work in works {
        let mut rows = Vec::new();
        let mut remarks = Vec::new();
        for (number, turn) in (1..).zip(&work.turns) {
            for (name, figures) in [(ours.name, &turn.ours), (theirs.name, &turn.theirs)] {
                let first = vec![format!("{number} {name}")];
                rows.push([first, figures.cells()].concat());
                let said = figures.remarks().into_iter();
                remarks.extend(said.map(|remark| format!("! turn {number}, {name}: {remark}\n")));
            }
        }
        let title = format!("\n{}, values of {} bytes\n", work.load, work.load.value_bytes);
        text.extend([title, table(headings(&["turn"], roles), 1, rows)]);
        text.extend(remarks);
    }
    let headings = ["work", ours.name, theirs.name, "ratio", "spread", "goal", ""];
    let headings = headings.map(str::to_owned).to_vec();
    let rows = works.iter().map(Comparison::summary).collect();
    text + "\n"
        + LEGEND
        + "\n\nMedians of ops/s, and of the turns' ratios:\n"
        + &table(headings, 1, rows)
}

/// A whole number with its thousands apart.
fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    if milliseconds < 100.0 { format!("{milliseconds:.2}") } else { whole(milliseconds) }
}

fn megabytes(bytes: u64) -> String {
    whole(count(bytes) / 1e6)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::recorder::Recorder;
    use crate::bench::recorder::Window;

    const OURS: Words = Words { name: "HaToKuSe", front: "leader", back: "nodes" };
    const THEIRS: Words = Words { name: "Redis", front: "primary", back: "replicas" };

    fn load(mix: Mix) -> Load {
        let reply_within = Duration::from_secs(1);
        Load { clients: 50, pipeline: 1, value_bytes: 100, mix, reply_within }
    }

    fn figures(rate: u64) -> Figures {
        let mut measurement = Recorder::new(false).finish(&Window::new());
        measurement.time = Duration::from_secs(2);
        measurement.answered = rate * 2;
        for micros in 1..=1000 {
            measurement.latencies.saturating_record(micros);
        }
        let share = |micros| Share { cpu: Duration::from_micros(micros), memory: 34_000_000 };
        Figures {
            measurement,
            front: share(900_000),
            back: share(1_500_000),
            driver: share(300_000),
            fsyncs: Some(4_000),
            flushes: None,
            processors: 0.91,
            disk: Some(0.4),
        }
    }

    #[test]
    fn a_table_says_what_was_measured() {
        let mut second = figures(1);
        second.measurement.degraded = 1;
        second.measurement.refused = 7;
        second.measurement.refusal = Some("BUSY later".to_owned());
        let runs = [(load(Mix::SET), figures(50_000)), (load(Mix::GET), second)];
        let text = alone(OURS, &runs);
        let row = text.lines().find(|line| line.starts_with("SET")).unwrap();
        let cells: Vec<_> = row.split_whitespace().collect();
        let expected = "SET, 50 clients 50,000 0.50 0.99 1.00 1.00 9.0 15.0 3.0 2,000 n/a 34 34 \
                        91 % 40 % processor";
        assert_eq!(cells.join(" "), expected);
        assert!(text.contains("leader") && text.contains("nodes"), "{text}");
        assert!(text.contains("! GET, 50 clients: 1 of 2 writes were acknowledged with fewer"));
        assert!(text.contains("7 requests were refused; the first: BUSY later"));
    }

    #[test]
    fn the_limit_is_what_was_full() {
        let limit = |processors, disk, driver| {
            let mut figures = figures(10);
            figures.processors = processors;
            figures.disk = disk;
            figures.driver.cpu = Duration::from_secs_f64(driver);
            figures.limit()
        };
        assert_eq!(limit(0.9, Some(0.9), 1.0), Limit::Processor);
        assert_eq!(limit(0.9, Some(0.9), 1.95), Limit::Driver);
        assert_eq!(limit(0.5, Some(0.9), 1.0), Limit::Disk);
        assert_eq!(limit(0.5, Some(0.5), 1.0), Limit::RoundTrips);
        assert_eq!(limit(0.5, None, 1.0), Limit::RoundTrips);
    }

    #[test]
    fn ratios_have_a_median_a_spread_and_a_goal() {
        let turn = |ours, theirs| Turn { ours: figures(ours), theirs: figures(theirs) };
        let load = load(Mix::SET);
        let goal = Goal::of(&load, Peer::Redis, IoMode::Unbuffered);
        assert_eq!(goal, Some(Goal { name: "P1", ratio: 1.6 }));
        let mut work =
            Comparison { load, goal, turns: vec![turn(20, 10), turn(15, 10), turn(17, 10)] };
        assert_eq!(work.median(), Some(1.7));
        let text = compared(OURS, THEIRS, std::slice::from_ref(&work));
        let row = text.lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row, "SET, 50 clients 17 10 1.70 x 1.50 - 2.00 P1 1.6 x reached");
        assert_eq!(text.matches("Redis").count(), 5, "{text}");

        work.turns.pop();
        assert_eq!(work.median(), Some(1.75));
        work.goal = Some(Goal { name: "P1", ratio: 1.9 });
        let text = compared(OURS, THEIRS, std::slice::from_ref(&work));
        assert!(text.trim_end().ends_with("P1 1.9 x  not reached"), "{text}");
    }

    #[test]
    fn goals_are_for_the_works_they_were_set_for() {
        let mut other = load(Mix::SET);
        other.value_bytes = 1000;
        assert_eq!(Goal::of(&other, Peer::Redis, IoMode::Unbuffered), None);
        let etcd = Goal::of(&load(Mix::SET), Peer::Etcd, IoMode::Unbuffered);
        assert_eq!(etcd, Some(Goal { name: "P3", ratio: 4.0 }));
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(whole(1_234_567.4), "1,234,567");
        assert_eq!(whole(999.0), "999");
        assert_eq!(milliseconds(Duration::from_micros(1_234)), "1.23");
        assert_eq!(milliseconds(Duration::from_secs(12)), "12,000");
    }
}
