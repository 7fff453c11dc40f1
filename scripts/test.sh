#!/usr/bin/env bash
# Every test. The end-to-end tests drive the built binary with real kubectls, named in CORACLE_TEST_KUBECTLS.
set -euo pipefail
cd "$(dirname "$0")/.."

kubectls=$(scripts/kubectl.sh | paste -sd:)
export CORACLE_TEST_KUBECTLS="$kubectls"
# The guests of other toolchains take minutes and some hundred MB once, third-party programs some MB; one suite alone is
# spared what it does not use.
case " $* " in
    *" --test toolchains "*) wanted="toolchains" ;;
    *" --test programs "*) wanted="programs" ;;
    *" --test "* | *" --lib "*) wanted="" ;;
    *) wanted="toolchains programs" ;;
esac
[ -z "$wanted" ] || scripts/setup.sh --tests
if [[ $wanted == *toolchains* ]]; then
    CORACLE_TEST_TOOLCHAINS=$(tests/guests/toolchains/build.sh)
    export CORACLE_TEST_TOOLCHAINS
fi
if [[ $wanted == *programs* ]]; then
    CORACLE_TEST_PROGRAMS=$(scripts/programs.sh)
    export CORACLE_TEST_PROGRAMS
fi
case " $* " in
    *" --test unit "*) systemd=yes ;;
    *" --test "* | *" --lib "*) systemd= ;;
    *) systemd=yes ;;
esac
if [ -n "$systemd" ]; then
    CORACLE_TEST_SYSTEMD=$(scripts/systemd.sh)
    export CORACLE_TEST_SYSTEMD
fi
CORACLE_TEST_REGISTRY=$(scripts/registry.sh)
export CORACLE_TEST_REGISTRY
echo "test: kubectl from ${kubectls//:/ and }"
cargo test --locked --workspace --no-fail-fast "$@"
