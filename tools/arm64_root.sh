#!/usr/bin/env bash
# Unpacks the distribution's arm64 libraries that the cross build links into build-aarch64/root. Asks apt with a state
# of its own, so it needs no root and leaves this machine's packages and architectures as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$PWD/build-aarch64/apt
out=$PWD/build-aarch64/root
packages=(libhwy-dev libfmt-dev libpcre2-dev libutf8proc-dev libgtest-dev libgmock-dev librapidcheck-dev)
[[ $(cat "$out/.complete" 2>/dev/null) == "${packages[*]}" ]] && exit 0

rm -rf "$out" "$work"
mkdir -p "$out" "$work/lists/partial" "$work/cache/archives/partial"
: >"$work/status"
options=(-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$work"
  -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
  -o APT::Sandbox::User="$(id -un)")

# Ubuntu serves arm64 from another place than x86-64.
if grep -q '^ID=ubuntu' /etc/os-release && [[ $(dpkg --print-architecture) == amd64 ]]; then
  . /etc/os-release
  for pocket in "" -updates -security; do
    echo "deb http://ports.ubuntu.com/ubuntu-ports $VERSION_CODENAME$pocket main universe"
  done >"$work/sources.list"
  options+=(-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null)
fi

apt-get "${options[@]}" update
# The shared libraries' package names carry versions, so they are read from the -dev packages.
libraries=$(apt-cache "${options[@]}" depends "${packages[@]}" | awk '/ Depends: lib(hwy|fmt|pcre2-8|utf8proc)/ { print $2 }' | sort -u)
cd "$work/cache"
# shellcheck disable=SC2086
apt-get "${options[@]}" download "${packages[@]}" $libraries
for deb in *.deb; do dpkg -x "$deb" "$out"; done
echo "${packages[*]}" >"$out/.complete"
