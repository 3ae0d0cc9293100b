#!/bin/bash
# The whole recipe of pir-mini-rsicd, from the images to a run folder: bash training/recipes/pir_mini_rsicd.sh DATA [TEXT]
#   DATA  the RSICD folder or Hub id      TEXT  all-MiniLM-L6-v2, a Hub id or folder
# On two CPU cores: half an hour for the towers; the two trainings took 90 minutes side by side, one core each, which is
# how the published numbers were made (here they follow each other, on all cores). A step whose folder is there is left
# out; a training goes on where it was stopped.
set -euo pipefail
data=$1
text=${2:-sentence-transformers/all-MiniLM-L6-v2}
random=training/configs/pir_mini_rsicd_random.yaml
run() { accelerate launch --config_file training/launch/cpu.yaml -m "$@" --data "$data"; }

# Scenes at 96 pixels: twice as many images in an hour as at 128, and joint training at 128 follows.
[ -e towers/rsicd_vision ] || run training.pretrain_tower --config $random --tower vision \
  --output-dir towers/rsicd_vision --set instruction_epochs=40 --set image_size=96 --set batch_size=64 --set crop_scale=0.35
[ -e towers/rsicd_prior ] || run training.pretrain_tower --config $random --tower instruction \
  --output-dir towers/rsicd_prior --set instruction_epochs=15 --set image_size=96 --set batch_size=64 --set crop_scale=0.35
[ -e towers/minilm_rsicd ] || python -m training.model.prune_text --text-model "$text" \
  --name sentence-transformers/all-MiniLM-L6-v2 --layers 0 1 2 --vocab-size 3000 --data "$data" --split-list rsicd \
  --output-dir towers/minilm_rsicd
for name in pir_mini_rsicd pir_mini_rsicd_random; do
  resume=$([ -e runs/$name/config.yaml ] && echo --resume || true)
  [ -e runs/$name/test.json ] || run training.train --config training/configs/$name.yaml $resume
done
