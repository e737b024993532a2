#!/usr/bin/env bash
# Runs an arm64 program of build-aarch64/ under qemu, with the libraries it was linked with.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)/build-aarch64/root
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
exec "$qemu" -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$root/usr/lib/aarch64-linux-gnu" "$@"
