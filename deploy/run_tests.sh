#!/bin/bash
# Builds and runs every test that needs no GPU; the last line counts the cases:
# "N passed, N failed, N skipped". Arguments go to bazel test; without targets
# among them it tests everything.
set -euo pipefail

here="$(dirname "$(readlink -f "$0")")"
bash "$here/setup.sh"

events="$(mktemp)"
trap 'rm -f "$events"' EXIT
targets=(//...)
for argument in "$@"; do
  [[ $argument == -* ]] || targets=()
done

status=0
bash "$here/bazel.sh" test --keep_going --build_event_json_file="$events" \
  "$@" "${targets[@]}" || status=$?
/usr/bin/python3 "$here/count_tests.py" "$events" || status=1
exit "$status"
