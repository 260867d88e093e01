# Every task of this project. `just` lists them.

# Outside of the checkout, so that a clean clone reuses what an earlier one compiled.
export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", env("XDG_CACHE_HOME", env("HOME") / ".cache") / "weir/target")

# Always the whole workspace, whatever is wanted of it: libraries then get the same features, and are compiled only once.
build := "cargo build --quiet --locked --workspace"
test := "cargo test --locked --workspace"
e2e := build + " --bin weir-e2e && " + CARGO_TARGET_DIR / "debug/weir-e2e"

# The files of tests that need the local cluster: those of e2e but one, of weir-kafka, of the worker and of the ledger.
all := shell("basename --multiple --suffix .rs $1/e2e/tests/*.rs | grep --invert-match --line-regexp alerts | tr '\\n' ' '", justfile_directory()) + "admin pipeline store"

# Those that CI has time for.
some := "admin claims cluster faults_control manifests novashop operator retention retention_audit secure pipeline store"

# The fault matrix: workers alone, nodes and minds, operators that are taken away; and what happens to the broker, that is to everybody.
worker_faults := "faults_worker faults_zombies faults_store faults_disk faults_control"
node_faults := "faults_cluster"
operator_faults := "faults_operator faults_retention"
broker_faults := "faults_broker"

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

# Measure the worker, verb by verb, beside the script that an engineer would write instead. `just bench --profile` says what it does.
bench *arguments: install
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --quiet --locked --workspace --release --bin weir-worker
    venv="${XDG_CACHE_HOME:-$HOME/.cache}/weir/bench/venv"
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement bench/requirements.txt
    environment=$({{ e2e }} up)
    set -a; source "$environment"; set +a
    exec "$venv/bin/python" bench/bench.py --worker {{ CARGO_TARGET_DIR }}/release/weir-worker {{ arguments }}

# Everything that a change must pass here: lint, unit tests, tests on the local cluster.
test: lint unit e2e

# Tests without a cluster.
unit:
    {{ test }} --lib --bins

# Whether a release has failpoints, or guards that can be taken out: it must not.
release-check:
    cargo test --quiet --release --locked --package weir-failpoints

# The same of the binaries themselves, compiled as they are released.
release:
    cargo build --quiet --locked --workspace --release --bin weir-operator --bin weir-worker
    ! grep --quiet WEIR_FAILPOINTS {{ CARGO_TARGET_DIR }}/release/weir-operator {{ CARGO_TARGET_DIR }}/release/weir-worker

# Tests on the local cluster: all of them, or some files by name: `just e2e "cluster demo"`. WEIR_E2E_KEEP=1 leaves the cluster up.
e2e names=all: (on-cluster "tests" quote(names))

# One of these recipes on the local cluster, with the operator in it.
[private]
on-cluster +recipe:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ "${WEIR_E2E_EXTERNAL:-0}" != 1 ]; then
        set -a && . "$(just up | tail --lines 1)" && set +a
        [ "${WEIR_E2E_KEEP:-0}" = 1 ] || trap 'just down' EXIT
    fi
    just deploy
    just {{ recipe }}

# One test at a time: they share two cores, and some of them stop what the others need.
[private]
tests names *filter:
    {{ test }} --no-fail-fast $(printf -- '--test %s ' {{ names }}) -- --include-ignored --test-threads=1 {{ filter }}

# The whole fault matrix, and its tables for the book.
faults: (on-cluster "fault-tests") fault-tables

[private]
fault-tables:
    {{ e2e }} fault-tables > docs/src/faults-outcomes.md

# Tests of the worker alone go beside those that stop operators and nodes.
[private]
fault-tests:
    #!/usr/bin/env bash
    set -uo pipefail
    export WEIR_E2E_FAULTS=full
    beside=$(mktemp)
    just tests "{{ worker_faults }}" > "$beside" 2>&1 & workers=$!
    just tests "{{ operator_faults }} {{ node_faults }}"; failed=$?
    wait $workers || failed=1
    cat "$beside"; rm "$beside"
    just tests {{ broker_faults }} && exit $failed

# Every test but those at size, in as little time as they leave each other alone: first what needs a broker that stays; then what restarts
# it or takes operators away, beside the worker's faults, which bear that; last what measures time, stops everything, takes weir away, or
# slows the broker or stops it for long. A lane has its tests one after the other: names of files, a colon, which of theirs.
[private]
full-tests:
    #!/usr/bin/env bash
    set -uo pipefail
    export WEIR_E2E_FAULTS=full
    logs=$(mktemp --directory)
    failed=0
    lane() {
        local part failed=0
        for part in "${@:2}"; do just tests "${part%%:*}" ${part#*:} >> "$logs/$1" 2>&1 || failed=1; done
        return $failed
    }
    lane client "admin pipeline store: --skip slow_brokers" "faults_control faults_disk faults_store:" "faults_broker: --skip dies_or_is_away" & client=$!
    lane retention "manifests retention retention_audit retention_losses: --skip a_lag_that_grows_slowly --skip near_loss --skip skipped" & retention=$!
    lane lag "retention_losses: a_lag_that_grows_slowly" "admission: --skip no_request --skip nobody_answers --skip taken_away" & lag=$!
    lane loss "retention_losses: near_loss skipped" & loss=$!
    just tests "claims novashop faults_cluster" || failed=1
    for first in $client $retention $lag $loss; do wait $first || failed=1; done
    lane workers "faults_worker faults_zombies:" & workers=$!
    just tests "disturbed operator secure starting faults_operator faults_retention" || failed=1
    wait $workers || failed=1
    cat "$logs"/*; rm -r "$logs"
    just tests admission no_request nobody_answers taken_away || failed=1
    just tests "demo forecast" || failed=1
    just tests cluster || failed=1
    just tests pipeline slow_brokers || failed=1
    just tests faults_broker dies_or_is_away && exit $failed

# Formatting, lints, generated files.
lint: format drift
    cargo clippy --locked --workspace --all-targets -- -D warnings

# Whether everything is formatted.
format:
    cargo fmt --all --check

# Whether the generated files are what the types say.
drift:
    {{ build }} --bin crdgen && {{ CARGO_TARGET_DIR }}/debug/crdgen --check

# Write the files that follow from the types: CRDs, their reference.
generate:
    {{ build }} --bin crdgen && {{ CARGO_TARGET_DIR }}/debug/crdgen

# Licences, bans, sources and duplicates of what we depend on.
deny: (tool "cargo-deny")
    cargo deny --locked check licenses bans sources

# Alert rules and dashboard, by promtool.
alerts: install
    {{ test }} --test alerts

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

# All that needs no cluster.
[private]
check: install lint deny unit release-check alerts

# What CI runs: what fits into its time.
ci: check (on-cluster "some-tests")

# First what measures how long things take: one of the others stops everything.
[private]
some-tests: (tests "demo") (tests some)

# Everything but what takes a machine of its own, in some two hours: the whole fault matrix as well, and its tables for the book.
full: check release (on-cluster "full-tests") fault-tables

# Retention and admission at the size of a thousand topics: half an hour, on a machine with little else to do.
size: (e2e "retention_scale admission_scale")
