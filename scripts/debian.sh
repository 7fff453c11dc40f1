#!/usr/bin/env bash
# Prints the path of a program out of one of Debian's packages: unpacked into a cache, never installed.
#
#   scripts/debian.sh PACKAGE PROGRAM
set -euo pipefail

package=$1 program=$2
cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle/$program-debian"
if [ ! -x "$cache/$program" ]; then
    failed() {
        echo "$program: Debian's package $package cannot be fetched: $*" >&2
        exit 1
    }
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || failed "apt-get or dpkg is missing"
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$cache/$program.$$"' EXIT
    # apt reads and writes there as a user of its own.
    chmod 755 "$work"
    download() { (cd "$work" && apt-get download "$package") >"$work/log" 2>&1; }
    echo "$program: fetching Debian's package $package (once)" >&2
    if ! download; then
        # The lists may be old, or never have been fetched.
        { if [ "$(id -u)" = 0 ]; then apt-get update; else sudo -n apt-get update; fi; } >/dev/null 2>&1 || true
        download || failed "$(tail -3 "$work/log")"
    fi
    dpkg -x "$work/$package"_*.deb "$work/unpacked"
    mkdir -p "$cache"
    # Beside its place first, so that it gets there in one step.
    mv "$work/unpacked/usr/bin/$program" "$cache/$program.$$"
    mv "$cache/$program.$$" "$cache/$program"
fi
echo "$cache/$program"
