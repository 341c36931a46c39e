#!/usr/bin/env bash
# Makes a virtual environment with only what a GPU machine has (gpu_machine.txt), as builds for CPUs, and beside it the
# wheels that run_gpu.sh carries there (gpu_wheels.txt). What works in it will not fail there for want of a package.
#
#   benchmarks/lean_environment.sh DIR
#   PYTHON=DIR/bin/python WHEELS=DIR/wheels benchmarks/run_gpu.sh --smoke
set -euo pipefail
cd "$(dirname "$0")"
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
case $1 in /*) folder=$1 ;; *) folder=$OLDPWD/$1 ;; esac
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet -r gpu_machine.txt
"$folder/bin/python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder/wheels" -r gpu_wheels.txt
for package in av clu libtpu ml_collections pycocotools tensorflow transformers; do
  if "$folder/bin/python" -c "import $package" 2>/dev/null; then
    echo "$0: $package is there, but no GPU machine has it" >&2
    exit 1
  fi
done
"$folder/bin/python" -c 'import jax, torch; print("jax", jax.__version__, "torch", torch.__version__)'
