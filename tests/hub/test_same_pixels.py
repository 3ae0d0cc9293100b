"""One picture has the same pixels for every caller: encoder, pipeline, sentence-transformers, evaluation."""

import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import pipeline

from modeling_pir.hub.publish import write_hub_folder
from modeling_pir.images_pir import open_image
from modeling_pir.inference.encoder import load_encoder
from tests.support.odd_pictures import PICTURES, write_picture
from training.evaluation.split_embeddings import embed_split

LOST_BY_TRANSFORMERS = ("alpha.png", "colour_16_bit.png", "grey_16_bit.tif")  # docs/finetune.md names them


@pytest.fixture
def pictures(tmp_path):
    return {name: write_picture(tmp_path, name) for name in PICTURES}


def expected_of(model, processor, path):
    """By hand: the picture as `open_image` gives it, through the image processor."""
    inputs = processor.image_processor(images=[open_image(path)], return_tensors="pt")
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.get_image_features(**inputs).pooler_output[0], dim=-1)


def by_encoder(folder, paths, tmp_path):
    return load_encoder(str(folder), device="cpu").embed_images(list(map(str, paths)))


def by_evaluation(folder, paths, tmp_path):
    features = Features({"image": ImageFeature(), "filename": Value("string"), "captions": [Value("string")]})
    columns = {
        "image": list(map(str, paths)),
        "filename": [path.name for path in paths],
        "captions": [["a"]] * len(paths),
    }
    encoder = load_encoder(str(folder), device="cpu")
    return embed_split(encoder.model, encoder.processor, Dataset.from_dict(columns, features=features), 4).image_embeds


def by_sentence_transformers(folder, paths, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    (tmp_path / "published").mkdir()
    write_hub_folder(folder, tmp_path / "published")
    searcher = library.SentenceTransformer(str(tmp_path / "published"), trust_remote_code=True, device="cpu")
    return searcher.encode([Image.open(path) for path in paths], convert_to_tensor=True)


@pytest.mark.parametrize(
    "caller", [by_encoder, by_evaluation, pytest.param(by_sentence_transformers, marks=pytest.mark.slow)]
)
def test_every_caller_sees_the_same_picture(caller, model_folder, pictures, tiny_model, tiny_processor, tmp_path):
    found = caller(model_folder, list(pictures.values()), tmp_path)
    for row, path in zip(found, pictures.values(), strict=True):
        expected = expected_of(tiny_model, tiny_processor, path)
        torch.testing.assert_close(torch.as_tensor(row), expected, atol=2e-6, rtol=0, msg=path.name)


def test_the_pipeline_sees_a_path_alike_but_for_what_transformers_own_loader_loses(
    model_folder, pictures, tiny_model, tiny_processor
):
    classify = pipeline("zero-shot-image-classification", model=str(model_folder), device="cpu")
    labels = ["a forest", "a harbor"]
    different = []
    for name, path in pictures.items():
        opened, by_path = (
            {row["label"]: row["score"] for row in classify(source, candidate_labels=labels)}
            for source in (open_image(path), str(path))
        )
        if opened != pytest.approx(by_path, abs=1e-6):
            different.append(name)
    assert tuple(different) == LOST_BY_TRANSFORMERS
