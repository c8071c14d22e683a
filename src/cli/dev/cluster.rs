//! The children together: what is printed about them, and when all is ready.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::announce::{Announcement, Event, Kind, Listening};
use super::super::arguments::{DevArguments, Global};
use super::super::output::Outcome;
use super::child::{ChildEvent, News, Plan, supervise};
use super::data::DataDirectory;
use super::readiness;

/// How often the leader is asked whether it is ready, until it is.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// After this long without being ready, what is missing is said.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How many lines of a log are shown when its process could not even start.
const LOG_LINES: usize = 10;
/// News on their way.
const NEWS: usize = 64;

/// All children of one `dev`.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Nodes are started when the leader listens: only then its port is known.
    waiting: Vec<Plan>,
    data: DataDirectory,
    news: mpsc::Receiver<News>,
    sender: mpsc::Sender<News>,
    leader: JoinSet<anyhow::Result<bool>>,
    nodes: JoinSet<anyhow::Result<bool>>,
    stop_leader: CancellationToken,
    stop_nodes: CancellationToken,
    expected: usize,
    listening: Option<Listening>,
    /// The processes that were announced, by the name of the child.
    announced: BTreeMap<String, u32>,
    ready: bool,
}

impl Cluster {
    /// Starts the leader; the nodes follow.
    pub(super) fn start(
        global: &Global,
        arguments: &DevArguments,
        data: &DataDirectory,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the own binary")?;
        let plans = Plans { global, arguments, data, program };
        let (sender, news) = mpsc::channel(NEWS);
        let mut cluster = Self {
            waiting: (1..=arguments.nodes.get()).map(|number| plans.node(number)).collect(),
            data: data.clone(),
            news,
            sender,
            leader: JoinSet::new(),
            nodes: JoinSet::new(),
            stop_leader: CancellationToken::new(),
            stop_nodes: CancellationToken::new(),
            expected: arguments.nodes.get(),
            listening: None,
            announced: BTreeMap::new(),
            ready: false,
        };
        let leader = supervise(plans.leader(), cluster.sender.clone(), cluster.stop_leader.clone());
        cluster.leader.spawn(leader);
        Ok(cluster)
    }

    /// Looks after the cluster. Ends only if it can be of no use any more.
    pub(super) async fn run(&mut self) -> anyhow::Result<Outcome> {
        let mut ask = tokio::time::interval(ASK_EVERY);
        let mut patience = std::pin::pin!(tokio::time::sleep(READY_WITHIN));
        let mut waited = false;
        loop {
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => self.hear(news),
                Some(ended) = self.leader.join_next() => { ended??; }
                Some(ended) = self.nodes.join_next() => { ended??; }
                _ = ask.tick(), if !self.ready => self.check().await,
                () = &mut patience, if !self.ready && !waited => {
                    waited = true;
                    anstream::eprintln!("not ready after 60 s: {}", self.missing().await);
                }
            }
            if self.is_over() {
                self.stop().await;
                return Ok(Outcome::Failed);
            }
        }
    }

    /// Whether nothing runs, nor ever will.
    fn is_over(&self) -> bool {
        let no_leader = self.leader.is_empty() && self.news.is_empty();
        no_leader && (self.listening.is_none() || self.nodes.is_empty())
    }

    /// Stops the leader, then the nodes, each in good order if it can.
    pub(super) async fn stop(&mut self) -> Outcome {
        self.news.close();
        self.stop_leader.cancel();
        let mut in_time = finish(&mut self.leader).await;
        self.stop_nodes.cancel();
        in_time &= finish(&mut self.nodes).await;
        if in_time { Outcome::Done } else { Outcome::Failed }
    }

    /// Prints what happened to a child.
    fn hear(&mut self, news: News) {
        let News { name, pid, event } = news;
        match event {
            ChildEvent::Announced(announcement) => self.greet(name, pid, announcement),
            ChildEvent::Exited(how) => {
                Event::Exited { kind: kind_of(&name), pid, how }.print();
                if self.announced.remove(&name).is_none() {
                    self.explain(&name);
                }
            }
        }
    }

    fn greet(&mut self, name: String, pid: u32, announcement: Announcement) {
        // A node that finds its leader again registers again, but is no news.
        if self.announced.insert(name, pid) == Some(pid) {
            return;
        }
        match announcement {
            Announcement::Listening(listening) => {
                self.start_nodes(listening.grpc);
                self.listening = Some(listening.clone());
                Event::Leader { pid, listening }.print();
            }
            Announcement::Registered(registered) => Event::Node { pid, registered }.print(),
        }
    }

    fn start_nodes(&mut self, leader: SocketAddr) {
        for mut plan in self.waiting.drain(..) {
            plan.arguments.extend(["--leader".to_owned(), leader.to_string()]);
            self.nodes.spawn(supervise(plan, self.sender.clone(), self.stop_nodes.clone()));
        }
    }

    /// Prints `ready`, if that is so.
    async fn check(&mut self) {
        let Some(Listening { client, admin, .. }) = self.listening.clone() else { return };
        if self.registered() == self.expected && readiness::missing(admin).await.is_none() {
            self.ready = true;
            Event::Ready { client, admin, nodes: self.expected }.print();
        }
    }

    fn registered(&self) -> usize {
        self.announced.keys().filter(|name| kind_of(name) == Kind::Node).count()
    }

    async fn missing(&self) -> String {
        let Some(listening) = &self.listening else {
            let log = self.data.log_path("leader");
            return format!("the leader does not listen; see {}", log.display());
        };
        let nodes = format!("{} of {} nodes are registered", self.registered(), self.expected);
        match readiness::missing(listening.admin).await {
            Some(reasons) => format!("{nodes}; {reasons}"),
            None => nodes,
        }
    }

    /// A child that ended before it was there tells why in its log.
    fn explain(&self, name: &str) {
        let path = self.data.log_path(name);
        let log = std::fs::read(&path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
        anstream::eprintln!(
            "{name} ended before it could begin; its log, {}, ends with:\n  {}",
            path.display(),
            last.join("\n  ")
        );
    }
}

async fn finish(children: &mut JoinSet<anyhow::Result<bool>>) -> bool {
    let mut in_time = true;
    while let Some(ended) = children.join_next().await {
        in_time &= matches!(ended, Ok(Ok(true)));
    }
    in_time
}

fn kind_of(name: &str) -> Kind {
    if name == "leader" { Kind::Leader } else { Kind::Node }
}

/// How children are started.
struct Plans<'a> {
    global: &'a Global,
    arguments: &'a DevArguments,
    data: &'a DataDirectory,
    program: PathBuf,
}

impl Plans<'_> {
    fn leader(&self) -> Plan {
        let arguments = self.arguments;
        let nodes = arguments.nodes.to_string();
        let mut plan = self.plan("leader".to_owned(), &self.data.leader());
        plan.arguments.extend(["--bootstrap-nodes".to_owned(), nodes]);
        if let Some(tolerance) = &arguments.tolerance {
            plan.arguments.extend(["--tolerance".to_owned(), tolerance.clone()]);
        }
        plan.ports = vec![
            ("--client-port", arguments.client_port),
            ("--admin-port", arguments.admin_port),
            ("--grpc-port", arguments.grpc_port),
        ];
        plan
    }

    fn node(&self, number: usize) -> Plan {
        let mut plan = self.plan(format!("node-{number}"), self.data.path());
        if let Some(io_mode) = &self.arguments.io_mode {
            plan.arguments.extend(["--io-mode".to_owned(), io_mode.clone()]);
        }
        plan.ports = vec![("--port", 0), ("--admin-port", 0)];
        plan
    }

    fn plan(&self, name: String, data: &Path) -> Plan {
        let kind = kind_of(&name);
        let data = data.to_string_lossy().into_owned();
        let mut arguments = vec![kind.to_string()];
        if let Some(config) = &self.global.config {
            arguments.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
        }
        let fixed = ["--listen", "127.0.0.1", "--admin-listen", "127.0.0.1", "--exit-with-parent"];
        arguments.extend(fixed.map(str::to_owned));
        arguments.extend(["--data".to_owned(), data]);
        Plan {
            log: self.data.log_path(&name),
            name,
            program: self.program.clone(),
            arguments,
            ports: Vec::new(),
            show_log: self.arguments.log,
            restart: self.arguments.restart,
        }
    }
}
