#!/usr/bin/env bash
# Prints the paths of the kubectls to use, one a line: Debian's (1.20, unpacked into a cache, never installed, since it
# clashes with one already there) and the one on PATH, where there is one. With --any the first that can be had.
set -euo pipefail
here=$(dirname "$0")

if [ "${1:-}" = --any ]; then
    command -v kubectl || exec "$here/debian.sh" kubernetes-client kubectl
    exit 0
fi
"$here/debian.sh" kubernetes-client kubectl
command -v kubectl || true
