"""Two processes train the weights of one."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_pir import PIRModel, PIRProcessor
from tests.support.launcher import launch, make_config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "keys_within"),
    [({}, 1e-4), ({"raw_temperatures": True, "max_grad_norm": 0.0}, 2e-3)],
    ids=["ours", "raw"],
)
def test_two_processes_train_the_weights_of_one(
    tiny_dataset, tiny_config, tiny_images, tiny_captions, tmp_path, fields, keys_within
):
    finished, outputs = {}, {}
    for number in (1, 2):
        folder = tmp_path / f"processes_{number}"
        config = make_config(tiny_dataset, tiny_config, folder / "run", **fields)
        result = launch(config, folder, number)
        assert result.returncode == 0, result.stderr[-2000:]
        assert json.loads((folder / "run" / "environment.json").read_text())["processes"] == number
        finished[number] = load_file(folder / "run" / "last" / "model.safetensors")
        model = PIRModel.from_pretrained(folder / "run" / "last")
        processor = PIRProcessor.from_pretrained(folder / "run" / "last")
        texts = [caption for captions in tiny_captions for caption in captions]
        inputs = processor(images=tiny_images, text=texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            outputs[number] = model(**inputs)
    one, two = finished[1], finished[2]
    assert one.keys() == two.keys()
    # The softmax does not see biases of keys: their gradients are rounding, which AdamW takes for steps where nothing
    # is clipped. So they differ by up to two steps of 1e-3, by how much depends on processor and batch, and no output
    # may show it.
    differences = {name: (one[name] - two[name]).abs().max().item() for name in one}
    keys = {name for name in one if name.endswith(("k_proj.bias", "key.bias"))}
    assert max(differences[name] for name in keys) < keys_within, differences
    assert max(differences[name] for name in differences.keys() - keys) < 2e-6, differences
    for side in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(outputs[1][side], outputs[2][side], rtol=0, atol=2e-6)
    assert not any(torch.equal(one[name], torch.zeros_like(one[name])) for name in one if name.endswith("head.weight"))
