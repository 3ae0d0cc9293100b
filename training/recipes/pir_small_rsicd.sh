#!/bin/bash
# The whole recipe of pir-small-rsicd, from the images to a run folder for each seed:
#   bash training/recipes/pir_small_rsicd.sh DATA [VISION] [TEXT]
#   DATA    the RSICD folder or Hub id
#   VISION  EfficientNet-Lite2, a Hub id or the folder that modeling_pir.convert.backbones made of a .pth
#   TEXT    all-MiniLM-L6-v2, a Hub id or folder
# About two minutes a seed on an H200. Repeat the command after a crash: what is finished is left out, and a training goes on
# where it was stopped. The published model is the seed with the median mR on validation.
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
