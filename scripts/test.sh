#!/usr/bin/env bash
# Every test. The end-to-end tests drive the built binary with real kubectls, named in CORACLE_TEST_KUBECTLS.
set -euo pipefail
cd "$(dirname "$0")/.."

kubectls=$(scripts/kubectl.sh | paste -sd:)
export CORACLE_TEST_KUBECTLS="$kubectls"
echo "test: kubectl from ${kubectls//:/ and }"
cargo test --locked --workspace --no-fail-fast "$@"
