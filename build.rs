//! Compiles the protocol definitions in pure Rust: a machine needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/hatokuse/v1/membership.proto",
        "proto/hatokuse/v1/replica.proto",
        "proto/hatokuse/v1/transfer.proto",
        // Not ours: the load driver compares us with etcd.
        "proto/etcd/kv.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
