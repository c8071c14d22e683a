//! Operators' commands: JSON to and from the admin port of the leader.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::Global;
use crate::admin::Problem;
use crate::client::http::{self, Response};

/// Where a leader's admin port is, unless it is said.
pub(super) const LEADER: &str = "127.0.0.1:8080";

/// A command or question that the leader turned down.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.detail)]
pub(super) struct Refused(pub(super) Problem);

/// The admin port of a leader.
#[derive(Clone, Debug)]
pub(super) struct AdminClient {
    address: String,
    timeout: Duration,
}

impl AdminClient {
    pub(super) fn new(global: &Global) -> Self {
        let address = global.admin_addr.clone().unwrap_or_else(|| LEADER.to_owned());
        Self { address, timeout: global.timeout }
    }

    /// Looks at something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let path = format!("/api/v1/{path}");
        self.read(&http::get(&self.address, &path, self.timeout).await?)
    }

    /// Tells the leader to change something.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        command: &impl Serialize,
    ) -> anyhow::Result<T> {
        let (path, json) = (format!("/api/v1/{path}"), serde_json::to_string(command)?);
        self.read(&http::post(&self.address, &path, &json, self.timeout).await?)
    }

    fn read<T: DeserializeOwned>(&self, response: &Response) -> anyhow::Result<T> {
        if response.is_success() {
            let foreign = || format!("{} answers something else than a leader does", self.address);
            return serde_json::from_str(&response.body).with_context(foreign);
        }
        if let Ok(problem) = serde_json::from_str(&response.body) {
            return Err(Refused(problem).into());
        }
        let (address, status, body) = (&self.address, response.status, response.body.trim());
        Err(anyhow::anyhow!("{address} answered {status} {body}; is a leader there?"))
    }
}
