//! The decisions, pure: no sockets, files, clocks, tasks or randomness. Time comes in with each
//! input as a [`Moment`](crate::types::Moment), effects go out as values.

pub mod comparison;
pub mod detector;
pub mod hash;
pub mod history;
pub mod membership;
pub(crate) mod mutants;
pub mod pace;
pub mod partition;
pub mod placement;
pub mod repair;
pub mod replica;
pub mod ring;
