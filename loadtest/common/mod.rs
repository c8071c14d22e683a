//! Starts systems, drives them in turns, and prints what came of it.
//!
//! Each run begins with new, empty processes and ends them before the next begins: no system pays
//! for what another, or an earlier work, left to be done.

mod csv;
mod etcd;
mod ours;
mod process;
mod redis;
mod system;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use hatokuse::bench::options::{Peer, Plan};
use hatokuse::bench::report::{self, Comparison, Figures, Goal, Share, Turn};
use hatokuse::bench::{Driver, Load, Machine, Process};
use hatokuse::runtime::signals::Terminations;
use indicatif::{ProgressBar, ProgressStyle};

use csv::Times;
use system::{Kind, System};

/// How long a load runs before it counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);
/// What a shell says of a process that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Does what the command line says.
pub(crate) fn main(plan: Result<Plan, clap::Error>) -> ExitCode {
    let plan = plan.unwrap_or_else(|error| error.exit());
    match run(&plan) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> anyhow::Result<ExitCode> {
    if plan.list {
        plan.works.iter().for_each(|work| println!("{work}: benchmark"));
        return Ok(ExitCode::SUCCESS);
    }
    if plan.works.is_empty() {
        println!("no work has such a name; `-- --list` lists them");
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminations = Terminations::listen()?;
        tokio::select! {
            report = Session::new(plan)?.run() => report.map(|text| {
                print!("{text}");
                ExitCode::SUCCESS
            }),
            // What was started is ended with what is dropped here.
            _ = terminations.next() => Ok(ExitCode::from(INTERRUPTED)),
        }
    })
}

/// One start of a load test.
struct Session<'a> {
    plan: &'a Plan,
    progress: ProgressBar,
    times: Option<Times>,
}

impl<'a> Session<'a> {
    fn new(plan: &'a Plan) -> anyhow::Result<Self> {
        let systems = if plan.peer.is_some() { 2 } else { 1 };
        let runs = plan.works.len() * usize::from(plan.rounds) * systems;
        let ticks = (plan.time + WARM_UP).as_millis() / TICK.as_millis();
        // Drawn on a terminal only.
        let progress = ProgressBar::new(runs as u64 * u64::try_from(ticks)?);
        let style = "{bar:30} {elapsed_precise} of about {duration_precise}  {wide_msg}";
        progress.set_style(ProgressStyle::with_template(style)?);
        let times = plan.csv.as_deref().map(Times::create).transpose()?;
        Ok(Self { plan, progress, times })
    }

    async fn run(mut self) -> anyhow::Result<String> {
        let mut text = format!("{}\n", self.conditions());
        match self.plan.peer {
            None => text += &self.alone().await?,
            Some(peer) => text += &self.compare(peer).await?,
        }
        if let Some(times) = self.times {
            text += &times.finish()?;
        }
        self.progress.finish_and_clear();
        Ok(text)
    }

    /// What must be known about the conditions, before the figures.
    fn conditions(&self) -> String {
        let plan = self.plan;
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let seconds = plan.time.as_secs_f64();
        let mut lines = vec![
            format!("{processors} processors for all: systems and load driver; {seconds} s each"),
            format!("HaToKuSe: {}", Kind::Ours.durability(plan)),
        ];
        if let Some(kind) = plan.peer.map(Kind::of) {
            lines.push(format!("{}: {}", kind.words().name, kind.durability(plan)));
        }
        if cfg!(debug_assertions) {
            let how =
                "Built for tests: figures that are told to others are measured with --release";
            lines.push(how.to_owned());
        }
        if process::in_memory() {
            lines.push("! The data lies in memory (tmpfs): no sync costs anything here".to_owned());
        }
        lines.join("\n") + "\n"
    }

    async fn alone(&mut self) -> anyhow::Result<String> {
        let mut runs = Vec::new();
        for work in &self.plan.works {
            runs.push((work.clone(), self.measure(Kind::Ours, work, 1).await?));
        }
        Ok(report::alone(Kind::Ours.words(), &runs))
    }

    async fn compare(&mut self, peer: Peer) -> anyhow::Result<String> {
        let theirs = Kind::of(peer);
        theirs.must_be_installed()?;
        let mut works = Vec::new();
        for load in &self.plan.works {
            let mut turns = Vec::new();
            for round in 1..=self.plan.rounds {
                let ours = self.measure(Kind::Ours, load, round).await?;
                turns.push(Turn { ours, theirs: self.measure(theirs, load, round).await? });
            }
            let goal = Goal::of(load, peer, self.plan.io_mode).filter(|_| self.plan.copies == 3);
            works.push(Comparison { load: load.clone(), goal, turns });
        }
        Ok(report::compared(Kind::Ours.words(), theirs.words(), &works))
    }

    /// Runs one work on a system that is started for it.
    async fn measure(&mut self, kind: Kind, load: &Load, round: u8) -> anyhow::Result<Figures> {
        let name = kind.words().name;
        self.progress.set_message(format!("{name}: {load}"));
        let system =
            System::start(kind, self.plan).await.context(format!("cannot start {name}"))?;
        let measured = self.drive(&system, load).await;
        let figures = measured.with_context(|| format!("{name}, {load}"))?;
        if let Some(times) = &mut self.times {
            times.write(load, name, round, &figures.measurement)?;
        }
        Ok(figures)
    }

    async fn drive(&self, system: &System, load: &Load) -> anyhow::Result<Figures> {
        let mut driver = Driver::start(load.clone(), system.target(), self.times.is_some())?;
        driver.ready().await?;
        self.pass(WARM_UP, &mut driver).await?;
        let before = Used::now(system).await?;
        driver.begin();
        self.pass(self.plan.time, &mut driver).await?;
        let after = Used::now(system).await?;
        let measurement = driver.finish().await?;
        Ok(after.since(&before, measurement))
    }

    /// Lets time pass while the load runs.
    async fn pass(&self, time: Duration, driver: &mut Driver) -> anyhow::Result<()> {
        let progress = async {
            loop {
                tokio::time::sleep(TICK).await;
                self.progress.inc(1);
            }
        };
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            error = driver.failed() => Err(error.into()),
            () = progress => Ok(()),
        }
    }
}

/// What everybody has used so far.
struct Used {
    machine: Machine,
    front: Share,
    back: Share,
    driver: Share,
    fsyncs: Option<u64>,
}

impl Used {
    async fn now(system: &System) -> anyhow::Result<Self> {
        // Asked first: to answer costs the system something.
        let fsyncs = system.fsyncs().await;
        let driver = std::process::id();
        Ok(Self {
            machine: Machine::now(system.directory())?,
            front: share(&[system.front()])?,
            back: share(&system.back())?,
            driver: share(&[driver])?,
            fsyncs,
        })
    }

    fn since(&self, before: &Self, measurement: hatokuse::bench::Measurement) -> Figures {
        let since = |after: Share, before: Share| Share {
            cpu: after.cpu.saturating_sub(before.cpu),
            memory: after.memory,
        };
        let total = self.machine.total.saturating_sub(before.machine.total).as_secs_f64();
        let busy = self.machine.busy.saturating_sub(before.machine.busy).as_secs_f64();
        let disks = self.machine.disk.zip(before.machine.disk);
        let time = measurement.time.as_secs_f64();
        Figures {
            front: since(self.front, before.front),
            back: since(self.back, before.back),
            driver: since(self.driver, before.driver),
            fsyncs: self.fsyncs.zip(before.fsyncs).map(|(after, before)| after - before),
            flushes: disks.map(|(after, before)| after.flushes - before.flushes),
            processors: busy / total.max(f64::MIN_POSITIVE),
            disk: disks.map(|(after, before)| {
                (after.busy.saturating_sub(before.busy).as_secs_f64() / time).min(1.0)
            }),
            measurement,
        }
    }
}

/// What all these processes have used, together.
fn share(pids: &[u32]) -> anyhow::Result<Share> {
    let mut share = Share::default();
    for pid in pids {
        let used = Process::of(*pid).with_context(|| format!("process {pid} has ended"))?;
        share.cpu += used.cpu;
        share.memory = share.memory.max(used.memory);
    }
    Ok(share)
}
