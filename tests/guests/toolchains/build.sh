#!/usr/bin/env bash
# Builds the guests of four more toolchains (C by zig, Go, Python, JavaScript) into the tests' own cache, where compilers
# and results are kept; prints the directory of the .wasm files.
# Versions are pinned with hashes (requirements.txt, javascript/package-lock.json). Nothing is built twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD

cache="${CORACLE_TOOLCHAINS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coracle/toolchains}"
mkdir -p "$cache/built"
say() { echo "toolchains: $*" >&2; }

sum_of() { # FILE…: one sum over names and contents
    sha256sum "$@" | sha256sum | cut -c1-16
}

# quietly LOG COMMAND…: shows the end of what it printed when it fails.
quietly() {
    local log=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -30 "$log" >&2
        say "failed: $*; the whole log is in $log"
        return 1
    fi
}

# Only one at a time fills the cache; what it holds is complete, as results are moved into place.
exec 8>"$cache/lock"
flock --nonblock 8 || { say "waiting for another build"; flock 8; }

python="$cache/python-$(sum_of requirements.txt)"
if [ ! -e "$python/complete" ]; then
    command -v python3 >/dev/null || { say "python3 is missing"; exit 1; }
    say "fetching zig, Go and componentize-py (once, about 200 MB)"
    rm -rf "$python"
    quietly "$cache/python.log" python3 -m venv "$python"
    quietly "$cache/python.log" "$python/bin/pip" install --no-deps --require-hashes -r requirements.txt
    touch "$python/complete"
fi
node="$cache/node-$(sum_of javascript/package.json javascript/package-lock.json)"
if [ ! -e "$node/complete" ]; then
    command -v npm >/dev/null || { say "npm is missing"; exit 1; }
    say "fetching componentize-js (once, about 150 MB)"
    rm -rf "$node"
    mkdir "$node"
    cp javascript/package.json javascript/package-lock.json "$node"
    # Not `npm ci`, which refuses a lock that lacks the optional packages of other platforms.
    (cd "$node" && quietly "$cache/node.log" npm install --no-save --no-audit --no-fund --ignore-scripts)
    touch "$node/complete"
fi

# The interfaces' definitions, as the crate that implements them has them.
wit_of_host() {
    cargo metadata --locked --format-version 1 --manifest-path ../../../Cargo.toml | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
path = next(one["manifest_path"] for one in packages if one["name"] == "wasmtime-wasi-http")
print(os.path.join(os.path.dirname(path), "wit"))'
}

# What follows builds one guest each, into the file RESULT. Steps are joined by `&&`: who calls asks how it ended, and
# that turns `set -e` off.

c() { # RESULT
    ZIG_GLOBAL_CACHE_DIR="$cache/zig" ZIG_LOCAL_CACHE_DIR="$cache/zig" \
        "$python/bin/python" -m ziglang cc -target wasm32-wasi -Os -s -Wall -o "$1" c/server.c
}

go() {
    (cd go && GOCACHE="$cache/go" GOPATH="$cache/gopath" GOTOOLCHAIN=local GOFLAGS= GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 \
        "$python/bin/go" build -trimpath -ldflags='-s -w' -o "$1" .)
}

python() {
    local wit work="$cache/python-work"
    rm -rf "$work" && mkdir "$work" && cp python/app.py "$work" && wit=$(wit_of_host) &&
        (cd "$work" && "$python/bin/componentize-py" --quiet --wit-path "$wit" --world wasi:cli/command@0.2.12 \
            componentize app --output "$1")
}

javascript() {
    # The engine inside knows the interfaces by this version; they are the same.
    local wit engine_version=0.2.10
    wit=$(wit_of_host) && rm -rf "$node/wit" && cp -r "$wit" "$node/wit" &&
        find "$node/wit" -name '*.wit' -exec sed -i "s/0\.2\.12/$engine_version/g" {} + &&
        cp javascript/build.js "$node/build.js" &&
        (cd "$node" && node build.js "$here/javascript/handler.js" wit "wasi:http/proxy@$engine_version" "$1")
}

results="$cache/guests-$(sum_of build.sh requirements.txt javascript/package-lock.json c/* go/* python/* javascript/*.js)"
mkdir -p "$results"
for name in c go python javascript; do
    [ ! -e "$results/$name.wasm" ] || continue
    built="$cache/built/$name-$(sum_of build.sh requirements.txt javascript/package-lock.json "$name"/*).wasm"
    if [ ! -e "$built" ]; then
        say "building $name"
        # One that was interrupted has left half a file.
        rm -f "$cache/built/new.wasm"
        quietly "$cache/$name.log" "$name" "$cache/built/new.wasm"
        mv "$cache/built/new.wasm" "$built"
    fi
    ln -sf "$built" "$results/$name.wasm"
done
say "all guests are in $results"
echo "$results"
