#!/usr/bin/env bash
# Every test. The end-to-end tests drive the built binary with real kubectls, named in CORACLE_TEST_KUBECTLS.
set -euo pipefail
cd "$(dirname "$0")/.."

kubectls=$(scripts/kubectl.sh | paste -sd:)
export CORACLE_TEST_KUBECTLS="$kubectls"
# The guests of other toolchains take minutes and some hundred MB once; one suite alone is spared them.
case " $* " in
    *" --test toolchains "* | *" --test programs "*) wanted=yes ;;
    *" --test "* | *" --lib "*) wanted= ;;
    *) wanted=yes ;;
esac
if [ -n "$wanted" ]; then
    scripts/setup.sh --tests
    CORACLE_TEST_TOOLCHAINS=$(tests/guests/toolchains/build.sh)
    export CORACLE_TEST_TOOLCHAINS
fi
CORACLE_TEST_REGISTRY=$(scripts/registry.sh)
export CORACLE_TEST_REGISTRY
echo "test: kubectl from ${kubectls//:/ and }"
cargo test --locked --workspace --no-fail-fast "$@"
