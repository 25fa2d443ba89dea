# syntax=docker/dockerfile:1
# The service, for linux/amd64 and linux/arm64:  docker buildx build --platform linux/amd64,linux/arm64 -t envoy-guard .
ARG RUST=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST}-slim-${DEBIAN} AS build
# Security fixes come with the newest versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc g++ pkg-config libvectorscan-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches stay apart by platform, so that both can be built at once.
ARG TARGETARCH
RUN --mount=type=cache,target=/usr/local/cargo/registry,id=registry-${TARGETARCH} \
    --mount=type=cache,target=/src/target,id=target-${TARGETARCH} \
    cargo build --profile dist --locked --bin envoy-guard \
 && cp target/dist/envoy-guard /envoy-guard

FROM debian:${DEBIAN}-slim
# libvectorscan5 is there for both architectures; certificates are for feeds and exporters.
# Security fixes come with the newest versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libvectorscan5 ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65532 -g 65532 /etc/envoy-guard /run/envoy-guard /var/cache/envoy-guard /var/lib/envoy-guard
COPY --from=build /envoy-guard /usr/local/bin/envoy-guard
LABEL org.opencontainers.image.title="envoy-guard" \
      org.opencontainers.image.description="Security decisions for Envoy: ext_authz and ext_proc" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
ENV XDG_CACHE_HOME=/var/cache
USER 65532:65532
EXPOSE 50051 8081
# SIGTERM drains: health turns first, requests in flight are answered.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/envoy-guard"]
CMD ["serve", "--config", "/etc/envoy-guard/config.yaml"]
