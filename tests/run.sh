#!/usr/bin/env bash
# Sets up, builds and tests Strata from a clean clone.
#
#   tests/run.sh                  the fast tests
#   tests/run.sh --all            the slow ones too
#   tests/run.sh -- -R comm       what follows -- goes to CTest
#
#   --build-dir DIR   default: build
#   --jobs N          compilers at the same time; default: one per core, at most one per 2 GB of memory
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

labels='^fast$'
build=build
jobs=
while [ $# -gt 0 ]; do
  case "$1" in
    --all) labels='^(fast|slow)$' ;;
    --build-dir)
      build=${2:?--build-dir needs a folder}
      shift
      ;;
    --jobs)
      jobs=${2:?--jobs needs a number}
      shift
      ;;
    -h | --help)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *)
      echo "tests/run.sh: unknown argument $1, allowed: --all, --build-dir DIR, --jobs N, -- (for CTest)" >&2
      exit 2
      ;;
  esac
  shift
done

tools/setup.sh
tools/build.sh --build-dir "$build" ${jobs:+--jobs "$jobs"} --tests

# Multi-rank tests declare two processors each, so two single-process tests or one multi-rank test run at a time.
ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" -L "$labels" "$@"
