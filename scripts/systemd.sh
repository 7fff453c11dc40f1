#!/usr/bin/env bash
# Prints the path of a root directory with systemd in it, and the little else that a machine boots with: of the packages
# of this machine's release of Debian or Ubuntu, unpacked into a cache, never installed (some 25 MB to fetch).
set -euo pipefail

packages=(systemd passwd coreutils dash)
release=$(. /etc/os-release 2>/dev/null && echo "${ID:-linux}-${VERSION_ID:-0}" || echo linux-0)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle/systemd-$release"
if [ ! -d "$cache" ]; then
    failed() {
        echo "systemd: the packages ${packages[*]} cannot be fetched: $*" >&2
        exit 1
    }
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || failed "apt-get or dpkg is missing"
    mkdir -p "$(dirname "$cache")"
    work=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # apt reads and writes there as a user of its own.
    chmod 755 "$work"
    mkdir -p "$work/fetched/partial" "$work/root/usr"
    # As if nothing were installed, so that what is needed comes whole.
    : >"$work/status"
    fetch() {
        apt-get -o Dir::State::status="$work/status" -o Dir::Cache::archives="$work/fetched/" -o Debug::NoLocking=1 \
            install --download-only --no-install-recommends --yes --quiet "${packages[@]}" >"$work/log" 2>&1
    }
    echo "systemd: fetching the packages that it boots with (once)" >&2
    if ! fetch; then
        # The lists may be old, or never have been fetched.
        { if [ "$(id -u)" = 0 ]; then apt-get update; else sudo -n apt-get update; fi; } >/dev/null 2>&1 || true
        fetch || failed "$(tail -3 "$work/log")"
    fi
    for directory in bin sbin lib lib64; do
        mkdir -p "$work/root/usr/$directory"
        ln -s "usr/$directory" "$work/root/$directory"
    done
    for package in "$work"/fetched/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/root" --keep-directory-symlink \
            --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
    done
    # In one step; whoever else was as far at the same time has made the same.
    mv -T "$work/root" "$cache" 2>/dev/null || [ -d "$cache" ] || failed "$cache cannot be made"
fi
echo "$cache"
