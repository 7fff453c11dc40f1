#!/usr/bin/env bash
# Builds the guests of examples/, tests/guests/ and node/tools/ and puts the .wasm files beside their sources.
#
#   examples/build.sh            build what this machine has a target for, and record what belongs together
#   examples/build.sh --check    fail when a .wasm file was not built from the sources beside it; where the target is
#                                installed, also build again and compare byte by byte
#
# Each directory has a file CHECKSUMS: a line per .wasm file with the SHA-256 of its sources and of itself. The build is
# reproducible with one compiler version; that version is recorded too, and another one only checks the sums.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# GUEST: directory of the workspace, package, target, file to write (relative to the workspace).
guests=(
    "examples wait-for wasm32-wasip2 init-pod/wait-for.wasm init-pod/wait-for"
    "examples app wasm32-wasip2 init-pod/app.wasm init-pod/app"
    "examples misfit wasm32-wasip2 misfit/misfit.wasm misfit/guest"
    "examples server wasm32-wasip2 web/server.wasm web/server"
    "examples rewriter wasm32-wasip2 web/rewriter.wasm web/rewriter"
    "examples caller wasm32-wasip2 fleet/caller.wasm fleet/caller"
    "tests/guests http wasm32-wasip2 http.wasm http"
    "tests/guests listener wasm32-wasip1 listener-p1.wasm listener"
    "tests/guests load wasm32-wasip2 load.wasm load"
    "tests/guests network wasm32-wasip2 network.wasm network"
    "tests/guests probe wasm32-wasip2 probe.wasm probe"
    "tests/guests toolbox wasm32-wasip2 toolbox.wasm toolbox"
    "tests/guests toolbox wasm32-wasip1 toolbox-p1.wasm toolbox"
    "node/tools tools wasm32-wasip1 tools.wasm tools"
)

# One sum over names and contents of everything that goes into a guest.
sources_sum() { # WORKSPACE SOURCES
    (cd "$1" && find Cargo.toml Cargo.lock "$2" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}

file_sum() { sha256sum "$1" | cut -d' ' -f1; }

build() { # WORKSPACE PACKAGE TARGET: prints the path of the result
    local target_dir="${CORACLE_GUESTS_TARGET:-$PWD/target/guests}"
    (
        cd "$1"
        # Paths of this machine must not get into the file.
        CARGO_TARGET_DIR="$target_dir" \
            RUSTFLAGS="--remap-path-prefix=$PWD=/guests --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$(rustc --print sysroot)=/rust" \
            cargo build --quiet --locked --release --target "$3" --package "$2"
    )
    echo "$target_dir/$3/release/$2.wasm"
}

has_target() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]
}

failed=0
complain() {
    echo "$1" >&2
    failed=1
}

recorded() { # WORKSPACE FILE FIELD
    awk -v file="$2" -v field="$3" '$1 == file { print $field }' "$1/CHECKSUMS" 2>/dev/null
}

record() { # WORKSPACE FILE SOURCES_SUM
    local sums="$1/CHECKSUMS" compiler
    compiler=$(rustc --version | cut -d' ' -f2)
    touch "$sums"
    {
        echo "# file, SHA-256 of its sources, SHA-256 of the file, rustc; written by examples/build.sh"
        {
            awk -v file="$2" '!/^#/ && $1 != file' "$sums"
            echo "$2 $3 $(file_sum "$1/$2") $compiler"
        } | LC_ALL=C sort
    } >"$sums.new"
    mv "$sums.new" "$sums"
}

for guest in "${guests[@]}"; do
    read -r workspace package target file sources <<<"$guest"
    sum=$(sources_sum "$workspace" "$sources")
    if [ "${1:-}" != "--check" ]; then
        if has_target "$target"; then
            cp "$(build "$workspace" "$package" "$target")" "$workspace/$file"
            chmod 644 "$workspace/$file"
            record "$workspace" "$file" "$sum"
            echo "built $workspace/$file ($(stat -c %s "$workspace/$file") bytes)"
        else
            complain "$workspace/$file: not built, the target is missing: rustup target add $target"
        fi
        continue
    fi
    [ "$(recorded "$workspace" "$file" 2)" = "$sum" ] ||
        complain "$workspace/$file: the sources have changed since it was built; run examples/build.sh"
    [ "$(recorded "$workspace" "$file" 3)" = "$(file_sum "$workspace/$file")" ] ||
        complain "$workspace/$file: it is not the file that was built; run examples/build.sh"
    if has_target "$target" && [ "$(recorded "$workspace" "$file" 4)" = "$(rustc --version | cut -d' ' -f2)" ]; then
        cmp "$(build "$workspace" "$package" "$target")" "$workspace/$file" ||
            complain "$workspace/$file: building it again gives another file"
    else
        echo "$workspace/$file: the sums are right; not built again, $target for that rustc is not here"
    fi
done
[ "$failed" = 0 ] || exit 1
[ "${1:-}" != "--check" ] || echo "all guests belong to their sources"
