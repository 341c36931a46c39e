#!/usr/bin/env bash
# Deformable attention's CUDA kernels under compute-sanitizer, on the GPU at hand; fails if any tool finds an error.
#   benchmarks/cuda/sanitize.sh [arch, default 90]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
nvcc -std=c++17 -O3 -lineinfo -gencode="arch=compute_${1:-90},code=sm_${1:-90}" \
  -I kernels/ms_deform_attn/cuda benchmarks/cuda/sanitize.cu -o "$folder/sanitize"
for tool in memcheck racecheck initcheck synccheck; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 "$folder/sanitize"
done
