#!/bin/bash
# Proves that the simulation can fail: bash tests/simulation/sabotage.sh
#
# Each patch in sabotage/ puts one bug into the coordinator. In a temporary copy
# of the tree the simulation must pass without any and fail with each; what
# caught it, and at which seed, is printed. Not part of CI: it builds six times.
# SIMULATION_SEEDS (300) says how many seeds it has for each.
set -euo pipefail

here="$(dirname "$(readlink -f "$0")")"
seeds="${SIMULATION_SEEDS:-300}"
copy="$(mktemp -d "${TMPDIR:-/tmp}/shardwright-sabotage.XXXXXX")"
(cd "$here/../.." && git ls-files -z | xargs -0 cp --parents -t "$copy")

cleanup() {
  bash "$copy/deploy/bazel.sh" clean --expunge > /dev/null 2>&1 || true
  rm -rf "$copy"
}
trap cleanup EXIT

# Builds and runs the simulation; what it says is in simulation.log.
simulate() {
  if ! bash "$copy/deploy/bazel.sh" build --jobs=2 \
    //tests/simulation:simulation_test > "$copy/build.log" 2>&1; then
    cat "$copy/build.log"
    exit 1
  fi
  "$copy/bazel-bin/tests/simulation/simulation_test" --seed=1 \
    --count="$seeds" > "$copy/simulation.log" 2>&1
}

# Little context and some fuzz: the code around these lines may change.
edit() {
  patch --quiet --strip=1 --fuzz=3 --directory="$copy" "$@"
}

if ! simulate; then
  cat "$copy/simulation.log"
  echo "sabotage: the simulation fails without any bug"
  exit 1
fi
echo "sabotage: without any: $seeds seeds pass"

missed=0
for bug in "$here"/sabotage/*.patch; do
  name="$(basename "$bug" .patch)"
  edit < "$bug"
  if simulate; then
    echo "sabotage: $name: NOT CAUGHT in $seeds seeds"
    missed=1
  else
    caught="$(grep -m1 '^seed .* violates ' "$copy/simulation.log" || true)"
    echo "sabotage: $name: caught: ${caught:0:120}"
  fi
  edit --reverse < "$bug"
done
exit "$missed"
