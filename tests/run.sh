#!/usr/bin/env bash
# Every check and test, in both environments; `bash setup.sh test` installs what it needs first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n=== %s\n' "$*"; }

step "style"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/snakefmt --check Snakefile workflow
.venv/bin/snakemake --lint

step "types"
.venv/bin/mypy

step "documentation"
NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

step "dry run of every preset, and of every ablation of the demo"
dry_run() {
  plan=$(.venv/bin/snakemake --dry-run --quiet --configfile "$@" 2>&1) ||
    { printf '%s\n' "$plan"; exit 1; }
  echo "$*: ok"
}
for preset in workflow/presets/*.yaml; do dry_run "$preset"; done
for ablation in workflow/ablations/*.yaml; do dry_run workflow/presets/demo.yaml "$ablation"; done

step "the whole loop at toy size, twice: the second run finds nothing to do"
rm -rf results/toy
.venv/bin/snakemake --cores "$(nproc)" --quiet rules --configfile workflow/presets/toy.yaml ||
  { tail -n 5 results/toy/logs/*.log results/toy/logs/*/*.log results/toy/logs/*/*/*.log; exit 1; }
.venv/bin/snakemake --cores 1 --configfile workflow/presets/toy.yaml 2>&1 |
  grep "Nothing to be done"
.venv-fe/bin/crumple inspect results/toy/data/dataset.json

export OMP_NUM_THREADS=1
step "tests, finite-element environment"
.venv-fe/bin/python -m pytest -q --durations=5 tests/common tests/fem

step "tests, learning environment"
.venv/bin/python -m pytest -q --durations=5 tests/common tests/learn
