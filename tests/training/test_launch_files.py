"""The files in training/accelerate: accelerate's launcher takes each, and what it makes of them is what they say."""

import pytest
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.support.paths import ROOT

FOLDER = ROOT / "training" / "launch"
PROCESSES = {"cpu": 1, "gpu": 1, "gpus_8": 8, "nodes_2": 16, "fsdp2": 8, "zero2": 8}


def parsed(name, *options):
    """Arguments of `accelerate launch`, after it has read the file."""
    arguments = ["--config_file", str(FOLDER / f"{name}.yaml"), *options, "-m", "training.train"]
    return _validate_launch_command(launch_command_parser().parse_args(arguments))[0]


def test_every_file_is_known_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PROCESSES)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_launcher_takes_the_file(name):
    arguments = parsed(name)
    assert arguments.num_processes == PROCESSES[name] and arguments.mixed_precision == "bf16"
    assert arguments.multi_gpu == (name in {"gpus_8", "nodes_2"})
    assert arguments.use_fsdp == (name == "fsdp2") and arguments.use_deepspeed == (name == "zero2")
    assert bool(arguments.use_cpu) == (name == "cpu")
    assert arguments.num_machines == (2 if name == "nodes_2" else 1)
    if name == "zero2":
        assert arguments.zero_stage == 2


@pytest.mark.parametrize("name", PROCESSES)
def test_the_file_says_how_it_is_launched(name):
    assert f"--config_file training/launch/{name}.yaml" in (FOLDER / f"{name}.yaml").read_text()


def test_the_fsdp_file_makes_the_plugin_that_the_loop_needs(monkeypatch):
    for key, value in prepare_multi_gpu_env(parsed("fsdp2")).items():
        if key.startswith("FSDP"):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and not plugin.cpu_ram_efficient_loading and plugin.reshard_after_forward
    assert plugin.transformer_cls_names_to_wrap is None  # training/loop/sharding.py chooses


def test_both_machines_meet_where_the_launch_line_says():
    arguments = parsed("nodes_2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    environment = prepare_multi_gpu_env(arguments)
    assert (arguments.machine_rank, arguments.main_process_ip, int(arguments.main_process_port)) == (
        1,
        "10.0.0.1",
        29500,
    )
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16" and arguments.nproc_per_node == "8"
