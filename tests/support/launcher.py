"""A training run of a tiny model on several processes."""

import os
import subprocess
import sys

import yaml

from tests.support.paths import ROOT
from tests.support.tiny import model_fields
from training.config import TrainConfig, save_config


def launch(config, folder, num_processes, script=("-m", "training.train"), timeout=280):
    """Run on several CPU processes.

    By torch's launcher, which accelerate's calls for GPUs: for CPUs that one starts a single process, however many it
    is asked for.
    """
    folder.mkdir(exist_ok=True)
    save_config(config, folder / "run.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [*command, *script, "--config", str(folder / "run.yaml")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def make_config(tiny_dataset, tiny_config, output_dir, **fields):
    model = model_fields(tiny_config)
    model = yaml.safe_load(yaml.safe_dump(model)) | {"dropout": 0.0}
    model["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model["vision_config"] |= {"drop_path_rate": 0.0}
    return TrainConfig(
        output_dir=str(output_dir), data=str(tiny_dataset), model=model, vocab_size=200, captions_per_image=2, epochs=2,
        batch_size=4, learning_rate=1e-3, log_every=1, evaluation_batch_size=4, **fields,
    )  # fmt: skip
