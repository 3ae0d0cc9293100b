import json

import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer, normalizers
from transformers import AutoImageProcessor, CLIPImageProcessor

from modeling_pir import PIRProcessor, PIRTextModelWithProjection, PIRVisionModelWithProjection
from modeling_pir.cli.main import main
from modeling_pir.convert.export_encoders import (
    TOLERANCE,
    example_texts,
    export,
    export_image_encoder,
    export_text_encoder,
    write_processor,
)
from modeling_pir.images_pir import open_image
from modeling_pir.inference.encoder import load_encoder
from modeling_pir.processing_pir import CLEANING, clean_caption
from tests.support.odd_pictures import PICTURES, write_picture

CAPTIONS = [
    "Many PLANES, are parked -- beside a Terminal!",
    "  a  river/stream (curved) runs through: the <person>'s forest ; #1 ~ *",
    "An image of\ttwo storage tanks\n",
    " ".join(f"w{number}" for number in range(40)),
    " - a - b - c - " * 20,
    "Gebäude und Straßen, viele!",
]


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_processor):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def side(kind, folder):
    model = kind.from_pretrained(folder)
    model.set_attn_implementation("eager")
    return model


def test_example_texts_are_padded_to_one_length(folder):
    mask = example_texts(side(PIRTextModelWithProjection, folder), 3, 5)["attention_mask"]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_traced_text_encoder_takes_any_number_and_length(folder, tiny_model):
    text_side = side(PIRTextModelWithProjection, folder)
    program = export_text_encoder(text_side).module()
    for texts, length in ((1, 3), (4, 11), (2, 64)):
        inputs = example_texts(text_side, texts, length)
        expected = torch.nn.functional.normalize(tiny_model.get_text_features(**inputs).pooler_output, dim=-1)
        torch.testing.assert_close(program(*inputs.values()), expected, atol=TOLERANCE, rtol=0)


def test_traced_image_encoder_takes_any_number(folder, tiny_model, tiny_processor, tiny_images):
    program = export_image_encoder(side(PIRVisionModelWithProjection, folder), 32, 32).module()
    for images in (tiny_images[:1], tiny_images):
        pixel_values = tiny_processor(images=images, return_tensors="pt")["pixel_values"]
        expected = torch.nn.functional.normalize(tiny_model.get_image_features(pixel_values).pooler_output, dim=-1)
        torch.testing.assert_close(program(pixel_values), expected, atol=TOLERANCE, rtol=0)


def test_a_timm_tower_is_traced_too(tmp_path, tiny_config, tiny_images, tiny_processor):
    from modeling_pir import PIRConfig, PIRModel

    fields = tiny_config.to_diff_dict() | {
        "vision_config": {"model_type": "timm_wrapper", "architecture": "test_efficientnet", "model_args": {}},
        "num_instruction_layers": 0,
    }
    PIRModel(PIRConfig(**fields)).save_pretrained(tmp_path)
    model = side(PIRVisionModelWithProjection, tmp_path)
    program = export_image_encoder(model, 32, 32).module()
    pixel_values = tiny_processor(images=tiny_images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values).image_embeds
    torch.testing.assert_close(program(pixel_values), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_normalizer_cleans_as_the_processor(caption):
    assert normalizers.Sequence(CLEANING).normalize_str(caption) == clean_caption(caption)


def test_an_exported_tokenizer_gives_the_processor_s_tokens(tmp_path, tiny_processor):
    processor = PIRProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, caption_cleaning=True)
    write_processor(processor, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for caption in CAPTIONS[:4]:
        assert processor(text=caption)["input_ids"] == tokenizer.encode(caption).ids
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 32, "width": 32} and settings["do_normalize"]


@pytest.mark.parametrize("crops", [False, True])
def test_the_settings_of_an_export_alone_give_the_processor_s_pixels(tmp_path, tiny_processor, crops):
    if crops:
        image_processor = CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
        tiny_processor = PIRProcessor(image_processor, tiny_processor.tokenizer)
    write_processor(tiny_processor, tmp_path)
    (tmp_path / "processor_config.json").unlink()  # which readers other than transformers do not know
    alone = AutoImageProcessor.from_pretrained(tmp_path)
    for path in (write_picture(tmp_path, name) for name in PICTURES):
        expected = tiny_processor(images=path, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(alone(open_image(path), return_tensors="pt")["pixel_values"], expected)


def test_captions_that_were_not_cleaned_in_training_are_not_cleaned(tmp_path, tiny_processor):
    write_processor(tiny_processor, tmp_path)
    assert "w39" in Tokenizer.from_file(str(tmp_path / "tokenizer.json")).normalizer.normalize_str(CAPTIONS[3])


@pytest.mark.slow
def test_onnx_encoders_rank_like_the_model(folder, tmp_path, tiny_model, tiny_processor, tiny_images, tiny_captions):
    found = export(folder, tmp_path / "out")
    assert max(values["difference"] for values in found.values()) < TOLERANCE
    assert min(found["text_model"][form] for form in ("quantized", "fp16")) > 0.99
    texts = [captions[0] for captions in tiny_captions]
    inputs = tiny_processor(images=tiny_images, text=texts, return_tensors="np")
    with torch.no_grad():
        output = tiny_model(**tiny_processor(images=tiny_images, text=texts, return_tensors="pt"))
    expected = output.image_embeds @ output.text_embeds.T
    for form, tolerance in (("", TOLERANCE), ("_fp16", 1e-2)):
        embeds = {}
        for name, keys in (("vision_model", ["pixel_values"]), ("text_model", ["input_ids", "attention_mask"])):
            session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / f"{name}{form}.onnx")
            (output_name,) = (output.name for output in session.get_outputs())
            (embeds[output_name],) = session.run(None, {key: inputs[key] for key in keys})
        actual = torch.from_numpy(embeds["image_embeds"] @ embeds["text_embeds"].T)
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.slow
def test_exported_into_the_model_s_folder_it_embeds_images_on_a_cpu(folder, tiny_model, tiny_images, monkeypatch):
    expected = load_encoder(str(folder)).embed_images(tiny_images)
    monkeypatch.delenv("PIR_IMAGE_ENCODER")
    before = (folder / "tokenizer.json").read_bytes()
    export(folder, folder)
    assert (folder / "tokenizer.json").read_bytes() == before
    encoder = load_encoder(str(folder))
    assert encoder.vision_session is not None
    monkeypatch.setattr(encoder.model, "get_image_features", None)  # torch has no part in it
    torch.testing.assert_close(encoder.embed_images(tiny_images), expected, atol=1e-5, rtol=0)
    monkeypatch.setenv("PIR_IMAGE_ENCODER", "torch")
    assert load_encoder(str(folder)).vision_session is None
    monkeypatch.delenv("PIR_IMAGE_ENCODER")
    tiny_model.visual_projection.bias.data += 1
    tiny_model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"vision_model.onnx was exported from other weights.*run pir export again"):
        load_encoder(str(folder))


@pytest.mark.slow
def test_an_export_that_differs_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pir.convert.export_encoders.save_program", lambda *_: None)
    monkeypatch.setattr("modeling_pir.convert.export_encoders.write_reduced", lambda *_: None)
    monkeypatch.setattr("modeling_pir.convert.export_encoders.compare", lambda *_: {"difference": 1e-3})
    with pytest.raises(ValueError, match="differs from the model by 1.0e-03: do not use"):
        export(folder, tmp_path / "onnx")


def test_a_missing_model_is_one_sentence(tmp_path, capsys):
    assert main(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is not a model folder" in capsys.readouterr().err


def test_a_missing_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-pir\[onnx\]'"):
        export(folder, tmp_path / "out")
