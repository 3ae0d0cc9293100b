"""Checkpoints of open_clip as folders of transformers, compared with open_clip itself on random weights."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

from modeling_pir import PIRModel
from modeling_pir.cli.main import main
from modeling_pir.convert.open_clip import choose_quick_gelu, convert_open_clip, read_open_clip

open_clip = pytest.importorskip("open_clip")

WORDS = "a river Planes don't football-field 3 km² white; buildings, forest! l'été airport's".split(" ")
CAPTIONS = [" ".join(WORDS[(row * step + step) % len(WORDS)] for step in range(1, 3 + row % 30)) for row in range(200)]
TINY_TEXT = {"width": 64, "heads": 1, "layers": 2}


def checkpoint(tmp_path, name, is_full=False):
    """A model of open_clip with random weights, fewer layers unless told otherwise, and its file."""
    file = Path(open_clip.__file__).parent / "model_configs" / f"{name}.json"
    config = json.loads(file.read_text())
    if not is_full:
        config["text_cfg"] |= TINY_TEXT
        if isinstance(config["vision_cfg"]["layers"], int):
            config["vision_cfg"]["layers"] = 1
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    with torch.no_grad():
        for weight in (*model.parameters(), *(buffer for key, buffer in model.named_buffers() if "running" in key)):
            if weight.ndim == 1:  # biases and norms start as zeros and ones, which would hide a mix-up
                weight += 0.05 * torch.rand_like(weight)
    path = tmp_path / f"{name}.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return model, path


def assert_same(model, folder):
    """Embeddings of images and texts within 1e-5, and the same tokens."""
    converted, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    tokens = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS)
    inputs = processor(text=CAPTIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    ends = inputs.attention_mask.sum(dim=1).tolist()
    assert [row[:end].tolist() for row, end in zip(inputs.input_ids, ends, strict=True)] == [
        row[: row.argmax() + 1].tolist() for row in tokens
    ]
    preprocess = open_clip.transform.image_transform(
        224, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    images = [Image.effect_noise((224, 224), 64).convert("RGB"), Image.effect_mandelbrot((224, 224), (-2, -1, 1, 1), 9)]
    images = [image.convert("RGB") for image in images]
    with torch.inference_mode():
        expected_texts = model.encode_text(tokens[:8], normalize=True)
        expected_images = model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
        texts = converted.get_text_features(inputs.input_ids[:8], inputs.attention_mask[:8]).pooler_output
        pixels = processor(images=images, return_tensors="pt").pixel_values
        found = converted.get_image_features(pixels).pooler_output
    for ours, expected in ((texts, expected_texts), (found, expected_images)):
        torch.testing.assert_close(torch.nn.functional.normalize(ours, dim=-1), expected, atol=1e-5, rtol=0)


SMALL = ["ViT-B-32", "ViT-B-16-quickgelu"]
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("ViT-L-14", "ViT-H-14")]


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_a_vision_transformer_embeds_as_in_open_clip(tmp_path, name):
    model, path = checkpoint(tmp_path, name)
    lines = convert_open_clip(path, tmp_path / "out")
    assert ("QuickGELU (by the file's name)" in lines[1]) == name.endswith("quickgelu")
    assert_same(model, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_a_whole_architecture_embeds_as_in_open_clip(tmp_path, name):
    model, path = checkpoint(tmp_path, name, is_full=True)
    convert_open_clip(path, tmp_path / "out")
    assert_same(model, tmp_path / "out")


def test_safetensors_and_a_bare_state_dict_are_read_alike(tmp_path):
    model, path = checkpoint(tmp_path, "ViT-B-32")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "a.safetensors")
    torch.save(model.half().state_dict(), tmp_path / "half.pt")
    wrapped, bare = read_open_clip(path), read_open_clip(tmp_path / "a.safetensors")
    assert wrapped.keys() == bare.keys() and all(torch.equal(wrapped[key], bare[key]) for key in bare)
    assert {tensor.dtype for tensor in read_open_clip(tmp_path / "half.pt").values()} == {torch.float32}


@pytest.mark.parametrize(("key", "change"), [("visual.proj", "missing"), ("visual.vir.weight", "left over")])
def test_every_tensor_has_to_find_its_place(tmp_path, key, change):
    _, path = checkpoint(tmp_path, "ViT-B-32")
    state = read_open_clip(path)
    if change == "missing":
        del state[key]
    else:
        state[key] = torch.ones(1)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=change):
        convert_open_clip(tmp_path / "other.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_activation_is_what_the_user_says_else_what_the_name_says():
    assert choose_quick_gelu("RS5M_ViT-B-32_RET-2.pt", None)[0]
    assert not choose_quick_gelu("RS5M_ViT-H-14.pt", None)[0]
    assert not choose_quick_gelu("RemoteCLIP-ViT-L-14.pt", None)[0]
    assert choose_quick_gelu("RemoteCLIP-ViT-L-14.pt", True) == (True, "as you said")


@pytest.mark.parametrize(
    ("content", "message"),
    [({"weights": 3}, "holds no state dict"), ({"model": {"fc.weight": torch.ones(2)}}, "holds no CLIP of open_clip")],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        convert_open_clip(tmp_path / "other.pt", tmp_path / "out")


def test_a_pickle_with_code_is_not_run(tmp_path):
    torch.save({"state_dict": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="pathlib"):
        convert_open_clip(tmp_path / "code.pt", tmp_path / "out")


def test_the_command_tells_the_kinds_of_checkpoints_apart_and_says_how_to_go_on(tmp_path, capsys):
    _, path = checkpoint(tmp_path, "ViT-B-32")
    assert main(["convert", str(path), str(tmp_path / "out"), "--quick-gelu"]) == 0
    out = capsys.readouterr().out
    assert "activation: QuickGELU (as you said)" in out
    assert f"pir index FOLDER --index archive.lance --model {tmp_path / 'out'}" in out
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "no")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_pir_starts_from_the_towers_of_a_converted_clip(tmp_path):
    _, path = checkpoint(tmp_path, "ViT-B-32")
    convert_open_clip(path, tmp_path / "clip")
    folder = str(tmp_path / "clip")
    model = PIRModel.from_backbones(folder, folder, folder, projection_dim=16, num_attention_heads=2)
    clip = AutoModel.from_pretrained(folder)
    weight = model.vision_model.state_dict()["encoder.layers.0.mlp.fc1.weight"]
    assert torch.equal(weight, clip.vision_model.state_dict()["encoder.layers.0.mlp.fc1.weight"])
