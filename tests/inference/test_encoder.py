"""Any dual encoder behind one interface: PIR, transformers, sentence-transformers; and models that are none."""

import shutil

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    ElectraConfig,
    RobertaConfig,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.encoder import DualEncoder, PIREncoder, SentenceEncoder, load_encoder, text_settings
from tests.support.tiny_clip import TINY_TEXT, TINY_VISION, save_clip

TEXTS = ["a red square", "two red squares in the forest", "a red square", "parking"]


@pytest.fixture
def clip_folder(tmp_path, tiny_tokenizer):
    return save_clip(tmp_path / "clip", tiny_tokenizer)


def test_pir_is_embedded_as_everywhere_else(tmp_path, tiny_model, tiny_processor, tiny_images):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert isinstance(encoder, PIREncoder) and not encoder.model.training
    expected = embed_images(tiny_model, tiny_processor, tiny_images)
    torch.testing.assert_close(encoder.embed_images(tiny_images, 2, None, None), expected)
    torch.testing.assert_close(
        encoder.embed_texts(TEXTS, 2, None, None), embed_texts(tiny_model, tiny_processor, TEXTS)
    )


def test_clip_gives_the_features_of_transformers(clip_folder, tiny_images):
    encoder = load_encoder(clip_folder)
    assert isinstance(encoder, DualEncoder)
    inputs = encoder.processor(text=TEXTS, images=tiny_images, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder.model(**inputs)
    torch.testing.assert_close(encoder.embed_images(tiny_images, 3, None, None), expected.image_embeds)
    torch.testing.assert_close(encoder.embed_texts(TEXTS, 3, None, None), expected.text_embeds)


def test_equal_texts_are_encoded_once(clip_folder, monkeypatch):
    encoder = load_encoder(clip_folder)
    seen = []
    forward = encoder.model.get_text_features

    def counted(**inputs):
        seen.append(len(inputs["input_ids"]))
        return forward(**inputs)

    monkeypatch.setattr(encoder.model, "get_text_features", counted)
    embeds = encoder.embed_texts(TEXTS, 64, None, None)
    assert seen == [3]
    assert torch.equal(embeds[0], embeds[2])


def test_long_texts_are_cut_to_what_the_model_takes(clip_folder):
    embeds = load_encoder(clip_folder).embed_texts(["square " * 200], 8, None, None)
    assert embeds.shape == (1, 12) and embeds.isfinite().all()


def test_siglip_gets_texts_of_full_length(tiny_tokenizer, tiny_images):
    text = TINY_TEXT | {"vocab_size": len(tiny_tokenizer), "pad_token_id": tiny_tokenizer.pad_token_id}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=TINY_VISION)).eval()
    processor = SiglipProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tiny_tokenizer)
    assert text_settings(model, processor) == {"padding": "max_length", "truncation": True, "max_length": 24}
    encoder = DualEncoder(model, processor)
    alone = encoder.embed_texts(TEXTS[:1], 1, None, None)
    torch.testing.assert_close(encoder.embed_texts(TEXTS, 4, None, None)[:1], alone)
    assert encoder.embed_images(tiny_images, 4, None, None).shape == (4, 16)


def test_positions_that_are_counted_from_the_padding_leave_fewer_for_texts(tiny_tokenizer):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = RobertaConfig(vocab_size=len(tiny_tokenizer), max_position_embeddings=20, pad_token_id=1, **small)
    vision = ViTConfig(image_size=32, patch_size=16, **small)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    tiny_tokenizer.model_max_length = 10**30  # it states none
    processor = SiglipProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tiny_tokenizer)
    encoder = DualEncoder(VisionTextDualEncoderModel(config).eval(), processor)
    assert text_settings(encoder.model, processor)["max_length"] == 18
    assert encoder.embed_texts(["square " * 200], 8, None, None).isfinite().all()


def test_a_text_tower_without_a_pooled_vector_is_named(tiny_tokenizer):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = ElectraConfig(vocab_size=len(tiny_tokenizer), embedding_size=16, **small)
    vision = ViTConfig(image_size=32, patch_size=16, **small)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    processor = SiglipProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tiny_tokenizer)
    encoder = DualEncoder(VisionTextDualEncoderModel(config).eval(), processor)
    with pytest.raises(ValueError, match="gives no text vectors .*: its text tower has no pooled output, so choose"):
        encoder.embed_texts(["a square"])


def test_a_model_saved_in_half_precision_computes_in_the_float32_that_is_reported(clip_folder, tmp_path):
    half = shutil.copytree(clip_folder, tmp_path / "half")
    AutoModel.from_pretrained(clip_folder).half().save_pretrained(half)
    assert load_encoder(str(half)).model.dtype == torch.float32


def test_a_model_of_sentence_transformers_is_taken(tmp_path, clip_folder, tiny_images):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import CLIPModel as CLIPModule

    SentenceTransformer(modules=[CLIPModule(clip_folder)], device="cpu").save(str(tmp_path / "sentence"))
    encoder, clip = load_encoder(str(tmp_path / "sentence")), load_encoder(clip_folder)
    assert isinstance(encoder, SentenceEncoder)
    found, expected = (one.embed_images(tiny_images, 3, None, None) for one in (encoder, clip))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # which resizes by torchvision, not by PIL
    torch.testing.assert_close(encoder.embed_texts(TEXTS, 3, None, None), clip.embed_texts(TEXTS, 3, None, None))


def test_embeddings_are_unit_float32_in_low_precision(clip_folder):
    embeds = load_encoder(clip_folder).embed_images([Image.new("RGB", (40, 30), "red")], 8, torch.bfloat16, None)
    assert embeds.dtype == torch.float32
    assert embeds.norm(dim=-1).item() == pytest.approx(1)


def test_a_model_without_an_image_side_is_refused(tmp_path, tiny_tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a BertModel, which has no image side"):
        load_encoder(str(tmp_path))


def test_a_text_model_of_sentence_transformers_is_refused(tmp_path, tiny_tokenizer):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    tiny_tokenizer.save_pretrained(tmp_path / "bert")
    modules = [Transformer(str(tmp_path / "bert")), Pooling(16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "sentence"))
    with pytest.raises(ValueError, match="has no image side"):
        load_encoder(str(tmp_path / "sentence"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a model folder"):
        load_encoder(str(tmp_path))


def test_a_model_that_is_nowhere_gets_a_sentence():
    with pytest.raises(ValueError, match="nobody/nothing cannot be loaded"):
        load_encoder("nobody/nothing")


def test_published_pir_is_a_pir_although_it_is_made_for_sentence_transformers_too(tmp_path, tiny_model, tiny_processor):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    assert isinstance(load_encoder(str(tmp_path)), PIREncoder)
