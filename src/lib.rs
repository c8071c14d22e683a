//! HaToKuSe: a replicated key-value and message store.

pub mod admin;
pub mod bench;
pub mod chaos;
pub mod cli;
pub mod client;
pub mod config;
pub mod leader;
pub mod logic;
pub mod meta;
pub mod net;
pub mod node;
pub mod protocol;
pub mod rpc;
pub mod runtime;
#[cfg(test)]
mod simulation;
pub mod storage;
pub mod types;
