"""Bulk embedding: the model's own vectors, in the order given, equal texts once."""

import threading

import pytest
import torch
import torch.nn.functional as F

from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.images import NUM_READERS, map_ahead


def count_rows(module, name, monkeypatch):
    """Record the batch sizes with which a method is called."""
    sizes, method = [], getattr(module, name)

    def counted(*args, **kwargs):
        sizes.append(len(args[0] if args else kwargs["input_ids"]))
        return method(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return sizes


def test_images_are_embedded_in_order_whatever_the_batch(tiny_model, tiny_processor, tiny_images):
    embeds = embed_images(tiny_model, tiny_processor, iter(tiny_images), batch_size=3)
    pixel_values = tiny_processor(images=tiny_images, return_tensors="pt")["pixel_values"]
    expected = F.normalize(tiny_model.get_image_features(pixel_values).pooler_output, dim=-1)
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=0)


def test_texts_are_embedded_in_order_whatever_their_length(tiny_model, tiny_processor, tiny_captions):
    texts = [caption for captions in tiny_captions for caption in captions]
    embeds = embed_texts(tiny_model, tiny_processor, texts, batch_size=3)
    for text, row in zip(texts, embeds, strict=True):
        features = tiny_model.get_text_features(**tiny_processor(text=text, return_tensors="pt")).pooler_output
        torch.testing.assert_close(row, F.normalize(features, dim=-1)[0], atol=1e-5, rtol=0)


def test_equal_texts_are_encoded_once(tiny_model, tiny_processor, monkeypatch):
    sizes = count_rows(tiny_model, "get_text_features", monkeypatch)
    embeds = embed_texts(tiny_model, tiny_processor, ["a forest", "a harbor", "a forest", "a forest"])
    assert sizes == [2]
    assert torch.equal(embeds[0], embeds[2]) and torch.equal(embeds[0], embeds[3])
    assert not torch.equal(embeds[0], embeds[1])


def test_images_are_read_one_batch_at_a_time(tiny_model, tiny_processor, tiny_images, monkeypatch):
    sizes = count_rows(tiny_model, "get_image_features", monkeypatch)

    def reading():
        for number, image in enumerate(tiny_images):
            assert len(sizes) == number // 2  # the batches before have been embedded already
            yield image

    embed_images(tiny_model, tiny_processor, reading(), batch_size=2)
    assert sizes == [2, 2]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_rows_are_single_precision_of_unit_norm(tiny_model, tiny_processor, tiny_images, dtype):
    images = embed_images(tiny_model, tiny_processor, tiny_images, dtype=dtype)
    texts = embed_texts(tiny_model, tiny_processor, ["a forest", "two squares"], dtype=dtype)
    for rows in (images, texts):
        assert rows.dtype == torch.float32 and not rows.requires_grad
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_nothing_gives_no_rows(tiny_model, tiny_processor):
    assert embed_images(tiny_model, tiny_processor, []).shape == (0, 16)
    assert embed_texts(tiny_model, tiny_processor, []).shape == (0, 16)


def test_results_come_in_order_and_the_next_are_computed_meanwhile():
    started, gate = [], threading.Event()

    def slow(number):
        started.append(number)
        if number == 0:
            assert gate.wait(5)  # until a later one is done, which one thread alone would never come to
        else:
            gate.set()
        return 2 * number

    results = map_ahead(slow, range(100))
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    assert len(started) < 3 + 2 * NUM_READERS + 2  # only a few wait
    results.close()
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda number: 1 / number, [1, 0]))
