# `verify` only reads; `fix` is the one that writes.

# What CI runs: formats, lints, docs, tests, licenses.
verify:
    ./.ci/run

# Formats, and what the lints can put right by themselves.
fix:
    cargo clippy --all-targets --fix --allow-dirty --allow-staged
    cargo fmt
