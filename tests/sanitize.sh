#!/bin/bash
# Runs the tests under sanitizers: tests/sanitize.sh [asan] [ubsan] [TARGET...].
# Without names both, without targets all tests. Not part of CI.
set -euo pipefail

here="$(dirname "$(readlink -f "$0")")"
configs=()
targets=()
for argument in "$@"; do
  case "$argument" in
    asan | ubsan) configs+=("$argument") ;;
    *) targets+=("$argument") ;;
  esac
done
[[ ${#configs[@]} -gt 0 ]] || configs=(asan ubsan)
[[ ${#targets[@]} -gt 0 ]] || targets=(//...)

failed=0
for config in "${configs[@]}"; do
  options=("--config=$config")
  if [[ $config == asan ]]; then
    # Python loads an instrumented library, so it too needs the runtime first.
    options+=(
      "--run_under=env LD_PRELOAD=$(g++ -print-file-name=libasan.so)"
      "--test_env=LSAN_OPTIONS=suppressions=$here/lsan_suppressions.txt:print_suppressions=0"
    )
  fi
  echo "sanitize: $config"
  bash "$here/../deploy/run_tests.sh" "${options[@]}" "${targets[@]}" || failed=1
done
exit "$failed"
