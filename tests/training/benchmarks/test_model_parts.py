"""The benchmark prints every part, and its towers are the model without heads."""

import pytest
import torch
import yaml

from modeling_pir import PIRModel
from tests.support.tiny import build_tiny_config
from training.benchmarks.model_parts import TOWERS, WHOLE, best_seconds, main, make_steps


def test_the_towers_alone_train_the_towers_and_the_model_trains_all(tiny_config):
    model = PIRModel(tiny_config).train()
    steps = make_steps(model, batch_size=4, length=8, device="cpu")
    trained = {}
    for name in (TOWERS, WHOLE):
        model.zero_grad()
        steps[name]().backward()
        trained[name] = {name.split(".")[0] for name, part in model.named_parameters() if part.grad is not None}
    assert trained[TOWERS] == {"vision_model", "text_model"}
    assert {"vir", "lca", "logit_scale", "affiliation_logit_scale"} < trained[WHOLE]


def test_parts_take_turns_and_the_best_round_of_each_counts(tiny_model, monkeypatch):
    clock = iter([0, 9, 0, 9, 0, 3, 0, 5, 0, 2, 0, 7])  # seconds at the start and end of each pass
    monkeypatch.setattr("training.benchmarks.model_parts.time.perf_counter", lambda: next(clock))
    turns = []

    def step(name):
        turns.append(name)
        return torch.zeros((), requires_grad=True)

    steps = {"one": lambda: step("one"), "two": lambda: step("two")}
    assert best_seconds(tiny_model, steps, 3, torch.float32, "cpu") == {"one": 2, "two": 5}
    assert turns == ["one", "two"] * 3


@pytest.mark.parametrize("overrides", [{}, {"num_instruction_layers": 0}])
def test_the_command_prints_each_part_in_each_precision(tmp_path, capsys, overrides):
    config = build_tiny_config(**overrides).to_diff_dict()
    fields = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": fields}))
    main(["--config", str(path), "--batch-size", "2", "--length", "6", "--repeats", "1"])
    printed = capsys.readouterr().out
    has_prior = not overrides
    assert printed.count("instruction tower (forward)") == 2 * has_prior
    for part in ("float32:", "bfloat16:"):
        assert printed.count(part) == 1
    for part in ("vision tower", "text tower", TOWERS, WHOLE, "beyond the towers"):
        assert printed.count(f"\n{part}") == 2 or printed.count(part) == 2, part
