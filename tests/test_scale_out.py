"""Two processes train the weights of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import model_fields
from safetensors.torch import load_file

from training.config import TrainConfig, save_config

ROOT = Path(__file__).parents[1]


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "keys_within"),
    [({}, 1e-4), ({"raw_temperatures": True, "max_grad_norm": 0.0}, 1e-3)],
    ids=["ours", "raw"],
)
def test_two_processes_train_the_weights_of_one(tiny_dataset, tiny_config, tmp_path, fields, keys_within):
    finished = {}
    for number in (1, 2):
        folder = tmp_path / f"processes_{number}"
        config = make_config(tiny_dataset, tiny_config, folder / "run", **fields)
        result = launch(config, folder, number)
        assert result.returncode == 0, result.stderr[-2000:]
        assert json.loads((folder / "run" / "environment.json").read_text())["processes"] == number
        finished[number] = load_file(folder / "run" / "last" / "model.safetensors")
    one, two = finished[1], finished[2]
    assert one.keys() == two.keys()
    # The softmax does not see biases of keys: their gradients are rounding, which AdamW takes for steps.
    differences = {name: (one[name] - two[name]).abs().max().item() for name in one}
    keys = {name for name in one if name.endswith(("k_proj.bias", "key.bias"))}
    assert max(differences[name] for name in keys) < keys_within, differences
    assert max(differences[name] for name in differences.keys() - keys) < 2e-5, differences
    assert not any(torch.equal(one[name], torch.zeros_like(one[name])) for name in one if name.endswith("head.weight"))
