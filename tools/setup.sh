#!/usr/bin/env bash
# Installs what Strata is built from: distribution packages through apt, LibTorch from its wheel into .deps/.
# Does only what is missing; under a second when nothing is.
#
#   tools/setup.sh            everything for a CPU build; the GPU libraries too where nvidia-smi answers
#   tools/setup.sh --cuda     the GPU libraries as well (3 GB)
#   tools/setup.sh --no-cuda  never the GPU libraries
#   tools/setup.sh --check    installs nothing, says what is missing (exit code 1)
#
# STRATA_TORCH_DIR=<folder with LibTorch's include/ and lib/> uses a LibTorch that is already there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps="$root/.deps"
site="$deps/python"
torch_version=2.11.0
cuda_version=13

# What the wheel's CPU library itself loads; pinned as torch pins them.
runtime_wheels=(nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
packages=(g++ git cmake ninja-build ccache clang-format
  libopenmpi-dev openmpi-bin libhdf5-dev libboost-program-options-dev nlohmann-json3-dev
  libsentencepiece-dev sentencepiece libgtest-dev libgmock-dev libbenchmark-dev
  jargon-text python3 python3-pip python3-venv)

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

cuda=auto
check=no
for argument in "$@"; do
  case "$argument" in
    --cuda) cuda=yes ;;
    --no-cuda) cuda=no ;;
    --check) check=yes ;;
    -h | --help)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) die "unknown argument $argument, allowed: --cuda, --no-cuda, --check, --help" ;;
  esac
done
if [ "$cuda" = auto ]; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then cuda=yes; else cuda=no; fi
fi
missing_anything=no

# --- distribution packages -------------------------------------------------------------------------------
missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
  for package in "${packages[@]}"; do
    grep -qx "$package installed" <<<"$installed" || printf '%s\n' "$package"
  done
}

install_packages() {
  local run=() missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  local command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$check" = yes ]; then
    say "missing packages: ${missing[*]}"
    missing_anything=yes
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 ||
      die "packages are missing and only an administrator can install them; run as root:" "  $command"
    run=(sudo)
  fi
  say "installing packages: ${missing[*]}"
  "${run[@]}" apt-get update -qq ||
    say "the package lists could not be refreshed; trying with those already here"
  "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
    die "apt could not install the packages (its reason is above). Is the machine online? By hand, as root:" \
      "  $command"
}

if command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
  install_packages
else
  say "this is not a Debian system: install the equivalents of these packages yourself if the build misses them:"
  say "  ${packages[*]}"
fi

# --- LibTorch --------------------------------------------------------------------------------------------
have_torch() {
  [ -e "$site/torch/lib/libtorch_cpu.so" ] && [ -e "$site/torch-$torch_version.dist-info/METADATA" ]
}
have_runtime() {
  compgen -G "$site/nvidia/*/lib/libcudart.so.$cuda_version" >/dev/null &&
    compgen -G "$site/nvidia/*/lib/libcupti.so.$cuda_version" >/dev/null
}

# Installs wheels into a folder of their own and then links them into place, metadata last: an interrupted
# run leaves nothing that looks complete, and packages that share a folder (nvidia/) are merged.
install_wheels() {
  local what=$1 part="$deps/incoming" python
  shift
  python=$(command -v python3) || die "python3 is missing: it unpacks LibTorch's wheel"
  "$python" -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
  "$python" -m pip --version >/dev/null 2>&1 ||
    die "python3 has no pip: install python3-pip (it unpacks LibTorch's wheel)"
  mkdir -p "$deps" "$site"
  rm -rf "$part"
  say "installing $what into .deps/python"
  # The wheels of one interpreter version, whichever runs pip: only their C++ part is used.
  if ! "$python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --no-compile --root-user-action=ignore \
    --only-binary=:all: --python-version 3.11 --target "$part" "$@"; then
    rm -rf "$part"
    die "pip could not install $what (its reason is above)." \
      "Offline? Configure pip for a mirror or a folder of wheels (pip config set global.find-links FOLDER)," \
      "or unpack LibTorch $torch_version elsewhere and set STRATA_TORCH_DIR to the folder with include/ and lib/."
  fi
  (
    cd "$part"
    find . -mindepth 1 -maxdepth 1 ! -name '*.dist-info' -exec cp -alf -t "$site" {} +
    find . -mindepth 1 -maxdepth 1 -name '*.dist-info' -exec cp -alf -t "$site" {} +
  )
  rm -rf "$part"
}

# The wheels with GPU libraries that this torch asks for, with its own pins, read from its metadata.
gpu_wheels() {
  sed -n 's/^Requires-Dist: \(\(nvidia-\|cuda-toolkit\)[^;]*\).*/\1/p' \
    "$site/torch-$torch_version.dist-info/METADATA" | tr -d ' '
}
have_gpu_wheels() {
  local wheel name version
  while read -r wheel; do
    name=${wheel%%[=\[]*}
    version=${wheel##*==}
    [ -d "$site/${name//-/_}-$version.dist-info" ] || return 1
  done < <(gpu_wheels)
}

if [ -n "${STRATA_TORCH_DIR:-}" ]; then
  [ -e "$STRATA_TORCH_DIR/lib/libtorch_cpu.so" ] ||
    die "STRATA_TORCH_DIR: got $STRATA_TORCH_DIR, which has no lib/libtorch_cpu.so"
else
  if [ "$check" = no ]; then
    mkdir -p "$deps"
    if command -v flock >/dev/null 2>&1; then
      exec 9>"$deps/.lock"
      flock 9
    fi
  fi
  if ! have_torch || ! have_runtime; then
    if [ "$check" = yes ]; then
      say "missing: LibTorch $torch_version in .deps/python"
      missing_anything=yes
    else
      install_wheels "LibTorch $torch_version (1.2 GB)" --no-deps "torch==$torch_version" "${runtime_wheels[@]}"
      have_torch && have_runtime || die "the wheels were installed, but LibTorch's libraries are not where they belong"
    fi
  fi
  if [ "$cuda" = yes ] && have_torch && ! have_gpu_wheels; then
    if [ "$check" = yes ]; then
      say "missing: the GPU libraries in .deps/python"
      missing_anything=yes
    else
      mapfile -t wheels < <(gpu_wheels)
      [ ${#wheels[@]} -gt 0 ] || die "torch's metadata names no GPU libraries"
      install_wheels "the GPU libraries (3 GB)" "${wheels[@]}"
    fi
  fi
fi
if [ "$cuda" = yes ] && ! command -v nvcc >/dev/null 2>&1 && [ ! -x /usr/local/cuda/bin/nvcc ]; then
  say "note: no nvcc found; a CUDA build also needs the CUDA Toolkit $cuda_version"
fi
[ "$missing_anything" = no ] || exit 1
[ "$check" = no ] || say "nothing is missing"
