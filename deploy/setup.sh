#!/bin/bash
# Installs the packages of deploy/apt-packages.txt that this machine lacks.
# Asks nothing; needs root or sudo only when something is missing.
set -euo pipefail

list="$(dirname "$(readlink -f "$0")")/apt-packages.txt"
mapfile -t wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$list")

if ! command -v dpkg-query apt-get >/dev/null; then
  echo "setup: this machine has no apt; install by hand what $list names" >&2
  exit 1
fi

if [[ ! -e /proc/self/exe ]]; then
  echo "setup: /proc is not mounted; Bazel needs it" \
    "(mount -t proc proc /proc)" >&2
  exit 1
fi

installed="$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' \
  "${wanted[@]}" 2>/dev/null | sed -n 's/^ii *//p' || true)"
mapfile -t missing < <(
  printf '%s\n' "${wanted[@]}" | grep -vxF -f <(echo "$installed") || true)
[[ ${#missing[@]} -eq 0 ]] && exit 0

as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: run as root, or install sudo; missing: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

apt() {
  local log
  log="$(mktemp)"
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
    apt-get -qq -y -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: apt-get $1 failed" >&2
    exit 1
  fi
  rm -f "$log"
}

echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
apt update
apt install --no-install-recommends "${missing[@]}"
echo "setup: done"
