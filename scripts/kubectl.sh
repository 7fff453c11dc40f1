#!/usr/bin/env bash
# Prints the paths of the kubectls to use, one a line: Debian's (1.20, unpacked into a cache, never installed, since it
# clashes with one already there) and the one on PATH, where there is one. With --any the first that can be had.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle/kubectl-debian"

debian() {
    if [ ! -x "$cache/kubectl" ]; then
        command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
        local work
        work=$(mktemp -d)
        if ! (cd "$work" && chmod 755 . && apt-get download kubernetes-client >/dev/null 2>&1); then
            { if [ "$(id -u)" = 0 ]; then apt-get update; else sudo -n apt-get update; fi; } >/dev/null 2>&1 || true
            (cd "$work" && apt-get download kubernetes-client >/dev/null 2>&1) || { rm -rf "$work"; return 1; }
        fi
        dpkg -x "$work"/kubernetes-client_*.deb "$work/x"
        mkdir -p "$cache"
        mv "$work/x/usr/bin/kubectl" "$cache/kubectl.$$"
        mv "$cache/kubectl.$$" "$cache/kubectl"
        rm -rf "$work"
    fi
    echo "$cache/kubectl"
}

if [ "${1:-}" = --any ]; then
    command -v kubectl || debian || {
        echo "no kubectl: none on PATH, and Debian's package kubernetes-client cannot be fetched" >&2
        exit 1
    }
    exit 0
fi
debian || { echo "Debian's package kubernetes-client cannot be fetched" >&2; exit 1; }
command -v kubectl || true
