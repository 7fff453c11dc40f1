#!/usr/bin/env bash
# Installs what the build needs from Debian's or Ubuntu's packages, skipping what is there; with --tests also what the
# tests' guests are built with. Needs root or sudo only when something is missing.
set -euo pipefail

wanted=()
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    # Not libclang-cpp.so, which many machines have without the C interface that bindgen loads.
    local found
    found=$(ldconfig -p 2>/dev/null; compgen -G '/usr/lib/llvm-*/lib/libclang*.so*') || true
    grep -Eq 'libclang(-[0-9.]+)?\.so' <<<"$found"
}
has_libclang || wanted+=(libclang-dev)
command -v protoc >/dev/null || wanted+=(protobuf-compiler)
# bindgen reads the C++ headers with libclang; rocksdb's and ring's sources need a compiler.
command -v c++ >/dev/null || wanted+=(g++)
command -v ip >/dev/null || wanted+=(iproute2)
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || wanted+=(nftables)
command -v curl >/dev/null || wanted+=(curl)

if [ "${1:-}" = --tests ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3 python3-venv)
    command -v node >/dev/null && command -v npm >/dev/null || wanted+=(nodejs npm)
fi

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing: install it with rustup (1.95 or newer), then run this again" >&2
    exit 1
fi
if [ ${#wanted[@]} -eq 0 ]; then
    echo "setup: everything that is needed is there"
    exit 0
fi
command -v apt-get >/dev/null || {
    echo "setup: missing: ${wanted[*]} (Debian's names); apt-get is not there to install them" >&2
    exit 1
}
as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup: installing ${wanted[*]} needs root or sudo" >&2; exit 1; }
    as_root=(sudo)
fi
echo "setup: installing ${wanted[*]}"
log=$(mktemp)
if ! { "${as_root[@]}" apt-get update && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y --no-install-recommends "${wanted[@]}"; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "setup: apt-get failed; the whole log is in $log" >&2
    exit 1
fi
rm -f "$log"
echo "setup: done"
