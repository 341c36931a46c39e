#!/usr/bin/env bash
# Makes a folder with the projects that the benchmarks compare with. It lies outside this repository and nothing of it
# is ever committed.
#
#   benchmarks/prepare_peers.sh DEST TARVIS DETECTRON2 [DCNV4]     # copies; needs no GPU
#   benchmarks/prepare_peers.sh --build DEST                       # on the machine with the GPU: builds the CUDA ops
#
# TARVIS, DETECTRON2, DCNV4: folders with the sources (checkouts of Ali2500/TarViS, facebookresearch/detectron2 and
# OpenGVLab/DCNv4). detectron2 is used as plain Python; its few small requirements go to DEST/site by pip.
# DEST/{tarvis,configs,detectron2,projects,site}: --reference=DEST of benchmarks.model and benchmarks.train;
# DEST/{cuda_op,dcnv4}: built by --build.
set -euo pipefail
python=${PYTHON:-python3}

copy() {
  local dest=$1 tarvis=$2 detectron2=$3 dcnv4=${4:-}
  [ -d "$tarvis/tarvis/modelling" ] || { echo "$tarvis: expected a checkout of TarViS" >&2; exit 1; }
  [ -d "$detectron2/detectron2/modeling" ] || { echo "$detectron2: expected a checkout of detectron2" >&2; exit 1; }
  mkdir -p "$dest/site"
  cp -r "$tarvis/tarvis" "$tarvis/configs" "$dest/"
  cp -r "$detectron2/detectron2" "$dest/"
  mkdir -p "$dest/projects/PointRend" && cp -r "$detectron2/projects/PointRend/point_rend" "$dest/projects/PointRend/"
  # Without dependencies: PyTorch is there already. timm and einops are on the GPU machine of docs/benchmarks.md.
  local packages="fvcore iopath omegaconf antlr4-python3-runtime==4.9.3 yacs portalocker tabulate termcolor cloudpickle"
  "$python" -c "import timm, einops" 2>/dev/null || packages+=" timm einops"
  "$python" -m pip install --quiet --no-deps --target "$dest/site" $packages
  if [ -n "$dcnv4" ]; then cp -r "$dcnv4/DCNv4_op" "$dest/dcnv4_source"; fi
  modernise "$dest"
  du -sh "$dest"
}

# Today's PyTorch has no Tensor.type() for the dispatch macros: one word in two places of each project.
modernise() {
  local folder
  for folder in "$1/tarvis/modelling/backbone/temporal_neck/ops/src" "$1/dcnv4_source/src"; do
    [ -d "$folder" ] || continue
    find "$folder" -name '*.cu' -exec \
      sed -i -E '/AT_DISPATCH/,/;/ s/\b(value|input)\.type\(\)/\1.scalar_type()/' {} +
  done
}

build() {
  local dest=$1
  export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} MAX_JOBS=${MAX_JOBS:-16} FORCE_CUDA=1
  (cd "$dest/tarvis/modelling/backbone/temporal_neck/ops" && "$python" setup.py -q build_ext --build-lib "$dest/cuda_op")
  if [ -d "$dest/dcnv4_source" ]; then
    (cd "$dest/dcnv4_source" && "$python" setup.py -q build --build-lib "$dest/dcnv4")
  fi
}

case ${1:-} in
  --build) [ $# -eq 2 ] || { echo "usage: $0 --build DEST" >&2; exit 2; }; build "$(realpath "$2")" ;;
  *) [ $# -eq 3 ] || [ $# -eq 4 ] || { echo "usage: $0 DEST TARVIS DETECTRON2 [DCNV4]" >&2; exit 2; }; copy "$@" ;;
esac
