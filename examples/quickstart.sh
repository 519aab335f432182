#!/usr/bin/env bash
# From a fresh clone to a trained model: installs, builds, prepares a text, trains a small byte-level Llama with two
# processes, evaluates it and lets it write. Does again only what is missing.
#
#   examples/quickstart.sh                trains on the Jargon File (Debian package jargon-text)
#   examples/quickstart.sh --data FILE    trains on a text of yours (plain or .gz)
#
#   --run DIR         run directory; default: runs/quickstart, with the file's name behind it for a text of yours
#   --build-dir DIR   default: build
#   --strata PROGRAM  use a program that is already there: no installation, no build
#   -- --KEY=VALUE    what follows goes to the program, for example -- --train.steps=3000
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=
run=
build=$root/build
strata=
while [ $# -gt 0 ]; do
  case "$1" in
    --data)
      data=$(realpath -- "${2:?--data needs a file}")
      shift
      ;;
    --run)
      run=$(realpath -m -- "${2:?--run needs a folder}")
      shift
      ;;
    --build-dir)
      build=$(realpath -m -- "${2:?--build-dir needs a folder}")
      shift
      ;;
    --strata)
      strata=$(realpath -- "${2:?--strata needs a program}")
      shift
      ;;
    --)
      shift
      break
      ;;
    -h | --help)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      echo "quickstart: unknown argument $1, allowed: --data FILE, --run DIR, --build-dir DIR, --strata PROGRAM, -- KEYS" >&2
      exit 2
      ;;
  esac
  shift
done
cd "$root"
if [ -z "$run" ]; then
  run=$root/runs/quickstart
  [ -z "$data" ] || run=$run-$(basename -- "$data" | tr -c 'A-Za-z0-9.\n' _)
fi

step() { printf '\n== %s\n' "$*"; }

if [ -z "$strata" ]; then
  step "1. what Strata is built from"
  tools/setup.sh

  step "2. build"
  tools/build.sh --build-dir "$build"
  strata=$build/bin/strata
fi

step "3. text"
mkdir -p "$run"
text=$run/text.txt
# The text of Debian's package jargon-text; systems that install packages without their documentation get it from the
# package itself.
jargon_file() {
  local path
  path=$(dpkg -L jargon-text 2>/dev/null | grep '/jargon\.txt\(\.gz\)\?$' | head -n 1 || true)
  if [ -n "$path" ] && [ -e "$path" ]; then
    printf '%s\n' "$path"
    return
  fi
  (
    mkdir -p "$root/.deps/jargon-text"
    cd "$root/.deps/jargon-text"
    compgen -G "*.deb" >/dev/null || apt-get download -qq jargon-text >&2
    dpkg-deb -x ./*.deb .
  ) || return 1
  find "$root/.deps/jargon-text" -name 'jargon.txt*' | head -n 1
}
if [ -z "$data" ] && [ ! -e "$text" ]; then
  data=$(jargon_file) && [ -n "$data" ] || {
    echo "quickstart: the package jargon-text is not here; give a text of your own: --data FILE" >&2
    exit 1
  }
fi
if [ -n "$data" ]; then
  [ -r "$data" ] || {
    echo "quickstart: --data: cannot read $data" >&2
    exit 1
  }
  case "$data" in
    *.gz) gzip -dc "$data" >"$text.part" ;;
    *) cp -- "$data" "$text.part" ;;
  esac
  if cmp -s "$text.part" "$text"; then rm "$text.part"; else mv "$text.part" "$text"; fi
fi
printf '%s: %d bytes\n' "$text" "$(wc -c <"$text")"

# mpirun refuses to work for root unless told twice; containers often have no other user.
launch=(mpirun -n 2 --oversubscribe --bind-to none)
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
settings=("--data.path=$text" "--run.dir=$run" "$@")

step "4. train with two processes (resumes where an earlier call was stopped)"
"${launch[@]}" "$strata" train examples/quickstart.ini "${settings[@]}"

step "5. evaluate"
"$strata" eval examples/quickstart.ini "${settings[@]}"

step "6. sample"
"$strata" sample examples/quickstart.ini "${settings[@]}"

step "done: everything is in $run; docs/quickstart.md says what to try next"
