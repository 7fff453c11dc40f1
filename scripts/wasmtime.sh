#!/usr/bin/env bash
# Prints the path of a `wasmtime` program of the version that Cargo.lock names, for figures to compare with. Builds it
# into a cache when it is not there: that takes some fifteen minutes, once; an interrupted build goes on where it was.
#
#   CORACLE_BENCH_WASMTIME=PATH     use this one instead
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(awk -F'"' '/^name = "wasmtime"$/ { getline; print $2 }' Cargo.lock)
if [ -n "${CORACLE_BENCH_WASMTIME:-}" ]; then
    program="$CORACLE_BENCH_WASMTIME"
else
    cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle/wasmtime-$version"
    program="$cache/bin/wasmtime"
    if [ ! -x "$program" ]; then
        echo "building wasmtime $version into $cache (once; about fifteen minutes on two cores)" >&2
        mkdir -p "$cache"
        # One build at a time; who waited finds it done. Only what `serve` needs.
        (
            flock 9
            [ -x "$program" ] || CARGO_TARGET_DIR="$cache/target" cargo install --quiet --locked --root "$cache" \
                --version "=$version" --no-default-features --features run,serve,component-model-async,cranelift,pooling-allocator,parallel-compilation \
                wasmtime-cli >&2
        ) 9>"$cache/lock"
        rm -rf "$cache/target"
    fi
fi
found=$("$program" --version | cut -d' ' -f2)
[ "$found" = "$version" ] || { echo "$program is $found instead of $version" >&2; exit 1; }
echo "$program"
