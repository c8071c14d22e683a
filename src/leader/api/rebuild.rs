//! `/metadata`: what is known of lost metadata, and the command to make it anew.

use std::collections::BTreeSet;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::Api;
use crate::admin::Problem;
use crate::leader::membership::Handle;
use crate::leader::membership::rebuild::{Progress, RebuildError};
use crate::logic::membership::Decisions;
use crate::types::StoreId;

/// What an operator decides: the query of `GET /api/v1/metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionsDocument {
    /// Stores that are lost for good, separated by commas.
    #[serde(default)]
    pub given_up: String,
    /// Partitions that nobody holds or heard of may begin empty.
    #[serde(default)]
    pub begin_empty: bool,
}

/// `POST /api/v1/metadata/rebuild`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildCommand {
    /// Every store of the cluster, as shown before: if others have come since, nothing is done.
    pub stores: Vec<String>,
    /// Stores that are lost for good.
    #[serde(default)]
    pub given_up: Vec<String>,
    /// Partitions that nobody holds or heard of may begin empty.
    #[serde(default)]
    pub begin_empty: bool,
}

/// How far lost metadata can be made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildDocument {
    /// Nothing is in the way.
    pub complete: bool,
    /// Partitions in all; 0 before any store has come.
    pub partitions: usize,
    /// Those for which everything needed is known.
    pub known: usize,
    /// The stores that have come.
    pub stores: Vec<WitnessDocument>,
    /// Stores that have not, and must come or be given up.
    pub missing: Vec<MissingDocument>,
    /// Partitions of which no store that has come holds a whole copy: they stay unavailable until
    /// one of their members returns.
    pub unavailable: usize,
    /// Partitions that no store that has come holds or heard of: they would begin empty.
    pub unheard: usize,
    /// Why these stores cannot be one cluster, if they cannot.
    pub conflict: Option<String>,
}

/// A store that has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessDocument {
    /// The store.
    pub id: String,
    /// Where its node is reached.
    pub address: String,
    /// Why it could not be asked, if it could not.
    pub problem: Option<String>,
}

/// A store that has not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingDocument {
    /// The store.
    pub id: String,
    /// Partitions whose newest configuration names it.
    pub partitions: usize,
    /// Of these, such as no store that has come holds.
    pub alone: usize,
}

impl From<&Progress> for RebuildDocument {
    fn from(progress: &Progress) -> Self {
        let Progress { witnesses, survey, complete } = progress;
        let witness = |it: &crate::leader::membership::rebuild::Witness| WitnessDocument {
            id: it.store.to_string(),
            address: it.address.clone(),
            problem: it.problem.clone(),
        };
        let missing = survey.missing.iter().map(|(store, missing)| MissingDocument {
            id: store.to_string(),
            partitions: missing.partitions,
            alone: missing.alone,
        });
        Self {
            complete: *complete,
            partitions: survey.partitions,
            known: survey.known,
            stores: witnesses.iter().map(witness).collect(),
            missing: missing.collect(),
            unavailable: survey.lost.len(),
            unheard: survey.unheard.len(),
            conflict: survey.conflict.clone(),
        }
    }
}

/// The routes.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/metadata", get(survey)).route("/metadata/rebuild", post(rebuild))
}

async fn survey(
    State(api): State<Api>,
    query: Result<Query<DecisionsDocument>, QueryRejection>,
) -> Result<Json<RebuildDocument>, Problem> {
    let Query(asked) = query.map_err(|it| Problem::bad_request(it.body_text()))?;
    let given_up = asked.given_up.split(',').filter(|it| !it.is_empty());
    let given_up = stores(given_up)?;
    let decisions = Decisions { given_up, begin_empty: asked.begin_empty };
    let progress = coordination(&api)?.survey(&decisions).await.map_err(|error| problem(&error))?;
    Ok(Json(RebuildDocument::from(&progress)))
}

async fn rebuild(
    State(api): State<Api>,
    command: Result<Json<RebuildCommand>, JsonRejection>,
) -> Result<Json<RebuildDocument>, Problem> {
    let Json(RebuildCommand { stores: shown, given_up, begin_empty }) = command?;
    let shown = stores(shown.iter().map(String::as_str))?;
    let given_up = stores(given_up.iter().map(String::as_str))?;
    let decisions = Decisions { given_up, begin_empty };
    let progress =
        coordination(&api)?.rebuild(decisions, &shown).await.map_err(|error| problem(&error))?;
    Ok(Json(RebuildDocument::from(&progress)))
}

pub(super) fn coordination(api: &Api) -> Result<Handle, Problem> {
    let coordination = api.coordination.borrow().clone();
    coordination.ok_or_else(|| Problem::unavailable("the leader begins"))
}

fn stores<'a>(texts: impl Iterator<Item = &'a str>) -> Result<BTreeSet<StoreId>, Problem> {
    texts.map(super::store).collect()
}

pub(super) fn problem(error: &RebuildError) -> Problem {
    let detail = error.to_string();
    match error {
        RebuildError::NotLost => Problem::conflict("not_lost", detail),
        RebuildError::Incomplete(_) => Problem::conflict("incomplete", detail).with_hint(
            "GET /api/v1/metadata, or `hatokuse rebuild-metadata`, says what is missing",
        ),
        RebuildError::OtherStores => Problem::conflict("other_stores", detail)
            .with_hint("look again, and name every store that has come"),
        RebuildError::Epochs | RebuildError::Audit(_) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
        }
        RebuildError::Stopping => Problem::unavailable(detail),
    }
}
