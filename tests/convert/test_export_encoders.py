import onnxruntime
import pytest
import torch

from modeling_pir.cli.main import main
from modeling_pir.convert.export_encoders import (
    TOLERANCE,
    example_texts,
    export,
    export_image_encoder,
    export_text_encoder,
)


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_processor):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_example_texts_are_padded_to_one_length(tiny_model):
    mask = example_texts(tiny_model, 3, 5)["attention_mask"]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_traced_text_encoder_takes_any_number_and_length(tiny_model):
    tiny_model.set_attn_implementation("eager")
    program = export_text_encoder(tiny_model).module()
    assert not any("vision_model" in name for name in program.state_dict())
    for texts, length in ((1, 3), (4, 11), (2, 64)):
        inputs = example_texts(tiny_model, texts, length)
        expected = torch.nn.functional.normalize(tiny_model.get_text_features(**inputs).pooler_output, dim=-1)
        torch.testing.assert_close(program(*inputs.values()), expected, atol=TOLERANCE, rtol=0)


def test_traced_image_encoder_takes_any_number(tiny_model, tiny_processor, tiny_images):
    tiny_model.set_attn_implementation("eager")
    program = export_image_encoder(tiny_model, 32, 32).module()
    assert not any("text_model" in name for name in program.state_dict())  # it would be saved along, unused
    for images in (tiny_images[:1], tiny_images):
        pixel_values = tiny_processor(images=images, return_tensors="pt")["pixel_values"]
        expected = torch.nn.functional.normalize(tiny_model.get_image_features(pixel_values).pooler_output, dim=-1)
        torch.testing.assert_close(program(pixel_values), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_onnx_encoders_rank_like_the_model(folder, tmp_path, tiny_model, tiny_processor, tiny_images, tiny_captions):
    differences = export(folder, tmp_path / "onnx")
    assert max(differences.values()) < TOLERANCE
    inputs = tiny_processor(images=tiny_images, text=[captions[0] for captions in tiny_captions], return_tensors="np")
    embeds = {}
    for name, keys in (("image_encoder", ["pixel_values"]), ("text_encoder", ["input_ids", "attention_mask"])):
        session = onnxruntime.InferenceSession(tmp_path / "onnx" / f"{name}.onnx")
        (embeds[name],) = session.run(None, {key: inputs[key] for key in keys})
    with torch.no_grad():
        output = tiny_model(
            **tiny_processor(images=tiny_images, text=[c[0] for c in tiny_captions], return_tensors="pt")
        )
    expected = output.image_embeds @ output.text_embeds.T
    actual = torch.from_numpy(embeds["image_encoder"] @ embeds["text_encoder"].T)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_an_export_that_differs_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pir.convert.export_encoders.save_program", lambda *_: None)
    monkeypatch.setattr("modeling_pir.convert.export_encoders.largest_difference", lambda *_: 1e-3)
    with pytest.raises(ValueError, match="differs from the model by 1.0e-03: do not use"):
        export(folder, tmp_path / "onnx")


def test_a_missing_model_is_one_sentence(tmp_path, capsys):
    assert main(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is no model folder" in capsys.readouterr().err


def test_a_missing_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-pir\[onnx\]'"):
        export(folder, tmp_path / "out")
