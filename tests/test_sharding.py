"""Two processes that hold half of every weight each (FSDP2) train, save and resume the weights of one process."""

import json
import os
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from test_scale_out import make_config

from training import train as train_module
from training.checkpoint import Preempted
from training.sharding import prepare_sharding
from training.train import train


def sharded_accelerator(build, config):
    """What `accelerate launch` with fsdp2.yaml makes on GPUs; on CPUs accelerate's own switch does not offer it."""
    accelerator = build(config)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=False, auto_wrap_policy="transformer_based_wrap"
    )
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)  # as accelerate does
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return accelerator


def whole_of_halves(whole_model, accelerator, model, whole):
    """`whole_model`, of a model of which this process holds about a half."""
    held = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    assert 0.3 < sum(p.numel() for p in held) / sum(p.numel() for p in model.parameters()) < 0.7
    return whole_model(accelerator, model, whole)


def process(rank, rendezvous, config, stop_at, resume):
    torch.set_num_threads(1)
    os.environ |= {"ACCELERATE_USE_CPU": "true", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    build = train_module.build_accelerator
    train_module.build_accelerator = lambda own: sharded_accelerator(build, own)
    train_module.whole_model = partial(whole_of_halves, train_module.whole_model)
    train_module.finish_run = lambda *_: None
    steps = iter(range(1, 100))
    train_module.is_told_to_stop = lambda *_: next(steps) == stop_at
    try:
        train(config, resume=resume)
    except Preempted:
        assert stop_at


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "stop_at"),
    [
        ({}, 0),
        ({"lora_rank": 2}, 0),
        ({"chunk_size": 1, "freeze": ["lca", "text_model.embeddings", "affiliation_logit_scale"]}, 1),
    ],
    ids=["plain", "LoRA", "chunked, partly frozen, stopped and resumed"],
)
def test_two_sharded_processes_train_the_weights_of_one(
    tiny_dataset, tiny_config, tmp_path, monkeypatch, fields, stop_at
):
    configs = {name: make_config(tiny_dataset, tiny_config, tmp_path / name) for name in ("one", "sharded")}
    for config in configs.values():
        vars(config).update(fields)
    monkeypatch.setattr(train_module, "finish_run", lambda *_: None)
    train(configs["one"])
    mp.spawn(process, (str(tmp_path / "rendezvous"), configs["sharded"], stop_at, False), nprocs=2)
    if stop_at:
        mp.spawn(process, (str(tmp_path / "again"), configs["sharded"], 0, True), nprocs=2)
    for folder in ("last", "best"):
        one, sharded = (load_file(tmp_path / name / folder / "model.safetensors") for name in configs)
        assert one.keys() == sharded.keys()
        difference = max((one[name] - sharded[name]).abs().max().item() for name in one)
        assert difference < 1e-4, difference
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in configs]
    assert logs[0].count("\n") == logs[1].count("\n") == 4


@pytest.fixture
def bfloat16(monkeypatch):
    """What `accelerate launch --mixed_precision bf16` says."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
def test_sharded_processes_compute_in_bfloat16_what_one_process_does(tiny_dataset, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "finish_run", lambda *_: None)
    first_steps = {}
    for name in ("one", "sharded"):
        config = make_config(tiny_dataset, tiny_config, tmp_path / name)
        if name == "one":
            train(config)
        else:
            mp.spawn(process, (str(tmp_path / "rendezvous"), config, 0, False), nprocs=2)
        first_steps[name] = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
    # Of the first step: AdamW turns rounding into whole updates where a gradient is near 0.
    assert first_steps["sharded"]["loss"] == pytest.approx(first_steps["one"]["loss"], rel=1e-4)
    assert first_steps["sharded"]["grad_norm"] == pytest.approx(first_steps["one"]["grad_norm"], rel=1e-2)


def test_settings_that_shards_cannot_have_get_one_sentence(tiny_model, tiny_dataset, tiny_config, tmp_path):
    config = make_config(tiny_dataset, tiny_config, tmp_path)

    class Sharded:
        is_fsdp2 = True
        state = type("State", (), {"fsdp_plugin": FullyShardedDataParallelPlugin(fsdp_version=2)})

    Sharded.state.fsdp_plugin.cpu_ram_efficient_loading = True
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading is on"):
        prepare_sharding(Sharded(), config, tiny_model)
    Sharded.state.fsdp_plugin.cpu_ram_efficient_loading = False
    config.instruction_epochs = 1
    with pytest.raises(ValueError, match="instruction_epochs is not 0"):
        prepare_sharding(Sharded(), config, tiny_model)
