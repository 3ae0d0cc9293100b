"""Sentences for an image."""

import pytest

from modeling_pir.inference.classify import rank_sentences
from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.encoder import PIREncoder


def test_sentences_are_ranked_by_similarity(tiny_images, tiny_model, tiny_processor):
    lines = "a green square\n\n  two airport \nthe harbor\na green square\n"
    ranked = rank_sentences(PIREncoder(tiny_model, tiny_processor), tiny_images[0].convert("RGBA"), lines)
    texts = ["a green square", "two airport", "the harbor"]
    expected = (
        embed_texts(tiny_model, tiny_processor, texts) @ embed_images(tiny_model, tiny_processor, tiny_images[:1]).T
    )
    assert [rank for rank, *_ in ranked] == [1, 2, 3]
    assert [text for *_, text in ranked] == [texts[row] for row in expected[:, 0].argsort(descending=True)]
    assert [value for _, value, _ in ranked] == sorted((round(float(value), 4) for value in expected), reverse=True)


def test_ranking_without_an_image_or_a_sentence_is_refused(tiny_images):
    with pytest.raises(ValueError, match="There is no image"):
        rank_sentences(None, None, "a field")
    with pytest.raises(ValueError, match="There is no sentence"):
        rank_sentences(None, tiny_images[0], " \n ")
