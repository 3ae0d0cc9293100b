"""A pruned text tower computes what its source computes, for every text that the kept words can write."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer, BertConfig, BertModel, ResNetConfig, ResNetModel

from modeling_pir import PIRModel
from modeling_pir.modeling_pir import load_tower
from training.model.prune_text import choose_pieces, prune, prune_tower

CAPTIONS = ["two blue square in the harbor .", "a large forest"]


@pytest.fixture
def source(tmp_path, tiny_tokenizer):
    """Folder of a BERT of four layers with pooling layer, and its tokenizer."""
    config = BertConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tiny_tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("layers", [[0, 1], [1, 3]])
def test_what_is_left_computes_as_before(source, tmp_path, layers):
    folder = prune(str(source), layers, CAPTIONS, 100, str(tmp_path / "small"))
    whole, small = (load_tower(str(path), "text").eval() for path in (source, folder))
    whole.encoder.layer = torch.nn.ModuleList(whole.encoder.layer[layer] for layer in layers)
    with torch.inference_mode():
        for caption in CAPTIONS:
            expected, actual = (
                model(**AutoTokenizer.from_pretrained(path)(caption, return_tensors="pt")).last_hidden_state
                for model, path in ((whole, source), (small, folder))
            )
            assert_close(actual, expected)
    assert small.config.vocab_size == 100 < whole.config.vocab_size
    facts = json.loads((folder / "pruned.json").read_text())
    sizes = {"of_layers": 4, "pieces": 100, "of_pieces": whole.config.vocab_size}
    assert facts == {"source": "bert", "layers": layers} | sizes


def test_every_word_can_still_be_spelled(source, tmp_path):
    folder = prune(str(source), [0], CAPTIONS, 100, str(tmp_path / "small"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("Airport harbor") == [*"a", *(f"##{letter}" for letter in "irport"), "harbor"]
    assert tokenizer.model_max_length == 47


def test_room_that_is_left_goes_to_the_first_of_the_other_pieces(tiny_tokenizer):
    size = len(tiny_tokenizer) - 10
    pieces, vocabulary = choose_pieces(tiny_tokenizer, ["a"], size), tiny_tokenizer.get_vocab()
    left_out = [vocabulary[piece] for piece in set(vocabulary) - set(pieces)]
    others = [vocabulary[piece] for piece in pieces if len(piece.removeprefix("##")) > 1 and piece[0] != "["]
    assert len(left_out) == 10 and max(others) < min(left_out)


def test_it_serves_as_the_text_tower_of_a_model(source, tmp_path):
    folder = prune(str(source), [0, 2], CAPTIONS, 100, str(tmp_path / "small"))
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])).save_pretrained(tmp_path / "resnet")
    model = PIRModel.from_backbones(
        str(tmp_path / "resnet"), str(folder), projection_dim=16, num_attention_heads=2, num_instruction_layers=0
    )
    assert model.text_model.embeddings.word_embeddings.weight.shape == (100, 16)


def test_too_few_pieces_or_layers_are_said(source, tiny_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="vocab_size is 20, but the captions' pieces and single characters are"):
        choose_pieces(tiny_tokenizer, CAPTIONS, 20)
    tower = load_tower(str(source), "text")
    with pytest.raises(ValueError, match=r"layers is \[0, 4\], but the text model has layers 0 to 3"):
        prune_tower(tower, [0, 4], list(range(50)), 47)
    with pytest.raises(ValueError, match="max_length is 600, but the text model reads 1 to 512 tokens"):
        prune_tower(tower, [0], list(range(50)), 600)
