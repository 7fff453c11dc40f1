#!/usr/bin/env bash
# The fault suite for long: storms of SOAK_CYCLES pods, SOAK_ADDRESSES pods on the same few addresses, SOAK_ROUNDS rounds of churn, kills and
# connections, then connections and datagrams between three nodes of which one is struck, or the server, SOAK_STRIKES times, and while the server
# is away for SOAK_AWAY seconds; against the debug binary.
set -euo pipefail
cd "$(dirname "$0")/.."

CORACLE_TEST_KUBECTLS="$(scripts/kubectl.sh --any)"
export CORACLE_TEST_KUBECTLS
# Both at once, so that what they share is built once.
cargo build --locked -p coracle -p coracle-tests --bins
exec "${CARGO_TARGET_DIR:-target}/debug/soak"
