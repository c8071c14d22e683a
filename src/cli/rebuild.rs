//! `rebuild-metadata`: makes the metadata of a leader that lost it anew from what nodes know.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use anyhow::bail;

use super::admin::AdminClient;
use super::arguments::{Global, RebuildArguments};
use super::output::{Outcome, Output};
use crate::leader::api::rebuild::{RebuildCommand, RebuildDocument};
use crate::runtime::clock;

/// Between two looks at what has come.
const PAUSE: Duration = Duration::from_millis(500);
/// Nodes that come together are to be seen together.
const QUIET: Duration = Duration::from_secs(3);

pub(super) async fn run(
    global: &Global,
    output: &mut Output,
    arguments: RebuildArguments,
) -> anyhow::Result<Outcome> {
    let leader = AdminClient::new(global);
    let found = wait(&leader, &arguments).await?;
    report(&found);
    if !found.complete {
        for line in obstacles(&found) {
            anstream::eprintln!("{line}");
        }
        bail!("the metadata cannot be made anew yet; nothing was changed");
    }
    let question = "Are these all stores of the cluster? One that is missing may know better, and \
                    what it alone holds would be out of date.";
    if !confirmed(arguments.yes, question, "rebuild")? {
        bail!("nothing was changed");
    }
    let command = RebuildCommand {
        stores: found.stores.iter().map(|store| store.id.clone()).collect(),
        given_up: arguments.accept_missing,
        begin_empty: arguments.begin_empty,
    };
    let made: RebuildDocument = leader.post("metadata/rebuild", &command).await?;
    let line = format!("OK metadata of {} partitions made anew", made.partitions);
    output.result(line, &made)?;
    Ok(if made.unavailable > 0 { Outcome::Degraded } else { Outcome::Done })
}

/// Looks until nothing is missing and no further store has come for a while, or the time is up.
async fn wait(
    leader: &AdminClient,
    arguments: &RebuildArguments,
) -> anyhow::Result<RebuildDocument> {
    let given_up = arguments.accept_missing.join(",");
    let path = format!("metadata?given_up={given_up}&begin_empty={}", arguments.begin_empty);
    let began = clock::now();
    let (mut changed, mut last) = (began, None);
    loop {
        let found: RebuildDocument = leader.get(&path).await?;
        let now = clock::now();
        if last.as_ref() != Some(&found) {
            let RebuildDocument { stores, missing, known, partitions, .. } = &found;
            anstream::eprintln!(
                "{} stores have come, {} are missing; {known} of {partitions} partitions are known",
                stores.len(),
                missing.len()
            );
            (changed, last) = (now, Some(found.clone()));
        }
        let settled = found.complete && now.since(changed) >= QUIET;
        if settled || now.since(began) >= arguments.wait.max(QUIET) {
            return Ok(found);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn report(found: &RebuildDocument) {
    for store in &found.stores {
        let problem = store.problem.as_ref().map(|why| format!(" cannot be asked: {why}"));
        anstream::eprintln!(
            "store {} at {}{}",
            store.id,
            store.address,
            problem.unwrap_or_default()
        );
    }
    if found.unavailable > 0 {
        anstream::eprintln!(
            "{} partitions have no whole copy on any of them: they stay unavailable until one of \
             their members returns, or is given up with force-recover",
            found.unavailable
        );
    }
}

/// What is in the way, and what to do.
fn obstacles(found: &RebuildDocument) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(found.conflict.clone());
    for missing in &found.missing {
        let harm = match (missing.partitions, missing.alone) {
            (0, _) => "only older configurations name it".to_owned(),
            (partitions, 0) => format!("it is one of the copies of {partitions} partitions"),
            (partitions, alone) => {
                format!("it is a copy of {partitions} partitions, {alone} of which nobody else has")
            }
        };
        let id = &missing.id;
        lines.push(format!(
            "store {id} is missing: {harm}; start its node, or if it is lost for good: \
             --accept-missing {id}"
        ));
    }
    if found.unheard > 0 {
        lines.push(format!(
            "{} partitions are held by no store that has come; start the others, or if there are \
             none: --begin-empty",
            found.unheard
        ));
    }
    if found.stores.is_empty() {
        lines.push("no store of a cluster has come; start the nodes".to_owned());
    }
    lines
}

/// Asks whether it is to be done, and wants a word typed, unless it was said before.
pub(super) fn confirmed(said: bool, question: &str, word: &str) -> anyhow::Result<bool> {
    if said {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody is there to answer; say so on the command line");
    }
    anstream::eprintln!("{question}\nType `{word}` to go on:");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::api::rebuild::MissingDocument;

    #[test]
    fn what_is_in_the_way_is_said_with_what_to_do() {
        let missing =
            |id: &str, partitions, alone| MissingDocument { id: id.to_owned(), partitions, alone };
        let found = RebuildDocument {
            missing: vec![missing("a", 0, 0), missing("b", 9, 0), missing("c", 9, 4)],
            unheard: 3,
            ..RebuildDocument::default()
        };
        let lines = obstacles(&found);
        assert!(lines[0].contains("only older"), "{lines:?}");
        assert!(lines[2].contains("4 of which nobody else has"), "{lines:?}");
        assert!(lines[1].ends_with("--accept-missing b"), "{lines:?}");
        assert!(lines[3].contains("--begin-empty") && lines[4].contains("start the nodes"));
    }
}
