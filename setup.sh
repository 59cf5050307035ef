#!/usr/bin/env bash
# Set up everything that crumple needs, then optionally run the demo or the tests.
#
#   bash setup.sh                 system packages (apt), .venv-fe (finite elements), .venv (the rest)
#   bash setup.sh demo            the same, then the whole loop at demo size
#   bash setup.sh test            the same, then every check and test
#   bash setup.sh --conda         only the workflow's own environment; Snakemake builds the stages'
#                                 environments from envs/*.yaml (needs conda or mamba, no apt)
#
# Safe to run again: what is up to date is left alone. PYTHON=... chooses the interpreter of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

APT_PACKAGES=(ca-certificates python3-venv python3-dolfinx-real libgl1 libegl1 libglu1-mesa
  libxcursor1 libxft2 libxinerama1 libxrender1 libfontconfig1)
TEST_PACKAGES=(git calculix-ccx chromium chromium-driver)

main() {
  local conda=no task="" python
  for argument in "$@"; do
    case $argument in
      --conda) conda=yes ;;
      demo | test) task=$argument ;;
      *) die "unknown argument '$argument'; allowed: demo, test, --conda" ;;
    esac
  done
  if [ $conda = yes ]; then
    set_up_with_conda
  else
    install_apt "${APT_PACKAGES[@]}"
    set_up_venv .venv-fe /usr/bin/python3 fem fem,test --system-site-packages
    python=$(find_python) # on a line of its own, for the script to end where there is none
    set_up_venv .venv "$python" learn learn,share,test,dev,docs
  fi
  case $task in
    demo) run_demo ;;
    test)
      [ $conda = no ] || die "the tests run in the virtual environments: bash setup.sh test"
      install_test_packages
      run_tests
      ;;
    *) say "ready. Next: .venv/bin/snakemake -c2 --configfile workflow/presets/demo.yaml" ;;
  esac
}

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

# --- system packages -----------------------------------------------------------------------------

# install_apt [--if-offered] PACKAGE...: with the option, what the system doesn't have is left out.
install_apt() {
  local if_offered=no missing=() offered=() sudo=() candidate
  if [ "$1" = --if-offered ]; then
    if_offered=yes
    shift
  fi
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "no apt-get here: install the packages ${missing[*]} yourself, or use: bash setup.sh --conda"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      die "installing ${missing[*]} needs root or sudo: run this script as root once"
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -qq || die "apt-get update failed: see its message above"
  for package in "${missing[@]}"; do
    candidate=$(LC_ALL=C apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
    if [ $if_offered = no ] || [ "${candidate:-(none)}" != "(none)" ]; then
      offered+=("$package")
    else
      say "this system has no package $package: the tests that need it are skipped"
    fi
  done
  [ ${#offered[@]} -gt 0 ] || return 0
  say "installing system packages: ${offered[*]}"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${offered[@]}" >/dev/null ||
    die "apt-get could not install ${offered[*]}: see its message above"
}

# Debian 13 has no CalculiX. Ubuntu's chromium package is only a snap, which does not run headless in
# containers.
install_test_packages() {
  if grep -q '^ID=ubuntu' /etc/os-release; then
    install_apt --if-offered git calculix-ccx
  else
    install_apt --if-offered "${TEST_PACKAGES[@]}"
  fi
}

# --- Python environments -------------------------------------------------------------------------

# The newest Python >= 3.11 that can make virtual environments, `python3` itself first.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.{14,13,12,11} /usr/bin/python3}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  die "no Python >= 3.11 with the venv module on PATH: install one, or name it with PYTHON=..."
}

# set_up_venv FOLDER PYTHON NAME EXTRAS [venv options]: crumple with these extras of pyproject.toml, in
# the versions of envs/NAME.constraints.txt.
set_up_venv() {
  local folder=$1 python=$2 name=$3 extras=$4 stamp wanted
  shift 4
  stamp=$folder/.up-to-date
  wanted=$(cat "envs/$name.constraints.txt" pyproject.toml | sha256sum)
  if [ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted $PWD" ]; then
    return
  fi
  say "installing Python packages into $folder (a few minutes, once)"
  rm -f "$stamp"
  "$python" -m venv "$@" "$folder" || die "$python cannot make a virtual environment in $folder"
  pip_install "$folder" -e ".[$extras]" -c "envs/$name.constraints.txt"
  printf '%s' "$wanted $PWD" >"$stamp"
}

pip_install() {
  local folder=$1
  shift
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
    die "pip could not install into $folder: see its message above"
}

set_up_with_conda() {
  local conda
  conda=$(command -v mamba || command -v conda) || die "--conda needs conda or mamba on PATH"
  if [ ! -x .venv/bin/snakemake ]; then
    say "installing Snakemake into .venv with $conda"
    "$conda" env create -y -q -p "$PWD/.venv" -f envs/workflow.yaml ||
      die "$conda could not make the environment .venv: see its message above"
  fi
  SNAKEMAKE_OPTIONS=(--sdm conda)
  say "add '--sdm conda' to every snakemake command"
}

# --- tasks ---------------------------------------------------------------------------------------

SNAKEMAKE_OPTIONS=()

run_demo() {
  .venv/bin/snakemake --cores "$(nproc)" --configfile workflow/presets/demo.yaml \
    "${SNAKEMAKE_OPTIONS[@]}"
}

run_tests() { bash tests/run.sh; }

main "$@"
