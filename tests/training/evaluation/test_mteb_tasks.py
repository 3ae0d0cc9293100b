"""RSICD and UCM-Captions as tasks of mteb: its numbers are ours."""

import os
from pathlib import Path

import pytest

pytest.importorskip("mteb")
import mteb
import torch
from PIL import Image

from modeling_pir.cli.options import SHIPPED_MODEL
from training.data.rows import fingerprint
from training.data.sources import load_image_captions
from training.evaluation.mteb_tasks import (
    RSICDI2TRetrieval,
    RSICDT2IRetrieval,
    UCMCaptionsI2TRetrieval,
    UCMCaptionsT2IRetrieval,
    load_mteb_encoder,
)
from training.evaluation.split_embeddings import embed_rows, embeddings_metrics

DATA = os.environ.get("PIR_DATA_DIR")


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_processor):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "tiny-pir")
    return str(tmp_path / "tiny-pir")


def run(model, tasks, cache=None):
    """Task name to scores."""
    results = mteb.evaluate(model, tasks, cache=cache, show_progress_bar=False, co2_tracker=False)
    return {result.task_name: result.scores["test"][0] for result in results.task_results}


def remembered(encode, key):
    """An encoder's function that computes each item once, however often mteb and we ask."""
    known = {}

    def run(items):
        new = {key(item): item for item in items if key(item) not in known}
        if new:
            known.update(zip(new, encode(list(new.values())), strict=True))
        return torch.stack([known[key(item)] for item in items])

    return run


def strict_metrics(scores, to_image, to_text):
    names = {"t2i": to_image, "i2t": to_text}
    return {
        f"{way}_R@{k}": 100 * scores[name][f"strict_hit_rate_at_{k}"] for way, name in names.items() for k in (1, 5, 10)
    }


def test_strict_hit_rates_are_our_recall_and_mteb_agrees_where_nothing_ties(folder, tiny_dataset):
    encoder = load_mteb_encoder(folder)
    scores = run(encoder, [RSICDT2IRetrieval(str(tiny_dataset)), RSICDI2TRetrieval(str(tiny_dataset))])
    expected = embeddings_metrics(embed_rows(encoder.encoder, load_image_captions(str(tiny_dataset), "test"), 4))
    expected.pop("mR")
    assert strict_metrics(scores, "RSICDT2IRetrieval", "RSICDI2TRetrieval") == pytest.approx(expected, abs=0.01)
    for way, name in (("t2i", "RSICDT2IRetrieval"), ("i2t", "RSICDI2TRetrieval")):
        for k in (1, 5, 10):  # mteb rounds to five decimals
            assert 100 * scores[name][f"hit_rate_at_{k}"] == pytest.approx(expected[f"{way}_R@{k}"], abs=0.01)


def test_equal_sentences_of_two_images_count_against_us_in_the_strict_score():
    task = RSICDI2TRetrieval("unused")
    results = {"image-0": {"image-0-0": 0.5, "image-1-0": 0.5}, "image-1": {"image-0-0": 0.1, "image-1-0": 0.2}}
    qrels = {"image-0": {"image-0-0": 1}, "image-1": {"image-1-0": 1}}
    scores = task.task_specific_scores({}, qrels, results, "test", "default")
    assert scores["strict_hit_rate_at_1"] == 0.5 and scores["strict_hit_rate_at_5"] == 1.0


def test_a_query_without_a_right_answer_among_those_kept_is_a_miss():
    task = RSICDT2IRetrieval("unused")
    scores = task.task_specific_scores({}, {"text": {"image-9": 1}}, {"text": {"image-0": 0.1}}, "test", "default")
    assert set(scores.values()) == {0.0}


def test_the_result_file_is_mteb_s_and_names_model_and_data(folder, tiny_dataset, tmp_path):
    task = UCMCaptionsT2IRetrieval(str(tiny_dataset))
    cache = mteb.ResultCache(tmp_path / "cache")
    run(load_mteb_encoder(folder), [task], cache)
    (file,) = (tmp_path / "cache" / "results").rglob("UCMCaptionsT2IRetrieval.json")
    assert file.parent.parent.name == "local__tiny-pir"
    result = mteb.TaskResult.from_disk(file)
    assert result.dataset_revision == fingerprint(load_image_captions(str(tiny_dataset), "test"))
    assert result.get_score() == result.scores["test"][0]["hit_rate_at_1"]


@pytest.mark.parametrize(
    "task", [RSICDT2IRetrieval, RSICDI2TRetrieval, UCMCaptionsT2IRetrieval, UCMCaptionsI2TRetrieval]
)
def test_the_metadata_is_what_mteb_asks_of_a_task(task):
    assert task.metadata.is_filled() and task.metadata.main_score == "hit_rate_at_1"
    assert task.metadata.bibtex_citation.startswith("\n@")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="PIR_DATA_DIR is not set")
def test_mteb_and_we_agree_on_rsicd_test():
    """1,093 images and 5,465 captions; text to image nothing ties, so mteb's own hit rate is held, too."""
    source = str(Path(DATA) / "rsicd")
    encoder = load_mteb_encoder(str(SHIPPED_MODEL))
    encoder.encoder.encode_images = remembered(encoder.encoder.encode_images, Image.Image.tobytes)
    encoder.encoder.encode_texts = remembered(encoder.encoder.encode_texts, str)
    scores = run(encoder, [RSICDT2IRetrieval(source), RSICDI2TRetrieval(source)])
    embeddings = embed_rows(encoder.encoder, load_image_captions(source, "test"), 64)
    assert (len(embeddings.image_embeds), len(embeddings.text_embeds)) == (1093, 5465)
    expected = embeddings_metrics(embeddings)
    expected.pop("mR")
    assert strict_metrics(scores, "RSICDT2IRetrieval", "RSICDI2TRetrieval") == pytest.approx(expected, abs=0.01)
    for k in (1, 5, 10):
        assert 100 * scores["RSICDT2IRetrieval"][f"hit_rate_at_{k}"] == pytest.approx(expected[f"t2i_R@{k}"], abs=0.01)
        assert 100 * scores["RSICDI2TRetrieval"][f"hit_rate_at_{k}"] >= expected[f"i2t_R@{k}"] - 0.01
