//! `force-recover`: goes on with what is left of partitions that lost all their copies.

use anyhow::bail;

use super::admin::AdminClient;
use super::arguments::{ForceArguments, Global};
use super::output::{Outcome, Output};
use super::rebuild::confirmed;
use crate::leader::api::recovery::{ForceCommand, LossDocument, RecoveryDocument};

pub(super) async fn run(
    global: &Global,
    output: &mut Output,
    arguments: ForceArguments,
) -> anyhow::Result<Outcome> {
    let leader = AdminClient::new(global);
    let plan: RecoveryDocument = leader.get("recovery").await?;
    if plan.losses.is_empty() {
        output.result("OK no partition has lost all its copies", &plan)?;
        return Ok(Outcome::Done);
    }
    for loss in &plan.losses {
        anstream::eprintln!("{}", line(loss));
    }
    let question = format!(
        "What is said to be lost of these {} partitions is lost for good, even if the nodes that have \
         it come back. As long as one of them may, start it instead.",
        plan.losses.len()
    );
    if !confirmed(arguments.yes_lose_data, &question, "lose data")? {
        bail!("nothing was changed");
    }
    let command = ForceCommand { plan: plan.plan };
    let done: RecoveryDocument = leader.post("recovery", &command).await?;
    let line = format!("OK {} partitions go on with what was left", done.losses.len());
    output.result(line, &done)?;
    anstream::eprintln!("`hatokuse status` shows when they serve again");
    Ok(Outcome::Done)
}

fn line(loss: &LossDocument) -> String {
    let LossDocument { partition, members, stores, records, lost } = loss;
    let records = records.map(|records| format!(" ({records} records)")).unwrap_or_default();
    format!(
        "partition {partition}: its copies are on {}; it would go on with {}{records}; lost would \
         be {lost}",
        members.join(", "),
        stores.join(", ")
    )
}
