"""PIRProcessor: the official settings, options that reach their part, and texts that are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessor, pipeline

from modeling_pir import PIRProcessor
from modeling_pir.images_pir import open_image
from modeling_pir.processing_pir import clean_caption, image_size
from tests.support.odd_pictures import PICTURES, png_of_16_bits, write_picture


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


ODD_CAPTIONS = [
    "A well-known/famous   bridge, isn't it?",
    "<PERSON> near a [SEP] and a [MASK]",
    " two\u00a0squares \n",
    "caf\u00e9 \u00c9T\u00c9 \u4e2d\u6587",
    "-- a --- b -" + " word" * 40,
    "square " * 100,
]


@pytest.fixture
def cleaning_processor(tiny_processor):
    return PIRProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, caption_cleaning=True)


@pytest.mark.parametrize("caption", ODD_CAPTIONS)
def test_the_tokenizer_cleans_as_the_official_rules_do(tiny_tokenizer, cleaning_processor, caption):
    official = tiny_tokenizer(clean_caption(caption), split_special_tokens=True, truncation=True)["input_ids"]
    assert cleaning_processor(text=caption)["input_ids"] == official


def test_a_tokenizer_that_was_given_is_left_as_it_is(tiny_tokenizer, cleaning_processor):
    assert "," in tiny_tokenizer.tokenize("a square, here")
    assert "," not in cleaning_processor.tokenizer.tokenize("a square, here")


def test_whoever_loads_the_tokenizer_alone_gets_the_processors_ids(cleaning_processor, tmp_path):
    cleaning_processor.save_pretrained(tmp_path)
    alone = AutoTokenizer.from_pretrained(tmp_path)
    ids = cleaning_processor(text=ODD_CAPTIONS)["input_ids"]
    assert alone(ODD_CAPTIONS, truncation=True, padding=True)["input_ids"] == ids


def test_a_folder_saved_before_the_tokenizer_cleaned_gives_the_same_ids(tiny_tokenizer, cleaning_processor, tmp_path):
    cleaning_processor.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = PIRProcessor.from_pretrained(tmp_path)
    assert loaded(text=ODD_CAPTIONS)["input_ids"] == cleaning_processor(text=ODD_CAPTIONS)["input_ids"]


def test_cleaning_of_a_tokenizer_that_cannot_is_refused(tiny_processor):
    with pytest.raises(ValueError, match="caption_cleaning needs a tokenizer of the library tokenizers, not object"):
        PIRProcessor(tiny_processor.image_processor, object(), caption_cleaning=True)


@pytest.mark.parametrize("as_source", [str, lambda path: path, Image.open], ids=["text", "path", "PIL"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_file_has_the_same_pixels_however_the_processor_gets_it(tiny_processor, tmp_path, name, as_source):
    path = write_picture(tmp_path, name)
    expected = tiny_processor.image_processor(images=[open_image(path)], return_tensors="pt")["pixel_values"]
    assert torch.equal(tiny_processor(images=as_source(path), return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(tiny_processor(images=[as_source(path)], return_tensors="pt")["pixel_values"], expected)


def test_the_zero_shot_pipeline_reads_texts_and_pictures_as_the_processor_does(
    tiny_model, cleaning_processor, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "model")
    cleaning_processor.save_pretrained(tmp_path / "model")
    labels = [*ODD_CAPTIONS, "a square, zyxwvuts " * 20]  # the last has more tokens than the model has positions
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "model"), device="cpu")
    for name in PICTURES:
        path = write_picture(tmp_path, name)
        found = classify(open_image(path), candidate_labels=labels, hypothesis_template="{}")
        with torch.inference_mode():
            inputs = cleaning_processor(images=path, text=labels, max_length=64, return_tensors="pt")
            expected = tiny_model(**inputs).logits_per_image.softmax(dim=-1)[0]
        scores = {row["label"]: row["score"] for row in found}
        assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-6)


RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, np.where(RGB[..., :1] > 99, 255, 0).astype(np.uint8)])
WIDE = np.random.default_rng(1).integers(300, 2800, (20, 30, 3), dtype=np.uint16)
ARRAYS = {
    "8 bits": (RGB, RGB),
    "colours first": (RGB, RGB.transpose(2, 0, 1)),
    "a batch of one": (RGB, RGB[None]),
    "fractions": (RGB, RGB / np.float32(255)),
    "fractions, colours first": (RGB, RGB.transpose(2, 0, 1) / 255),
    "whole numbers as floats": (RGB, RGB.astype(np.float32)),
    "a tensor": (RGB, torch.from_numpy(RGB).permute(2, 0, 1)),
    "a tensor of fractions": (RGB, torch.from_numpy(RGB).permute(2, 0, 1) / 255),
    "a tensor of int64": (RGB, torch.from_numpy(RGB).long()),
    "grey": (RGB[..., 0], RGB[..., 0]),
    "grey, one colour last": (RGB[..., 0], RGB[..., :1]),
    "grey, one colour first": (RGB[..., 0], torch.from_numpy(RGB[None, ..., 0])),
    "opacity": (RGBA, RGBA),
    "opacity, colours first": (RGBA, torch.from_numpy(RGBA).permute(2, 0, 1) / 255),
    "yes and no": (RGB[..., 0] > 99, RGB[..., 0] > 99),
    "16 bits, grey": (WIDE[..., 0], WIDE[..., 0]),
    "16 bits": (WIDE, WIDE),
    "16 bits, colours first": (WIDE, WIDE.transpose(2, 0, 1).astype(np.int32)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_has_the_pixels_of_the_file_that_holds_it(tiny_processor, tmp_path, kind):
    stored, array = ARRAYS[kind]
    path = tmp_path / "a.png"
    if stored.dtype == np.uint16 and stored.ndim == 3:
        path.write_bytes(png_of_16_bits(stored, 2))
    else:
        Image.fromarray(stored).save(path)
    expected = tiny_processor(images=path, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(tiny_processor(images=array, return_tensors="pt")["pixel_values"], expected)
    listed = tiny_processor(images=[array[0] if array.ndim == 4 else array, path], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(listed, torch.cat([expected, expected]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB * np.float32(0.7), "of float32 from 0.0 to 1.*: give 8 or 16 bits, or fractions"),
        (np.full((4, 4, 3), np.nan), "from nan to nan: give"),
        (RGB / 255 - 0.5, "from -0.5 to 0.5: give"),
        (RGB[..., :2], r"of the shape \(20, 30, 2\): give"),
        (np.zeros((0, 0, 3), np.float32), r"of the shape \(0, 0, 3\): give"),
    ],
)
def test_an_array_without_a_known_white_is_refused(tiny_processor, array, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(images=array, return_tensors="pt")


def test_who_says_how_an_array_is_to_be_read_is_obeyed(tiny_processor):
    fractions = RGB / np.float32(255)
    expected = tiny_processor.image_processor(fractions, do_rescale=False, return_tensors="pt")["pixel_values"]
    given = tiny_processor(images=fractions, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("text", ["\u200b\u200b", "\ufeff", "\u200d \u2060", "\t\n"])
def test_a_text_of_invisible_characters_alone_is_empty(tiny_processor, text):
    with pytest.raises(ValueError, match="A text is empty"):
        tiny_processor(text=text)


@pytest.mark.parametrize("text", ["\udcff airport", "an \ud83d airport"])
def test_half_a_character_gets_one_sentence_that_can_be_printed(tiny_processor, text):
    with pytest.raises(ValueError, match="A text is not Unicode") as raised:
        tiny_processor(text=["a forest", text])
    assert str(raised.value).isascii()


def test_the_size_of_images_is_that_of_the_crop_where_there_is_one():
    cropping = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 48})
    assert image_size(cropping) == (32, 48)
    cropping.do_center_crop = False
    with pytest.raises(ValueError, match="gives images of any size .*: let it resize"):
        image_size(cropping)
