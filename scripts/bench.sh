#!/usr/bin/env bash
# Figures for people, on this machine: pod start latency, what many pods at rest take, what the pod network and HTTP
# cost, what starting a guest and limiting it costs, what the way between two nodes costs, what being told costs nodes.
#
#   CORACLE_BENCH_BINARY=PATH       a binary other than the release build
#   CORACLE_BENCH_SHORT=1           only see that the benches network, tunnel, instantiate, limits, spinners, node_lost and node_link work
#   CORACLE_BENCH_PODS=N            pods of bench idle_memory, 1000; 10000 takes minutes
#   CORACLE_BENCH_NODES=N           simulated nodes of bench node_link, 1000
#   CORACLE_BENCH_PROBED=1          give them a readiness probe
#   CORACLE_BENCH_WASMTIME=PATH     the wasmtime to compare with; built into a cache when it is not given
#
# Arguments are names of benches; without one, all run.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
binary="$(realpath "${CORACLE_BENCH_BINARY:-$target/release/coracle}")"
CORACLE_TEST_KUBECTLS="$(scripts/kubectl.sh --any)"
export CORACLE_TEST_KUBECTLS CORACLE_TEST_BINARY="$binary"

printf 'machine: %s, %s cores, %s\n' "$(uname -sr)" "$(nproc)" "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)"
printf 'rustc %s, binary %s: %s bytes\n' "$(rustc --version | cut -d' ' -f2)" "$binary" "$(stat -c %s "$binary")"
printf 'the node alone, %s: %s bytes\n' "$(dirname "$binary")/coracle-node" "$(stat -c %s "$(dirname "$binary")/coracle-node")"

[ $# -gt 0 ] || set -- instantiate limits spinners pod_start idle_memory network node_lost tunnel node_link
benches=()
tunnel=()
for name; do
    if [ "$name" = tunnel ]; then
        # What the tunnel and what it is compared with are made of, as a release has them.
        for crate in bytes coracle-net mio quinn quinn-proto quinn-udp rustls tokio tokio-rustls; do
            tunnel+=(--config "profile.dev.package.$crate.opt-level=3")
        done
        continue
    fi
    benches+=(--bench "$name")
    if [ "$name" = network ]; then
        # Without one the figures of HTTP stand alone, and say so.
        if CORACLE_BENCH_WASMTIME="$(scripts/wasmtime.sh)"; then export CORACLE_BENCH_WASMTIME; else unset CORACLE_BENCH_WASMTIME; fi
    fi
done
if [ ${#tunnel[@]} -gt 0 ]; then
    cargo bench --locked --profile dev "${tunnel[@]}" -p coracle -p coracle-tests -p coracle-net --bench tunnel
fi
[ ${#benches[@]} -gt 0 ] || exit 0
# What the benches do natively must not be slower for want of optimisation.
cargo bench --locked --profile dev --config profile.dev.package.coracle-tests.opt-level=2 \
    --config profile.dev.package.coracle-runner.opt-level=3 -p coracle -p coracle-tests -p coracle-runner "${benches[@]}"
