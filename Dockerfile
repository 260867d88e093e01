# The images of weir: targets `operator` and `worker`.
#
#   docker build --target operator --tag weir-operator .
#   docker build --target worker   --tag weir-worker .
#
# BINARIES=prebuilt takes binaries from the context (a folder with weir-operator, weir-worker and ca-certificates.crt)
# instead of compiling them; the local cluster builds its images so, on a base image of its own.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:12-slim
ARG BINARIES=compiled

FROM ${RUST_IMAGE} AS compiled
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake mold perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p weir-operator -p weir-worker --target-dir /target \
    && install -D --target-directory /out \
        /target/release/weir-operator /target/release/weir-worker /etc/ssl/certs/ca-certificates.crt \
    # What tests may switch does not exist in a release.
    && ! grep --quiet WEIR_FAILPOINTS /out/weir-operator /out/weir-worker

FROM scratch AS prebuilt
COPY . /out/

FROM ${BINARIES} AS binaries

FROM ${BASE_IMAGE} AS operator
COPY --from=binaries /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binaries /out/weir-operator /usr/local/bin/weir-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-operator"]

FROM ${BASE_IMAGE} AS worker
COPY --from=binaries /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binaries /out/weir-worker /usr/local/bin/weir-worker
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-worker"]
