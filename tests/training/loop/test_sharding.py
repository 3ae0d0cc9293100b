"""Two processes that share out weights (FSDP2) or the optimiser (ZeRO-2) train, save and resume the weights of one."""

import json
import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.support.launcher import make_config
from training import train as train_module
from training.loop.sharding import check_sharding, prepare_sharding
from training.run.checkpoint import Preempted
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


def engine_of_zero(whole_model, accelerator, model, whole):
    """`whole_model`, of a model that DeepSpeed trains."""
    assert model.zero_optimization_stage() == 2 and model.dp_world_size == 2
    return whole_model(accelerator, model, whole)


def process(rank, rendezvous, config, stop_at, resume, kind="fsdp2"):
    torch.set_num_threads(1)
    os.environ |= {"ACCELERATE_USE_CPU": "true", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    if kind == "fsdp2":
        build = train_module.build_accelerator
        train_module.build_accelerator = lambda own: sharded_accelerator(build, own)
        train_module.whole_model = partial(whole_of_halves, train_module.whole_model)
    else:
        del os.environ["ACCELERATE_USE_CPU"]
        os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
        os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_GRADIENT_CLIPPING": "9.0"}  # max_grad_norm decides
        # Without a GPU accelerate would count one process.
        PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_CPU)
        train_module.whole_model = partial(engine_of_zero, train_module.whole_model)
    train_module.finish_run = lambda *_: None
    steps = iter(range(1, 100))
    train_module.is_told_to_stop = lambda *_: next(steps) == stop_at
    try:
        train(config, resume=resume)
    except Preempted:
        assert stop_at


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields", "stop_at"),
    [
        ("fsdp2", {}, 0),
        ("fsdp2", {"lora_rank": 2}, 0),
        ("fsdp2", {"chunk_size": 1, "freeze": ["lca", "text_model.embeddings", "affiliation_logit_scale"]}, 1),
        ("zero2", {}, 0),
        ("zero2", {"lora_rank": 2}, 0),
        ("zero2", {"freeze": ["lca", "text_model.embeddings", "affiliation_logit_scale"]}, 1),
    ],
)
def test_two_sharded_processes_train_the_weights_of_one(
    tiny_dataset, tiny_config, tmp_path, without_report, kind, fields, stop_at
):
    if kind == "zero2":
        pytest.importorskip("deepspeed")
    configs = {name: make_config(tiny_dataset, tiny_config, tmp_path / name) for name in ("one", "sharded")}
    for config in configs.values():
        vars(config).update(fields)
    train(configs["one"])
    mp.spawn(process, (str(tmp_path / "rendezvous"), configs["sharded"], stop_at, False, kind), nprocs=2)
    if stop_at:
        mp.spawn(process, (str(tmp_path / "again"), configs["sharded"], 0, True, kind), nprocs=2)
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
@pytest.mark.parametrize("kind", ["fsdp2", "zero2"])
def test_sharded_processes_compute_in_bfloat16_what_one_process_does(
    tiny_dataset, tiny_config, tmp_path, without_report, kind
):
    if kind == "zero2":
        pytest.importorskip("deepspeed")
    first_steps = {}
    for name in ("one", "sharded"):
        config = make_config(tiny_dataset, tiny_config, tmp_path / name)
        if name == "one":
            train(config)
        else:
            mp.spawn(process, (str(tmp_path / "rendezvous"), config, 0, False, kind), nprocs=2)
        first_steps[name] = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
    # Of the first step: AdamW turns rounding into whole updates where a gradient is near 0.
    assert first_steps["sharded"]["loss"] == pytest.approx(first_steps["one"]["loss"], rel=1e-4)
    assert first_steps["sharded"]["grad_norm"] == pytest.approx(first_steps["one"]["grad_norm"], rel=1e-2)


def test_settings_that_shards_cannot_have_get_one_sentence(tiny_dataset, tiny_config, tmp_path):
    config = make_config(tiny_dataset, tiny_config, tmp_path)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP, is_fsdp2=True, state=SimpleNamespace(fsdp_plugin=plugin)
    )
    plugin.cpu_ram_efficient_loading = True
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading is on"):
        check_sharding(accelerator, config)
    plugin.cpu_ram_efficient_loading = False
    check_sharding(accelerator, config)
    config.instruction_epochs = 1
    with pytest.raises(ValueError, match="instruction_epochs is 1"):
        check_sharding(accelerator, config)
    config.instruction_epochs, config.feature_cache = 0, "features"
    with pytest.raises(ValueError, match="feature_cache is 'features', .* run one process"):
        check_sharding(accelerator, config)


def deepspeed_accelerator(stage, precision):
    """Of two processes, without DeepSpeed."""
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": stage}, "gradient_clipping": 1.0})
    return SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED,
        is_fsdp2=False,
        num_processes=2,
        mixed_precision=precision,
        state=SimpleNamespace(deepspeed_plugin=plugin),
    )


@pytest.mark.parametrize(
    ("stage", "precision", "fields", "sentence"),
    [
        (3, "no", {}, "zero_stage is 3, .* choose 1 or 2"),
        (2, "no", {"chunk_size": 2}, "chunk_size is 2, .* set chunk_size to 0"),
        (2, "no", {"raw_temperatures": True}, "raw_temperatures is True, .* to False"),
        (2, "no", {"instruction_epochs": 3}, "instruction_epochs is 3, .* train it first"),
        (2, "no", {"feature_cache": "features"}, "feature_cache is 'features', .* run one process"),
        (2, "fp16", {}, "mixed_precision is fp16, .* choose bf16"),
    ],
)
def test_settings_that_zero_cannot_have_get_one_sentence(
    tiny_dataset, tiny_config, tmp_path, stage, precision, fields, sentence
):
    config = make_config(tiny_dataset, tiny_config, tmp_path)
    vars(config).update(fields)
    with pytest.raises(ValueError, match=sentence):
        check_sharding(deepspeed_accelerator(stage, precision), config)


def test_deepspeed_clips_and_batches_as_the_run_says(tiny_model, tiny_dataset, tiny_config, tmp_path):
    config = make_config(tiny_dataset, tiny_config, tmp_path)
    config.batch_size, config.max_grad_norm = 12, 0.3
    accelerator = deepspeed_accelerator(2, "no")
    assert prepare_sharding(accelerator, config, tiny_model) is None
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    assert settings["gradient_clipping"] == 0.3 and settings["train_micro_batch_size_per_gpu"] == 6
