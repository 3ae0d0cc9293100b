"""The forms of the image side on a CPU are measured beside each other."""

import pytest
import torch

from training.benchmarks.cpu_forms import main


@pytest.mark.slow  # exports the model, which takes a minute
def test_every_form_is_measured_with_its_speed_size_and_recall(
    tmp_path, tiny_model, tiny_processor, tiny_dataset, monkeypatch, capsys
):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function.__name__) or function)
    main(["--model", str(tmp_path / "model"), "--data", str(tiny_dataset), "--repeats", "1"])
    _, header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["form", "images/s", "MB", "mR"]
    table = {line[:36].strip(): [float(value) for value in line[36:].split()] for line in lines}
    assert list(table) == [
        "torch, float32", "torch, bfloat16 autocast", "torch, bfloat16 autocast, compiled", "torch, bfloat16 weights",
        "ONNX Runtime, float32", "ONNX Runtime, 8-bit matrices", "ONNX Runtime, 8-bit convolutions",
    ]  # fmt: skip
    assert compiled == ["get_image_features"]  # for real it takes minutes
    assert all(rate > 0 and size > 0 and 0 <= recall <= 100 for rate, size, recall in table.values())
    assert table["torch, bfloat16 weights"][1] == pytest.approx(table["torch, float32"][1] / 2, abs=0.01)
    assert table["ONNX Runtime, float32"][2] == table["torch, float32"][2]
