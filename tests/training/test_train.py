"""The loop: a run leaves what it promises, resumes exactly, stops at what cannot be trained on."""

import dataclasses
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from modeling_pir import PIRModel, PIRProcessor
from tests.support.tiny import model_fields
from training import train as train_module
from training.config import save_config
from training.data.sources import load_image_captions
from training.evaluation.split_embeddings import evaluate_split
from training.run.checkpoint import Preempted, checkpoints
from training.run.state import RunState
from training.train import check_losses, timed, train

CONFIGS = Path(train_module.__file__).parent / "configs"


@pytest.fixture
def dynamo(monkeypatch):
    """What `accelerate launch --dynamo_backend eager` says: traced as for compiling, run as it is."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch._dynamo.reset()


def weights(config, folder="last"):
    return load_file(f"{config.output_dir}/{folder}/model.safetensors")


def records(config):
    with open(f"{config.output_dir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def assert_equal_weights(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_leaves_a_model_that_loads_and_scores_as_recorded(tiny_run):
    config = tiny_run(instruction_epochs=1)
    folder = train(config)
    best = max((r for r in records(config) if r.get("split") == "validation"), key=lambda record: record["mR"])
    model = PIRModel.from_pretrained(folder / "best")
    processor = PIRProcessor.from_pretrained(folder / "best")
    metrics = evaluate_split(model, processor, load_image_captions(config.data, "validation"), 4)
    assert metrics == {key: best[key] for key in metrics}
    assert yaml.safe_load((folder / "config.yaml").read_text())["batch_size"] == 2
    assert not model.instruction_model.training and not any(
        p.requires_grad for p in model.instruction_model.parameters()
    )


def test_a_model_stored_in_half_loads_in_float32_as_the_rounded_one(tiny_run):
    whole = PIRModel.from_pretrained(train(tiny_run("whole", epochs=1)) / "best")
    folder = train(tiny_run("half", epochs=1, save_dtype="bfloat16")) / "best"
    stored, half = load_file(folder / "model.safetensors"), PIRModel.from_pretrained(folder)
    assert {tensor.dtype for tensor in stored.values() if tensor.dim() > 1} == {torch.bfloat16}
    assert torch.bfloat16 not in {tensor.dtype for tensor in stored.values() if tensor.dim() < 2}
    matrices = {name for name, parameter in whole.named_parameters() if parameter.dim() > 1}
    for name, value in whole.state_dict().items():
        assert half.state_dict()[name].dtype == value.dtype
        assert torch.equal(half.state_dict()[name], value.bfloat16().to(value.dtype) if name in matrices else value)


def test_ten_steps_on_one_batch_lower_the_loss(tiny_run):
    config = tiny_run(epochs=10, batch_size=4, learning_rate=5e-3, warmup_ratio=0.0)
    train(config)
    losses = [record["loss"] for record in records(config) if "loss" in record]
    assert len(losses) == 10 and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("stop_at", "chunk_size"), [(1, 0), (2, 0), (3, 1)])
def test_a_stopped_and_resumed_run_is_bit_identical(tiny_run, monkeypatch, stop_at, chunk_size):
    whole = tiny_run("whole", chunk_size=chunk_size, num_workers=0)
    train(whole)
    cut = tiny_run("cut", chunk_size=chunk_size, num_workers=1)
    calls = iter(range(1, 100))
    monkeypatch.setattr(train_module, "is_told_to_stop", lambda *_: next(calls) == stop_at)
    with pytest.raises(Preempted, match=f"step {stop_at}"):
        train(cut)
    train(cut, resume=True)
    assert_equal_weights(weights(whole), weights(cut))
    assert_equal_weights(weights(whole, "best"), weights(cut, "best"))
    assert records(whole) == records(cut)


def test_the_official_recipe_trains_its_temperatures_and_resumes_exactly(tiny_run, monkeypatch):
    recipe = yaml.safe_load((CONFIGS / "rsicd_official.yaml").read_text())
    fields = {name: recipe[name] for name in ("raw_temperatures", "max_grad_norm")} | {"num_workers": 0}
    fields["model"] = tiny_run().model | recipe["model"]
    whole, cut = tiny_run("whole", **fields), tiny_run("cut", **fields)
    train(whole)
    scales = [record["logit_scale"] for record in records(whole) if "logit_scale" in record]
    assert len(set(scales)) == len(scales) == 4
    calls = iter(range(1, 100))
    monkeypatch.setattr(train_module, "is_told_to_stop", lambda *_: next(calls) == 3)
    with pytest.raises(Preempted, match="step 3"):
        train(cut)
    train(cut, resume=True)
    assert_equal_weights(weights(whole), weights(cut))


def test_what_came_after_the_last_checkpoint_is_done_again_alike(tiny_run, monkeypatch):
    whole, cut = tiny_run("whole"), tiny_run("cut", checkpoint_every=1)
    train(whole)
    crashes = []

    def crash(unchecked, step, output_dir):
        if step == 4 and not crashes:  # the last step of the run, whose predecessor left a checkpoint
            crashes.append(step)
            raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "check_losses", crash)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    assert checkpoints(train_module.Path(cut.output_dir))[-1].name == "step_000000003"
    train(cut, resume=True)
    assert_equal_weights(weights(whole), weights(cut))
    assert records(whole) == records(cut)


def test_sigterm_saves_and_stops(tiny_run):
    config = tiny_run(epochs=200)
    timer = threading.Thread(target=lambda: (time.sleep(2), os.kill(os.getpid(), signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    timer.start()
    try:
        with pytest.raises(Preempted, match="--resume"):
            train(config)
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    assert checkpoints(train_module.Path(config.output_dir))


def test_a_chunked_run_without_dropout_trains_like_a_plain_one(tiny_run):
    plain, chunked = tiny_run("plain"), tiny_run("chunked", chunk_size=1)
    for config in (plain, chunked):
        config.model |= {"dropout": 0.0}
        config.model["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.model["vision_config"] |= {"drop_path_rate": 0.0}
        train(config)
    for left, right in zip(records(plain), records(chunked), strict=True):
        assert left.get("loss") == pytest.approx(right.get("loss"), abs=1e-4)


def test_a_changed_run_is_not_resumed(tiny_run):
    config = tiny_run(epochs=1)
    train(config)
    changed = tiny_run(epochs=2, learning_rate=2e-3)
    with pytest.raises(ValueError, match="epochs was 1 and is 2") as raised:
        train(changed, resume=True)
    assert "learning_rate was 0.001 and is 0.002" in str(raised.value)


def test_changed_data_is_not_resumed(tiny_run, tiny_dataset):
    config = tiny_run(epochs=1)
    train(config)
    path = tiny_dataset / "train" / "metadata.jsonl"
    path.write_text(path.read_text().replace("square", "circle"))
    with pytest.raises(ValueError, match="the train data had the fingerprint"):
        train(config, resume=True)


def test_a_run_is_not_overwritten(tiny_run):
    config = tiny_run(epochs=1)
    train(config)
    with pytest.raises(ValueError, match="holds a run already"):
        train(config)


def test_a_finished_run_is_not_resumed(tiny_run):
    config = tiny_run(epochs=1)
    (train(config) / "report.md").write_text("# Report")
    with pytest.raises(ValueError, match="is finished .report.md"):
        train(config, resume=True)


def test_nothing_to_resume_is_said(tiny_run):
    with pytest.raises(ValueError, match="no run in"):
        train(tiny_run("absent"), resume=True)


def test_data_without_scenes_needs_the_affiliation_loss_off(tiny_run, tiny_dataset):
    for path in tiny_dataset.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "scene"}) + "\n" for row in rows))
    config = tiny_run(epochs=1)
    with pytest.raises(ValueError, match="names no scenes"):
        train(config)
    config.model["affiliation_weight"] = 0.0
    train(config)


@pytest.mark.parametrize("field", ["num_cycles", "vision_config"])
def test_a_field_of_the_model_of_the_wrong_type_gets_one_sentence(tiny_run, field):
    config = tiny_run()
    config.model[field] = {"model_type": "swin", "depths": "two"} if field == "vision_config" else "two"
    with pytest.raises(ValueError, match="does not fit PIRConfig: .*(num_cycles|depths).*two"):
        train(config)


def test_fewer_items_than_a_batch_are_refused(tiny_run):
    with pytest.raises(ValueError, match="gives 4 items, fewer than one batch of 8: add --set batch_size=4"):
        train(tiny_run(batch_size=8))


def test_a_loss_that_is_no_number_names_the_step(tmp_path):
    unchecked = [torch.tensor(value) for value in (1.0, math.nan, 2.0)]
    with pytest.raises(FloatingPointError, match="loss is nan at step 7: training stopped, no epoch was finished"):
        check_losses(unchecked, 9, tmp_path)
    unchecked = [torch.tensor(1.0)]
    check_losses(unchecked, 7, tmp_path)
    assert not unchecked


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, [4, 8]), ({"checkpoint_every": 2}, [2, 4, 4, 6, 8]), ({"log_every": 1}, [1, 2, 3, 4, 4, 5, 6, 7])],
    ids=["epoch", "checkpoint", "log"],
)
def test_losses_are_read_when_something_is_due_and_nothing_of_a_broken_one_is_kept(
    tiny_run, monkeypatch, fields, expected
):
    steps, reads = iter(range(99)), []
    joint_losses, check = train_module.joint_losses, train_module.check_losses

    def broken(*arguments):
        losses = joint_losses(*arguments)
        return dataclasses.replace(losses, loss=losses.loss * math.nan) if next(steps) == 6 else losses

    def counted(unchecked, step, output_dir):
        reads.append(step)
        check(unchecked, step, output_dir)

    monkeypatch.setattr(train_module, "joint_losses", broken)
    monkeypatch.setattr(train_module, "check_losses", counted)
    config = tiny_run(captions_per_image=0, batch_size=5, **{"log_every": 99} | fields)  # 4 steps an epoch
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 6: training stopped, the model of the last"):
        train(config)
    assert reads == expected
    run = train_module.Path(config.output_dir)
    states = [load_file(file) for file in run.rglob("model.safetensors")]
    assert len(states) == 3 and all(value.isfinite().all() for state in states for value in state.values())
    assert not any("nan" in line.lower() for line in (run / "metrics.jsonl").read_text().splitlines())


def test_waiting_for_batches_and_stepping_are_told_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: now[0])

    def slow_loader():
        for number in range(3):
            now[0] += 2.0
            yield number

    state = RunState(seconds_waiting=1.0)
    for _ in timed(slow_loader(), state):
        now[0] += 5.0
    assert (state.seconds_waiting, state.seconds_in_steps) == (7.0, 15.0)


@pytest.mark.slow  # tracing takes 20 seconds
def test_a_compiled_run_trains_saves_and_resumes_as_a_plain_one(tiny_run, request, monkeypatch):
    plain = tiny_run("plain")
    train(plain)
    AcceleratorState._reset_state(reset_partial_state=True)
    request.getfixturevalue("dynamo")
    compiled, compile_model = tiny_run("compiled"), torch.compile
    seen, calls = [], iter(range(1, 100))

    def spy(model, **options):
        seen.append(model)
        return compile_model(model, **options)

    monkeypatch.setattr(torch, "compile", spy)
    monkeypatch.setattr(train_module, "is_told_to_stop", lambda *_: next(calls) == 1)
    with pytest.raises(Preempted):
        train(compiled)
    train(compiled, resume=True)
    assert len(seen) == 2
    left, right = weights(plain), weights(compiled)
    assert left.keys() == right.keys()
    assert all(torch.allclose(left[name], right[name], atol=1e-6) for name in left)


def test_frozen_parts_and_lora_leave_what_they_should(tiny_run):
    pytest.importorskip("peft")
    start = tiny_run("start", epochs=1)
    train(start)
    config = tiny_run("tuned", init_from=f"{start.output_dir}/best", lora_rank=2, freeze=["lca"], model={})
    train(config)
    before, after = weights(start, "best"), weights(config)
    assert before.keys() == after.keys()  # merged: no adapter is left
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("attention" in name and "query" in name for name in changed if "text_model" in name)
    assert not any(name.startswith("lca.") for name in changed)
    assert not any("embeddings" in name for name in changed)
    assert any(name.startswith("vir.") for name in changed)


RESNET = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_weights(tiny_run, tiny_config, frozen):
    model = model_fields(tiny_config) | {"vision_config": RESNET, "num_instruction_layers": 0}
    config = tiny_run(model=model, freeze_batch_norm=frozen, epochs=1, image_size=32)
    train(config)
    norms = {name: value for name, value in weights(config).items() if "vision_model" in name}
    means = torch.cat([value for name, value in norms.items() if name.endswith("running_mean")])
    scales = torch.cat([value for name, value in norms.items() if name.endswith("normalization.weight")])
    assert bool((means == 0).all()) is frozen
    assert (scales != 1).any()


def test_a_run_with_its_images_on_the_device_resumes_exactly(tiny_run, monkeypatch):
    whole, cut = tiny_run("whole", images_on_device=True), tiny_run("cut", images_on_device=True)
    train(whole)
    calls = iter(range(1, 100))
    monkeypatch.setattr(train_module, "is_told_to_stop", lambda *_: next(calls) == 3)
    with pytest.raises(Preempted, match="step 3"):
        train(cut)
    train(cut, resume=True)
    assert_equal_weights(weights(whole), weights(cut))


def test_images_on_the_device_need_to_know_how_many_captions_an_item_has(tiny_run):
    with pytest.raises(ValueError, match="images_on_device is on, but captions_per_image is 0"):
        tiny_run(images_on_device=True, captions_per_image=0)


def test_a_learning_rate_of_a_module_is_above_zero(tiny_run):
    with pytest.raises(ValueError, match="module_learning_rates gives 'text_model' 0.0: give a rate above 0"):
        tiny_run(module_learning_rates={"text_model": 0.0})


def test_freezing_a_part_that_is_not_there_lists_those_that_are(tiny_run):
    with pytest.raises(ValueError, match="freeze names 'vision_tower', .* it has vision_model"):
        train(tiny_run(freeze=["vision_tower"]))


def test_a_run_is_logged_to_tensorboard(tiny_run):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny_run(log_with="tensorboard")
    folder = train(config)
    log = events.EventAccumulator(str(folder / "pir"))
    log.Reload()
    written = {event.step: event.value for event in log.Scalars("loss")}
    assert written == pytest.approx({record["step"]: record["loss"] for record in records(config) if "loss" in record})
    assert len(log.Scalars("mR")) == 2


def without_scene(dataset, split, number):
    """Take the scene from the first `number` images of a split."""
    path = dataset / split / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | ({"scene": None} if place < number else {}) for place, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_images_without_a_scene_are_passed_over_where_a_prior_learns_scenes(tiny_run, tiny_dataset):
    without_scene(tiny_dataset, "train", 2)  # batches of 2: one would have no scene at all
    without_scene(tiny_dataset, "validation", 4)
    train(tiny_run(instruction_epochs=3, epochs=1))


def test_more_items_in_a_batch_than_images_with_a_scene_are_refused(tiny_run, tiny_dataset):
    without_scene(tiny_dataset, "train", 2)
    with pytest.raises(ValueError, match="batch_size is 4, but only 2 training images have a scene: lower batch_size"):
        train(tiny_run(instruction_epochs=1, batch_size=4))


def gpu_is_full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def python_is_full(*_):
    raise MemoryError


def cpu_is_full(*_):
    torch.empty(2**50)


@pytest.mark.parametrize("fill", [gpu_is_full, python_is_full, cpu_is_full])
def test_full_memory_names_the_settings_that_need_less(monkeypatch, fill):
    monkeypatch.setattr(train_module, "train", fill)
    with pytest.raises(SystemExit, match=r"error: The memory is full \(.+\): set chunk_size .*--resume goes on"):
        train_module.main([])


@pytest.mark.parametrize("steps", [0, 3])
def test_ctrl_c_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, capsys, steps):
    config = tiny_run(checkpoint_every=1)
    save_config(config, tmp_path / "run.yaml")
    places = iter(range(10))

    def interrupt(*_):
        if next(places) == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "check_losses" if steps else "build_model", interrupt)
    with pytest.raises(SystemExit) as raised:
        train_module.main(["--config", str(tmp_path / "run.yaml")])
    said = capsys.readouterr().err.splitlines()[-1]
    again = f"python -m training.train --config {config.output_dir}/config.yaml --resume"
    assert raised.value.code == 130
    assert said == (f"Stopped. Go on from the last checkpoint: {again}" if steps else "Stopped. Nothing was kept.")
    if steps:
        assert train_module.parse_args(again.split()[3:]) == (config, True)
