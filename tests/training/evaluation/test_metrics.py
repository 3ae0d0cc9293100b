"""Recall: numbers a reader can check by eye, ties, the official numbers, and torchmetrics."""

import json

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate

from tests.support.embeddings import random_split
from tests.support.paths import ROOT
from training.evaluation.metrics import (
    chance_metrics,
    recall_metrics,
    retrieval_metrics,
    retrieval_ranks,
    streamed_retrieval_ranks,
)

PROTOCOL = json.loads((ROOT / "tests" / "reference" / "protocol.json").read_text())
OFFICIAL = {f"{ours}_R@{k}": f"{theirs}_r{k}" for ours, theirs in (("i2t", "txt"), ("t2i", "img")) for k in (1, 5, 10)}
DIAGONAL = torch.tensor([0, 1, 2])


def test_the_diagonal_matrix_is_perfect_both_ways():
    assert set(retrieval_metrics(torch.eye(3), DIAGONAL).values()) == {100.0}


def test_ranks_count_the_wrong_candidates_before_the_right_one():
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.1], [0.7, 0.3, 0.4]])
    image_ranks, text_ranks = retrieval_ranks(similarity, DIAGONAL)
    assert image_ranks.tolist() == [0, 1, 1]
    assert text_ranks.tolist() == [0, 1, 1]


def test_the_two_directions_are_not_mixed_up():
    similarity = torch.tensor([[0.5, 0.4], [0.9, 0.8]])  # every image finds its text or not; every text likes image 1
    metrics = retrieval_metrics(similarity, torch.tensor([0, 1]), ks=(1,))
    assert metrics == {"i2t_R@1": 50.0, "t2i_R@1": 50.0, "mR": 50.0}
    similarity = torch.tensor([[0.5, 0.4, 0.3], [0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    metrics = retrieval_metrics(similarity, DIAGONAL, ks=(1,))
    assert metrics["i2t_R@1"] == pytest.approx(200 / 3)
    assert metrics["t2i_R@1"] == pytest.approx(100 / 3)


def test_one_of_five_captions_is_enough_for_an_image_and_each_is_asked_for_on_its_own():
    similarity = torch.zeros(2, 10)
    similarity[0, 3], similarity[0, 7] = 0.9, 0.8  # image 0: its fourth caption first, a wrong one second
    similarity[1] = torch.tensor([0.1] * 5 + [0.5, 0.4, 0.3, 0.2, 0.05])
    text_to_image = torch.tensor([0] * 5 + [1] * 5)
    image_ranks, text_ranks = retrieval_ranks(similarity, text_to_image)
    assert image_ranks.tolist() == [0, 0]
    assert text_ranks.tolist() == [1, 1, 1, 0, 1, 0, 0, 1, 0, 0]


def test_own_captions_before_the_best_own_one_do_not_count_but_wrong_ones_do():
    similarity = torch.tensor([[0.2, 0.9, 0.5, 0.6], [0.0, 0.0, 0.3, 0.1]])
    image_ranks, _ = retrieval_ranks(similarity, torch.tensor([0, 1, 0, 1]))
    assert image_ranks.tolist() == [2, 1]  # 0.9 and 0.6 are wrong and before 0.5; 0.3 is before 0.1


def test_a_tie_with_a_wrong_candidate_counts_against_us():
    metrics = retrieval_metrics(torch.ones(4, 4), torch.arange(4), ks=(1, 3, 4))
    assert (metrics["i2t_R@1"], metrics["i2t_R@3"], metrics["i2t_R@4"]) == (0.0, 0.0, 100.0)
    assert (metrics["t2i_R@1"], metrics["t2i_R@3"], metrics["t2i_R@4"]) == (0.0, 0.0, 100.0)


def test_own_captions_that_tie_do_not_count_against_us():
    similarity = torch.tensor([[0.9] * 5 + [0.1] * 5, [0.1] * 5 + [0.9] * 5])
    assert set(retrieval_metrics(similarity, torch.tensor([0] * 5 + [1] * 5)).values()) == {100.0}


@pytest.mark.parametrize("case", range(len(PROTOCOL["retrieval"])))
def test_metrics_equal_the_official_ones(case):
    reference = PROTOCOL["retrieval"][case]
    metrics = retrieval_metrics(torch.tensor(reference["scores"]), torch.tensor(reference["text_to_image"]))
    official = reference["metrics"]
    assert {name: round(metrics[name], 2) for name in OFFICIAL} == {name: official[OFFICIAL[name]] for name in OFFICIAL}
    assert metrics["mR"] == pytest.approx(official["r_mean"], abs=0.006)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_equals_the_hit_rate_of_torchmetrics(k):
    images, texts, text_to_image = random_split()
    similarity = 1 + images @ texts.T  # torchmetrics takes scores that are not positive for wrong answers
    relevant = torch.arange(len(images))[:, None] == text_to_image
    query_of_image = torch.arange(len(images))[:, None].expand_as(similarity)
    query_of_text = torch.arange(len(texts))[None].expand_as(similarity)
    metrics = retrieval_metrics(similarity, text_to_image, ks=(k,))
    hit_rate = RetrievalHitRate(top_k=k)
    assert metrics[f"i2t_R@{k}"] == pytest.approx(100 * hit_rate(similarity, relevant, indexes=query_of_image).item())
    assert metrics[f"t2i_R@{k}"] == pytest.approx(100 * hit_rate(similarity, relevant, indexes=query_of_text).item())


@pytest.mark.parametrize("chunk_size", [1, 5, 4096])
def test_the_streamed_form_equals_the_matrix_form(chunk_size):
    images, texts, text_to_image = random_split()
    images[3], texts[:4] = images[2], texts[4]  # ties
    expected = retrieval_ranks((images.double() @ texts.double().T).float(), text_to_image)
    for streamed, whole in zip(
        streamed_retrieval_ranks(images, texts, text_to_image, chunk_size), expected, strict=True
    ):
        assert torch.equal(streamed, whole)


def test_streamed_ties_survive_rounding():
    images, texts, text_to_image = torch.eye(2), torch.tensor([[0.6, 0.8], [0.6, 0.8 + 1e-7]]), torch.tensor([0, 1])
    assert streamed_retrieval_ranks(images, texts, text_to_image)[0].tolist() == [1, 1]


def test_chance_agrees_with_random_scores():
    text_to_image = random_split()[2]
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(1500, 23, len(text_to_image), generator=generator)
    simulated = [retrieval_metrics(similarity, text_to_image) for similarity in scores]
    for name, value in chance_metrics(text_to_image).items():
        assert value == pytest.approx(np.mean([metrics[name] for metrics in simulated]), abs=0.8)


def test_chance_is_certain_where_k_covers_all_candidates():
    chance = chance_metrics(torch.tensor([0, 0, 1, 1]), ks=(2, 4))
    assert chance["t2i_R@2"] == 100.0
    assert chance["i2t_R@4"] == pytest.approx(100.0)
    assert chance["i2t_R@2"] == pytest.approx(100 * (1 - 1 / 6))


def test_mean_recall_is_the_mean_of_the_six():
    metrics = recall_metrics(torch.tensor([0, 3, 20]), torch.tensor([7, 0]))
    assert metrics["mR"] == pytest.approx(np.mean([100 / 3, 200 / 3, 200 / 3, 50, 50, 100]))


@pytest.mark.parametrize("streamed", [False, True])
def test_nan_is_refused(streamed):
    with pytest.raises(ValueError, match="NaN"):
        if streamed:
            streamed_retrieval_ranks(torch.tensor([[float("nan"), 0.0]]), torch.ones(1, 2), torch.tensor([0]))
        else:
            retrieval_ranks(torch.tensor([[float("nan")]]), torch.tensor([0]))


def test_an_image_without_text_is_refused():
    with pytest.raises(ValueError, match="Image 1 has no text"):
        retrieval_ranks(torch.ones(3, 2), torch.tensor([0, 2]))


@pytest.mark.parametrize("text_to_image", [[0, 2], [0, -1]])
def test_a_row_that_does_not_exist_is_refused(text_to_image):
    with pytest.raises(ValueError, match="text_to_image names row -?[12], but the 2 images count from 0"):
        retrieval_ranks(torch.ones(2, 2), torch.tensor(text_to_image))


def test_too_few_image_rows_are_refused():
    with pytest.raises(ValueError, match="there are 3 texts"):
        retrieval_ranks(torch.ones(2, 3), torch.tensor([0, 1]))


def test_different_widths_are_refused():
    with pytest.raises(ValueError, match="Images have 3 numbers and texts 4"):
        streamed_retrieval_ranks(torch.ones(1, 3), torch.ones(1, 4), torch.tensor([0]))
