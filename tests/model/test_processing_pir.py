"""PIRProcessor: the official settings, options that reach their part, and texts that are refused."""

import pytest
import torch
from transformers import AutoProcessor

from modeling_pir import PIRProcessor
from modeling_pir.processing_pir import clean_caption


def test_images_and_texts_become_the_models_arguments(tiny_processor, tiny_images, tiny_captions):
    inputs = tiny_processor(images=tiny_images, text=tiny_captions[0], return_tensors="pt")
    assert set(inputs) == {"pixel_values", "input_ids", "token_type_ids", "attention_mask"}
    assert inputs["pixel_values"].shape == (4, 3, 32, 32)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert len(inputs["input_ids"]) == 5


def test_one_image_and_one_text_make_a_batch_of_one(tiny_processor, tiny_images):
    inputs = tiny_processor(images=tiny_images[0], text="two squares", return_tensors="pt")
    assert inputs["pixel_values"].shape[0] == inputs["input_ids"].shape[0] == 1


def test_texts_are_padded_to_the_longest_and_cut_at_47_tokens(tiny_processor):
    inputs = tiny_processor(text=["a square", "square " * 100], return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 47)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [4, 47]


def test_pixels_are_normalised_by_clips_mean_and_deviation(tiny_processor, tiny_images):
    grey = tiny_images[0].copy()
    grey.paste((128, 128, 128), (0, 0, *grey.size))
    pixel_values = tiny_processor(images=grey, return_tensors="pt")["pixel_values"]
    expected = [(128 / 255 - mean) / std for mean, std in ((0.4815, 0.2686), (0.4578, 0.2613), (0.4082, 0.2758))]
    assert pixel_values[0, :, 16, 16].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("Two Planes, parked.", "two planes parked"),
        ("A well-known/famous   bridge", "a well known famous bridge"),
        ('<person> said: "what?" (twice)', "person said what twice"),
        ("baseball field #3 ~ *new*!", "baseball field 3 new"),
        ("it's\n", "its"),
    ],
)
def test_captions_are_cleaned_by_the_official_rules(caption, cleaned):
    assert clean_caption(caption).rstrip() == cleaned.rstrip()


def test_a_cleaned_caption_has_at_most_thirty_words():
    assert clean_caption("word " * 40, max_words=30).split() == ["word"] * 30


def test_a_caption_of_nothing_but_marks_is_refused():
    with pytest.raises(ValueError, match=r"Nothing is left of the caption '\?!\.' after cleaning"):
        clean_caption("?!.")


def test_cleaning_is_off_unless_the_processor_or_the_call_says_so(tiny_processor):
    def ids(processor, **kwargs):
        return processor(text="a square-like image .", return_tensors="pt", **kwargs)["input_ids"].tolist()

    plain, cleaned = ids(tiny_processor), ids(tiny_processor, clean_captions=True)
    assert plain != cleaned
    assert cleaned == ids(tiny_processor, text_kwargs={"clean_captions": True})
    cleaning = PIRProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, caption_cleaning=True)
    assert ids(cleaning) == cleaned and ids(cleaning, clean_captions=False) == plain


@pytest.mark.parametrize("text", ["", "  \n", ["a square", ""]])
def test_an_empty_text_is_refused(tiny_processor, text):
    with pytest.raises(ValueError, match="A text is empty"):
        tiny_processor(text=text)


def test_a_processor_survives_its_folder(tiny_processor, tiny_images, tmp_path):
    processor = PIRProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, caption_cleaning=True)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, PIRProcessor) and loaded.caption_cleaning
    given = {"images": tiny_images, "text": ["Two squares, here.", "a forest"], "return_tensors": "pt"}
    before, after = processor(**given), loaded(**given)
    assert all(torch.equal(before[name], after[name]) for name in before)
