//! What operators ask and tell the leader over HTTP, under `/api/v1` of its admin port.
//!
//! Questions are answered from the latest [view](crate::leader::view). A command goes to the
//! coordinator, which owns the membership, and is answered when what it changed is durable.
//!
//! | path | | |
//! |---|---|---|
//! | `/cluster` | `GET` | the cluster as a whole |
//! | `/nodes` | `GET` | every store that belongs to it |
//! | `/nodes/{id}` | `GET` | one of them |
//! | `/nodes/{id}/drain` | `POST` | move everything off it, and keep it off the ring |
//! | `/nodes/{id}/undrain` | `POST` | put it back |
//! | `/nodes/{id}/decommission` | `POST` | forget it |
//! | `/metadata` | `GET` | how far lost metadata can be made anew |
//! | `/metadata/rebuild` | `POST` | make it anew |
//! | `/recovery` | `GET` | partitions that lost all their copies, and what is left of them |
//! | `/recovery` | `POST` | go on with that |

pub mod documents;
pub mod rebuild;
pub mod recovery;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::watch;

use super::membership::{Command, Handle as Coordination};
use super::view::Views;
use crate::admin::{Problem, api};
use crate::logic::membership::Objection;
use crate::runtime::clock;
use crate::types::StoreId;
use documents::{ClusterDocument, DecommissionedDocument, NodeDocument};

/// What the routes need.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) views: Views,
    /// Carries out commands; none before the leader has begun.
    pub(super) coordination: watch::Receiver<Option<Coordination>>,
}

/// The routes.
pub(super) fn routes(shared: Api) -> Router {
    let routes = Router::new()
        .merge(rebuild::routes())
        .merge(recovery::routes())
        .route("/cluster", get(cluster))
        .route("/nodes", get(nodes))
        .route("/nodes/{id}", get(node))
        .route("/nodes/{id}/drain", post(async |api, id| command(api, id, Command::Drain).await))
        .route(
            "/nodes/{id}/undrain",
            post(async |api, id| command(api, id, Command::Undrain).await),
        )
        .route("/nodes/{id}/decommission", post(decommission));
    api(routes.with_state(shared))
}

async fn cluster(State(api): State<Api>) -> Json<ClusterDocument> {
    Json(ClusterDocument::from(&*api.views.current()))
}

async fn nodes(State(api): State<Api>) -> Json<Vec<NodeDocument>> {
    let (view, now) = (api.views.current(), clock::now());
    Json(view.nodes.iter().map(|node| NodeDocument::new(node, now)).collect())
}

async fn node(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<NodeDocument>, Problem> {
    api.node(store(&id)?)
}

/// Commands that leave the store a member are answered with how it is now.
async fn command(
    State(api): State<Api>,
    Path(id): Path<String>,
    command: Command,
) -> Result<Json<NodeDocument>, Problem> {
    let store = store(&id)?;
    api.operate(store, command).await?;
    api.node(store)
}

async fn decommission(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<DecommissionedDocument>, Problem> {
    let store = store(&id)?;
    api.operate(store, Command::Decommission).await?;
    Ok(Json(DecommissionedDocument { decommissioned: store.to_string() }))
}

impl Api {
    fn node(&self, store: StoreId) -> Result<Json<NodeDocument>, Problem> {
        let view = self.views.current();
        let node = view.nodes.iter().find(|node| node.store == store);
        let node = node.ok_or_else(|| problem(Objection::Unknown(store)))?;
        Ok(Json(NodeDocument::new(node, clock::now())))
    }

    async fn operate(&self, store: StoreId, command: Command) -> Result<(), Problem> {
        let coordination = self.coordination.borrow().clone();
        let coordination = coordination.ok_or_else(|| Problem::unavailable("the leader begins"))?;
        let outcome = coordination.operate(store, command).await;
        let outcome = outcome.map_err(|stopping| Problem::unavailable(stopping.to_string()))?;
        outcome.map_err(problem)
    }
}

/// The store that a path names.
fn store(text: &str) -> Result<StoreId, Problem> {
    let hint = "GET /api/v1/nodes, or `hatokuse nodes`, lists the nodes with their identities";
    text.parse().map_err(|error| Problem::bad_request(format!("{error}")).with_hint(hint))
}

/// Why a command was not carried out, and what to do.
fn problem(objection: Objection) -> Problem {
    let detail = objection.to_string();
    match objection {
        Objection::Unknown(_) => {
            Problem::not_found(detail).with_hint("`hatokuse nodes` lists those that do")
        }
        Objection::TooFewNodes { .. } => Problem::conflict("too_few_nodes", detail)
            .with_hint("start another node first, or lower the number in tolerance.conf"),
        Objection::InUse(store) => Problem::conflict("in_use", detail)
            .with_hint(format!("`hatokuse node drain --wait {store}` moves off what it holds")),
        Objection::StillNeeded { .. } => Problem::conflict("still_needed", detail).with_hint(
            "wait until `STATUS` shows no under-replicated partition and try again; where the node \
             has died with copies that nobody else has, force-recover gives them up",
        ),
    }
}
