//! `/recovery`: partitions that lost all their members, and the command to go on with what is left.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::Api;
use super::rebuild::{coordination, problem};
use crate::admin::Problem;
use crate::leader::membership::recovery::{Loss, Remains};

/// What could be forced: `GET /api/v1/recovery`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryDocument {
    /// Names what is shown, so that nothing else is done.
    pub plan: String,
    /// Partitions that no member answers for, or not all where all must.
    pub losses: Vec<LossDocument>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossDocument {
    /// Its number.
    pub partition: u16,
    /// The stores that have its copies.
    pub members: Vec<String>,
    /// The stores with which it would go on.
    pub stores: Vec<String>,
    /// Records that they have of it, if that is known.
    pub records: Option<u64>,
    /// What would be lost.
    pub lost: String,
}

/// `POST /api/v1/recovery`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceCommand {
    /// As it was shown.
    pub plan: String,
}

impl From<&Loss> for LossDocument {
    fn from(loss: &Loss) -> Self {
        let (stores, records, what) = match &loss.remains {
            Remains::Members(stores) => {
                let what = "what only the missing members have".to_owned();
                (stores.iter().map(ToString::to_string).collect(), None, what)
            }
            Remains::Older { store, records, newest } => {
                let what = format!("every write after version {newest}, and some before");
                (vec![store.to_string()], Some(*records), what)
            }
            Remains::Pieces { store, records } => {
                let what = "everything but parts of a copy that was not completed".to_owned();
                (vec![store.to_string()], Some(*records), what)
            }
            Remains::Nothing(store) => {
                (vec![store.to_string()], Some(0), "everything: it begins empty".to_owned())
            }
        };
        Self {
            partition: loss.partition.0,
            members: loss.members.iter().map(ToString::to_string).collect(),
            stores,
            records,
            lost: what,
        }
    }
}

impl RecoveryDocument {
    fn new(losses: &[Loss]) -> Self {
        let losses: Vec<LossDocument> = losses.iter().map(LossDocument::from).collect();
        let text = serde_json::to_string(&losses).unwrap_or_default();
        Self { plan: format!("{:08x}", crc32fast::hash(text.as_bytes())), losses }
    }
}

/// The routes.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/recovery", get(show).post(force))
}

async fn show(State(api): State<Api>) -> Result<Json<RecoveryDocument>, Problem> {
    let losses = coordination(&api)?.losses().await.map_err(|error| problem(&error))?;
    Ok(Json(RecoveryDocument::new(&losses)))
}

async fn force(
    State(api): State<Api>,
    command: Result<Json<ForceCommand>, JsonRejection>,
) -> Result<Json<RecoveryDocument>, Problem> {
    let Json(ForceCommand { plan }) = command?;
    let coordination = coordination(&api)?;
    let losses = coordination.losses().await.map_err(|error| problem(&error))?;
    let document = RecoveryDocument::new(&losses);
    if document.plan != plan {
        let detail = "something has changed since this was shown; nothing was done";
        return Err(Problem::conflict("other_plan", detail)
            .with_hint("look again: perhaps a node has come back"));
    }
    coordination.force(losses, &document).await.map_err(|error| problem(&error))?;
    Ok(Json(document))
}
