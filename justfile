# `verify` only reads; `fix` is the one that writes.

# What CI runs: formats, lints, docs, tests, fuzzing, licenses.
verify:
    ./.ci/run

# Formats, and what the lints can put right by themselves.
fix:
    cargo clippy --all-targets --fix --allow-dirty --allow-staged
    cargo fmt

# Simulates clusters under faults on all cores until told to stop; seeds that fail go to target/failing-seeds.txt.
soak:
    cargo test --lib simulation::tests::soak -- --ignored --nocapture

# Throws bytes at a decoder (`cargo fuzz list`) until told to stop, guided by coverage; needs cargo-fuzz.
fuzz target:
    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none {{target}} -- -max_len=8192 -timeout=10
