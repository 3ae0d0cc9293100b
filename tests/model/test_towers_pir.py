"""One side of PIR by itself: the embeddings of the whole model, from its checkpoint, without the other side."""

import logging

import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from modeling_pir import PIRModel, PIRTextModelWithProjection, PIRVisionModelWithProjection

SIDES = {
    PIRVisionModelWithProjection: ["instruction_model", "instruction_projection", "vir", "vision_model",
                                   "visual_projection"],
    PIRTextModelWithProjection: ["lca", "text_model", "text_projection"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_processor):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def inputs(tiny_processor, tiny_images, tiny_captions):
    return tiny_processor(images=tiny_images, text=[captions[0] for captions in tiny_captions], return_tensors="pt")


@torch.no_grad()
def test_each_side_gives_the_embeddings_of_the_whole_model(folder, tiny_model, inputs):
    expected = tiny_model(**inputs)
    images = PIRVisionModelWithProjection.from_pretrained(folder)(inputs.pop("pixel_values"))
    texts = PIRTextModelWithProjection.from_pretrained(folder)(**inputs)
    assert torch.equal(images.image_embeds, expected.image_embeds)
    assert torch.equal(images.belief_scores, expected.belief_scores)
    assert torch.equal(texts.text_embeds, expected.text_embeds)


@pytest.mark.parametrize("side", SIDES)
def test_a_side_holds_its_own_weights_alone(folder, side):
    names = {name.split(".")[0] for name in side.from_pretrained(folder).state_dict()}
    assert sorted(names) == SIDES[side]


@pytest.mark.parametrize("side", SIDES)
def test_what_a_side_leaves_out_is_no_warning_and_what_it_lacks_is_one(folder, side, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = side.from_pretrained(folder)
    assert not caplog.records
    state = model.state_dict()
    missing = next(name for name in state if name.endswith("weight"))
    _, report = side.from_pretrained(
        None, config=model.config, state_dict={name: tensor for name, tensor in state.items() if name != missing},
        output_loading_info=True,
    )  # fmt: skip
    assert report["missing_keys"] == {missing}


@pytest.mark.parametrize("side", SIDES)
def test_a_saved_side_is_what_auto_model_loads(folder, tmp_path, side):
    model = side.from_pretrained(folder)
    model.save_pretrained(tmp_path / "side")
    again = AutoModel.from_pretrained(tmp_path / "side")
    assert type(again) is side
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_image_feature_extraction_gives_the_embedding(
    folder, tmp_path, tiny_model, tiny_processor, tiny_images, inputs
):
    PIRVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path / "side")
    tiny_processor.save_pretrained(tmp_path / "side")
    assert type(AutoProcessor.from_pretrained(tmp_path / "side")) is type(tiny_processor)
    extract = pipeline("image-feature-extraction", model=str(tmp_path / "side"))
    with torch.no_grad():
        expected = tiny_model(**inputs).image_embeds
    torch.testing.assert_close(torch.cat(extract(tiny_images, return_tensors=True)), expected)


def test_the_vision_side_keeps_a_frozen_prior_frozen(folder):
    model = PIRVisionModelWithProjection.from_pretrained(folder).train()
    assert model.vision_model.training and not model.instruction_model.training
    assert not any(parameter.requires_grad for parameter in model.instruction_model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("side", SIDES)
def test_attention_can_be_switched(folder, side, inputs, caplog, monkeypatch):
    model = side.from_pretrained(folder)
    takes = ["pixel_values"] if side is PIRVisionModelWithProjection else ["input_ids", "attention_mask"]
    fused = model(**{name: inputs[name] for name in takes})[0]
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model.set_attn_implementation("eager")
    assert not caplog.records and model.config._attn_implementation == "eager"
    torch.testing.assert_close(model(**{name: inputs[name] for name in takes})[0], fused)


def test_a_side_without_its_extra_layers_loads_too(tmp_path, tiny_config):
    tiny_config.num_instruction_layers, tiny_config.num_cycles = 0, 0
    PIRModel(tiny_config).save_pretrained(tmp_path)
    assert PIRVisionModelWithProjection.from_pretrained(tmp_path).vir is None
    assert PIRTextModelWithProjection.from_pretrained(tmp_path).lca is None


def test_the_vision_side_names_its_input_layer_as_quantization_asks(folder):
    model = PIRVisionModelWithProjection.from_pretrained(folder)
    assert model.get_input_embeddings() is model.vision_model.embeddings.patch_embeddings.projection
