# Leno's images, for those who have a container engine; `cargo xtask image` makes the same without one, and with `--trained` a
# sidecar that takes about a tenth less CPU.
#   docker build --target control-plane -t leno/control-plane:0.1.0 .
#   docker build --target proxy -t leno/proxy:0.1.0 .
#   docker build --target init -t leno/init:0.1.0 .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
WORKDIR /leno
COPY . .
# The toolchain file names the version; the target follows the machine that builds.
RUN target="$(uname -m)-unknown-linux-musl" && rustup target add "$target" \
 && export "CC_$(echo "$target" | tr - _)=musl-gcc" \
 && cargo build --locked --release --target "$target" --bins -p leno-control-plane -p leno-proxy \
 && mkdir /out && cp "target/$target/release/leno-control-plane" "target/$target/release/leno" "target/$target/release/leno-proxy" /out/

FROM scratch AS control-plane
COPY --from=build /out/leno-control-plane /out/leno /
USER 65532:65532
ENTRYPOINT ["/leno-control-plane"]

FROM scratch AS proxy
COPY --from=build /out/leno-proxy /
USER 15000:15000
ENTRYPOINT ["/leno-proxy", "run"]

# Runs once at a pod's start, as uid 0 with NET_ADMIN alone, and needs the distribution's nft.
FROM debian:bookworm-slim AS init
RUN apt-get update && apt-get install -y --no-install-recommends nftables && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/leno-proxy /
ENTRYPOINT ["/leno-proxy", "init"]
