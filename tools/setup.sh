#!/usr/bin/env bash
# Installs what a make target lacks, by Debian package name: tools/setup.sh build|test|bench|peers|lint|cross...
# As root, or through sudo. Does nothing, quickly, when everything is there.
set -euo pipefail

packages_of() {
  case $1 in
    build) echo make g++ cmake ninja-build ccache pkg-config libhwy-dev libfmt-dev \
      libpcre2-dev libutf8proc-dev libtomlplusplus-dev ;;
    test) echo libgtest-dev libgmock-dev librapidcheck-dev ;;
    bench) echo libbenchmark-dev libdnnl-dev ;;
    peers) echo g++ python3 python3-venv python3-dev ;;
    lint) echo git clang-format-14 clang-tidy-14 ;;
    model) echo python3 python3-pip ;;
    cross) echo g++-aarch64-linux-gnu qemu-user-static ;;
    *) echo "setup.sh: no group '$1'" >&2; exit 2 ;;
  esac
}

wanted=()
for group in "$@"; do
  names=$(packages_of "$group")
  # shellcheck disable=SC2206
  wanted+=($names)
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup.sh: not a Debian system. Please see to what these packages hold (Debian names): ${wanted[*]}" >&2
  exit 0  # what is missing, the build will name
fi

installed=" $(dpkg-query -W -f='${db:Status-Status}:${Package} ' "${wanted[@]}" 2>/dev/null || true) "
missing=()
for package in "${wanted[@]}"; do
  [[ $installed == *" installed:$package "* ]] || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "setup.sh: these packages are missing, and there is neither root nor sudo to install them:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  root=(sudo)
fi

echo "Installing: ${missing[*]}"
apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
apt update
apt install -y --no-install-recommends "${missing[@]}" >/dev/null
