#!/bin/bash
# The main job: installs, builds, and shards real micro-batches with real
# processes on this machine. Writes out/main_job.png, and logs to out/run/.
set -euo pipefail

here="$(dirname "$(readlink -f "$0")")"
bash "$here/setup.sh"
bash "$here/bazel.sh" build //coordinator:coordinatord //worker:workerd \
  //client/cli:shardctl //client/native:libshardwright.so
exec /usr/bin/python3 "$here/main_job/main.py" "$@"
