#!/usr/bin/env bash
# Prints the path of Debian's docker-registry, the foreign registry of the tests.
set -euo pipefail

exec "$(dirname "$0")/debian.sh" docker-registry docker-registry
