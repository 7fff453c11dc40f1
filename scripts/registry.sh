#!/usr/bin/env bash
# Prints the path of Debian's docker-registry, the foreign registry of the tests: unpacked into a cache, never installed.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle/docker-registry-debian"
if [ ! -x "$cache/docker-registry" ]; then
    failed() {
        echo "Debian's package docker-registry cannot be fetched" >&2
        exit 1
    }
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || failed
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    if ! (cd "$work" && apt-get download docker-registry >/dev/null 2>&1); then
        { if [ "$(id -u)" = 0 ]; then apt-get update; else sudo -n apt-get update; fi; } >/dev/null 2>&1 || true
        (cd "$work" && apt-get download docker-registry >/dev/null 2>&1) || failed
    fi
    dpkg -x "$work"/docker-registry_*.deb "$work/x"
    mkdir -p "$cache"
    mv "$work/x/usr/bin/docker-registry" "$cache/docker-registry.$$"
    mv "$cache/docker-registry.$$" "$cache/docker-registry"
fi
echo "$cache/docker-registry"
