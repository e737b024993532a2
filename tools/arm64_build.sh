#!/usr/bin/env bash
# Cross-builds the named targets (all, if none) for arm64 into build-aarch64/.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/arm64_root.sh
cmake --preset aarch64 >/dev/null
targets=()
[[ $# -gt 0 ]] && targets=(--target "$@")
cmake --build --preset aarch64 "${targets[@]}"
