#!/usr/bin/env bash
# Runs built benchmarks: tools/bench.sh "[name...]" [arguments for each]; the suite if none is named. They print the
# machine; the commit they cannot know, nor where the peers live, so both come by environment.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra names <<<"${1:-}"
shift || true
METAL_CANDLE_COMMIT=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
export METAL_CANDLE_COMMIT
if [[ -x build/peers-venv/bin/python ]]; then
  export METAL_CANDLE_PEERS_PYTHON=$PWD/build/peers-venv/bin/python
elif [[ -z ${METAL_CANDLE_PEERS_PYTHON:-} ]]; then
  echo "# No peers: \`make bench-peers\` installs them. Ratios to peers are left out."
fi

[[ ${#names[@]} -gt 0 ]] || names=(suite)

# Sections with real models take the demo's; without a network they are left out.
model() { tools/fetch_model.sh "$1" || echo "# No $1 model: sections that need it are left out." >&2; }
export METAL_CANDLE_BENCH_MODEL=${METAL_CANDLE_BENCH_MODEL:-$(model language)}
export METAL_CANDLE_EMBED_MODEL=${METAL_CANDLE_EMBED_MODEL:-$(model encoder)}

failed=()
for name in "${names[@]}"; do
  echo "## $name"
  "build/bench/bench_$name" "$@" || failed+=("$name")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "bench.sh: failed: ${failed[*]}" >&2; exit 1; }
