# Every task of this project. `just` lists them.

# Outside of the checkout, so that a clean clone reuses what an earlier one compiled.
export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", env("XDG_CACHE_HOME", env("HOME") / ".cache") / "weir/target")

e2e := "cargo run --quiet --locked --package weir-e2e --"

[private]
default:
    @just --list

# Install what Debian 12 lacks beside Rust, Go, Java and Maven.
install:
    e2e/install-debian.sh

# Bring the local cluster up; prints the path of its env file.
up: install
    @{{ e2e }} up

# Take the local cluster down and leave nothing behind.
down:
    @{{ e2e }} down

# Build the images of operator and worker and load them on the local nodes.
images:
    @{{ e2e }} images

# Put the operator into the cluster and wait until it is ready.
deploy: images
    @{{ e2e }} deploy

# Fill a gap of a million events on the local cluster and check the result.
demo: up deploy
    @{{ e2e }} demo

# Everything that a change must pass here: lint, unit tests, tests on the local cluster.
test: lint unit e2e

# Tests without a cluster.
unit:
    cargo test --locked --workspace --exclude weir-e2e
    cargo test --locked --package weir-e2e --lib --bins

# Tests on the local cluster: all of them, or one file of e2e/tests. WEIR_E2E_KEEP=1 leaves the cluster up.
e2e name="":
    #!/usr/bin/env bash
    set -euo pipefail
    if [ "${WEIR_E2E_EXTERNAL:-0}" != 1 ]; then
        just up
        [ "${WEIR_E2E_KEEP:-0}" = 1 ] || trap 'just down' EXIT
    fi
    just deploy
    # One test at a time: they share two cores, and some of them stop what the others need.
    cargo test --locked --package weir-e2e {{ if name == "" { "--test '*'" } else { "--test " + name } }} -- --test-threads=1

# Measure what issues promise.
bench: up deploy
    @{{ e2e }} bench

# Formatting, lints, generated files.
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    just generate
    git diff --exit-code -- config docs || { echo 'generated files have drifted; commit what "just generate" writes' >&2; exit 1; }

# Write the files that follow from the types: CRDs, their reference.
generate:
    cargo run --quiet --locked --package weir-crds --bin crdgen

# Licences, bans, sources and duplicates of what we depend on.
deny: (tool "cargo-deny")
    cargo deny --locked check licenses bans sources

# Known vulnerabilities; needs the advisory database, which is not in a registry.
advisories: (tool "cargo-deny")
    cargo deny --locked check advisories

# The book.
docs: (tool "mdbook")
    mdbook build docs

# Install one of cargo's tools, unless it is there.
[private]
tool name:
    @command -v {{ name }} >/dev/null || cargo install --locked --quiet {{ name }}

# What CI runs.
ci: install lint deny unit e2e

# What does not fit into CI's time, too.
full: ci demo bench
