#!/usr/bin/env bash
# Configures and builds Strata; tests/run.sh and examples/quickstart.sh call it after tools/setup.sh.
#
#   tools/build.sh                the program and the libraries
#   tools/build.sh --tests        the tests and the compile check of CUDA sources too
#
#   --build-dir DIR   default: build
#   --jobs N          compilers at the same time; default: one per core, at most one per 2 GB of memory
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

build=build
targets=(strata)
jobs=
while [ $# -gt 0 ]; do
  case "$1" in
    --tests) targets=(all strata_cuda_check) ;;
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
    *)
      echo "tools/build.sh: unknown argument $1, allowed: --tests, --build-dir DIR, --jobs N" >&2
      exit 2
      ;;
  esac
  shift
done

if [ -z "$jobs" ]; then
  jobs=$(nproc)
  by_memory=$(awk '/^MemTotal:/ { print int($2 / 2000000) }' /proc/meminfo)
  [ "$by_memory" -ge "$jobs" ] || jobs=$((by_memory > 1 ? by_memory : 1))
fi

# Objects are found again in the cache from another clone of the same sources.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$root} CCACHE_NOHASHDIR=1

configure=(cmake --preset release -B "$build")
[ -z "${STRATA_TORCH_DIR:-}" ] || configure+=("-DSTRATA_TORCH_DIR=$STRATA_TORCH_DIR")
log="$build/configure.log"
mkdir -p "$build"
if ! "${configure[@]}" >"$log" 2>&1; then
  cat "$log"
  echo "tools/build.sh: configuring failed, see above" >&2
  exit 1
fi
sed -n '/what was found/,/^-- *$/p' "$log"
cmake --build "$build" --parallel "$jobs" --target "${targets[@]}"
