#!/bin/bash
# The complete recipe of pir-small-rsicd, from the images to one run folder per seed:
#   bash training/recipes/pir_small_rsicd.sh DATA [VISION] [TEXT]
#   DATA    RSICD, a folder or Hub id
#   VISION  EfficientNet-Lite2, a Hub id or a folder written by modeling_pir.convert.backbones
#   TEXT    all-MiniLM-L6-v2, a Hub id or folder
# About two minutes per seed on an H200. Repeat the command after a crash: finished steps are skipped and an interrupted
# training resumes. The published model is the seed with the median mR on validation.
set -euo pipefail
data=$1
vision=${2:-timm/tf_efficientnet_lite2.in1k}
text=${3:-sentence-transformers/all-MiniLM-L6-v2}

[ -e towers/minilm_8k ] || python -m training.model.prune_text --text-model "$text" \
  --name sentence-transformers/all-MiniLM-L6-v2 --layers 0 1 2 3 4 5 --vocab-size 8000 --data "$data" --split-list rsicd \
  --output-dir towers/minilm_8k
for seed in 0 1 2; do
  run=runs/pir_small_rsicd_$seed
  resume=$([ -e $run/config.yaml ] && echo --resume || true)
  [ -e $run/test.json ] || accelerate launch --config_file training/launch/gpu.yaml -m training.train \
    --config training/configs/pir_small_rsicd.yaml --data "$data" --set backbones.vision="$vision" --seed $seed \
    --output-dir $run $resume
done
