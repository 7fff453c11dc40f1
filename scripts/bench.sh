#!/usr/bin/env bash
# Figures for people: pod start latency, memory at rest and the pod network, with the release binary on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
binary="$(realpath "$target/release/coracle")"
CORACLE_TEST_KUBECTLS="$(scripts/kubectl.sh --any)"
export CORACLE_TEST_KUBECTLS CORACLE_TEST_BINARY="$binary"

printf 'machine: %s, %s cores, %s\n' "$(uname -sr)" "$(nproc)" "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)"
printf 'release binary: %s bytes\n' "$(stat -c %s "$binary")"
cargo bench --locked --profile dev -p coracle-tests --bench pod_start --bench idle_memory --bench network
