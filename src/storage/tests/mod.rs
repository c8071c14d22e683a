//! The store over a simulated disk: what it promises, and what breaks without each rule.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "numbers of tests are small"
)]

mod basics;
mod crash;
mod damage;
mod membership;
mod model;
mod mutants;
mod random;
mod space;
mod support;
