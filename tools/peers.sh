#!/usr/bin/env bash
# Makes build/peers-venv, a Python environment with what bench/peers/requirements.txt names, and brings it up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=build/peers-venv
wanted=bench/peers/requirements.txt
if [[ -e $venv/.complete ]] && cmp -s "$wanted" "$venv/.complete"; then
  echo "$venv is up to date"
  exit 0
fi
mkdir -p build
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade -r "$wanted"
cp "$wanted" "$venv/.complete"
echo "$venv is ready: $("$venv/bin/pip" list --disable-pip-version-check 2>/dev/null | awk '/^(torch|mlx|numpy|peft) / { printf "%s %s  ", $1, $2 }')"
