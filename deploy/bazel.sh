#!/bin/bash
# bazel, with a disk cache if there is one: bash deploy/bazel.sh COMMAND ...
# The cache is the folder SHARDWRIGHT_BAZEL_CACHE, or else
# ~/.cache/shardwright-bazel if somebody has made that.
set -euo pipefail

export HOME="${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}"
cache="${SHARDWRIGHT_BAZEL_CACHE:-}"
if [[ -z $cache && -d $HOME/.cache/shardwright-bazel ]]; then
  cache="$HOME/.cache/shardwright-bazel"
fi

cd "$(dirname "$(readlink -f "$0")")/.."
command="${1:?usage: deploy/bazel.sh COMMAND ...}"
shift
case "$command" in
  build | run | test) ;;
  *) cache="" ;;  # Others have no such flag.
esac
exec bazel "$command" ${cache:+"--disk_cache=$cache"} "$@"
