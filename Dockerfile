# The server, and with `--target client` the client. BuildKit is needed, which `docker compose` uses anyway.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# Dependencies stay compiled in the cache from one build to the next. Our own files may be older than what the cache
# holds of another checkout; touched, they are always compiled.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    find build.rs proto src -type f -exec touch {} + && \
    cargo build --release --locked --bin hatokuse && \
    cp target/release/hatokuse /usr/local/bin/hatokuse

FROM debian:bookworm-slim AS base
# New volumes take the owner of the directory they are mounted on. The number is fixed, so that they stay readable.
RUN groupadd --gid 10001 hatokuse && \
    useradd --uid 10001 --gid hatokuse --no-create-home --home-dir /var/lib/hatokuse \
        --shell /usr/sbin/nologin hatokuse && \
    install -d -o hatokuse -g hatokuse -m 0750 /var/lib/hatokuse && \
    install -d /etc/hatokuse
WORKDIR /etc/hatokuse

FROM base AS client
RUN apt-get update -q && \
    apt-get install -yq --no-install-recommends netcat-openbsd && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /usr/local/bin/hatokuse /usr/local/bin/hatokuse
ENV HATOKUSE_ADDR=leader:6000 HATOKUSE_ADMIN_ADDR=leader:8080
USER hatokuse
CMD ["sleep", "infinity"]

FROM base AS server
COPY --from=build /usr/local/bin/hatokuse /usr/local/bin/hatokuse
ENV HATOKUSE_LEADER__DATA_DIR=/var/lib/hatokuse HATOKUSE_NODE__DATA_DIR=/var/lib/hatokuse
USER hatokuse
ENTRYPOINT ["hatokuse"]
CMD ["--help"]
