"""Statistics beside recall, each against a slow version or numbers a reader can check by eye."""

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalMAP

from tests.support.embeddings import random_split
from training.evaluation import bootstrap as statistics
from training.evaluation.bootstrap import (
    bootstrap_weights,
    interval,
    mean_table,
    paired_difference,
    query_table,
    scene_metrics,
    split_statistics,
    weighted_metrics,
)
from training.evaluation.metrics import retrieval_ranks
from training.evaluation.ranks import QueryRanks, ceiling_metrics, distinct_captions, rank_queries
from training.evaluation.split_embeddings import SplitEmbeddings, embeddings_metrics

MR = ("recall", "mR")


def embeddings_with_shared_captions(seed=0):
    """A split in which a third of the captions is another image's, too, with equal embeddings."""
    images, texts, text_to_image = random_split(seed=seed)
    words = [f"caption {index}" for index in range(len(texts))]
    for index in range(0, len(texts) - 7, 3):
        texts[index], words[index] = texts[index + 7], words[index + 7]
    return SplitEmbeddings(images, texts, text_to_image, words, {})


def table_of(image_ranks, text_ranks, text_to_image):
    image_ranks, text_ranks, text_to_image = map(torch.as_tensor, (image_ranks, text_ranks, text_to_image))
    precision = torch.ones(len(image_ranks))
    return query_table(QueryRanks(image_ranks, text_ranks, image_ranks, text_ranks, precision, text_to_image))


def whole(table, num_images):
    return weighted_metrics(table, torch.ones(1, num_images, dtype=torch.double))


def test_equal_captions_share_a_number():
    numbers, first = distinct_captions(["a", "b", "a", "c", "b"])
    assert numbers.tolist() == [0, 1, 0, 2, 1]
    assert first.tolist() == [0, 1, 3]


@pytest.mark.parametrize("block", [30, 16_000_000])
def test_merged_ranks_count_identical_captions_as_right(block, monkeypatch):
    monkeypatch.setattr(statistics, "MAX_BLOCK", block)
    split = embeddings_with_shared_captions()
    similarity = split.image_embeds @ split.text_embeds.T
    ranks = rank_queries(split)
    for image in range(len(similarity)):
        own = {text for text, owner in zip(split.texts, split.text_to_image.tolist(), strict=True) if owner == image}
        right = torch.tensor([text in own for text in split.texts])
        scores = similarity[image]
        assert ranks.merged_image_ranks[image] == (scores[~right] >= scores[right].max() - 1e-6).sum()
    for text in range(len(split.texts)):
        owners = {
            owner for other, owner in zip(split.texts, split.text_to_image.tolist(), strict=True)
            if other == split.texts[text]
        }  # fmt: skip
        right = torch.tensor([image in owners for image in range(len(similarity))])
        scores = similarity[:, text]
        assert ranks.merged_text_ranks[text] == (scores[~right] >= scores[right].max() - 1e-6).sum()


def test_merged_recall_equals_recall_where_no_caption_is_shared():
    images, texts, text_to_image = random_split()
    split = SplitEmbeddings(images, texts, text_to_image, [str(index) for index in range(len(texts))], {})
    ranks = rank_queries(split)
    assert torch.equal(ranks.image_ranks, ranks.merged_image_ranks)
    assert torch.equal(ranks.text_ranks, ranks.merged_text_ranks)


def test_recall_equals_that_of_the_training():
    split = embeddings_with_shared_captions()
    measured, _, _ = split_statistics(split, num_resamples=10)
    assert measured["recall"] == pytest.approx(embeddings_metrics(split))
    expected = retrieval_ranks(
        (split.image_embeds.double() @ split.text_embeds.double().T).float(), split.text_to_image
    )
    assert torch.equal(rank_queries(split).image_ranks, expected[0])


def test_average_precision_of_an_image_can_be_checked_by_eye():
    text_embeds = torch.tensor([[0.9], [0.8], [0.7], [0.6]])  # scores of image 0, whose captions are 0 and 2
    split = SplitEmbeddings(torch.tensor([[1.0], [0.1]]), text_embeds, torch.tensor([0, 1, 0, 1]), list("abcd"), {})
    ranks = rank_queries(split)
    assert ranks.image_precision[0].item() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert ranks.image_precision[1].item() == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_mean_average_precision_equals_that_of_torchmetrics():
    images, texts, text_to_image = random_split()
    split = SplitEmbeddings(images, texts, text_to_image, [str(index) for index in range(len(texts))], {})
    similarity = 1 + images @ texts.T  # torchmetrics takes scores that are not positive for wrong answers
    relevant = torch.arange(len(images))[:, None] == text_to_image
    measured = split_statistics(split, num_resamples=10)[0]["mAP"]
    by_image = RetrievalMAP()(similarity, relevant, indexes=torch.arange(len(images))[:, None].expand_as(similarity))
    by_text = RetrievalMAP()(similarity, relevant, indexes=torch.arange(len(texts))[None].expand_as(similarity))
    assert measured["i2t"] == pytest.approx(100 * by_image.item(), abs=1e-3)
    assert measured["t2i"] == pytest.approx(100 * by_text.item(), abs=1e-3)


def test_the_median_rank_counts_from_one():
    split = SplitEmbeddings(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), ["a", "b"], {})
    assert split_statistics(split, num_resamples=10)[0]["median_rank"] == {"i2t": 1.0, "t2i": 1.0}


def test_ceilings_of_shared_captions_can_be_checked_by_eye():
    texts = ["all", "all", "own", "all", "two"]  # "all" belongs twice to image 0 and once to image 1
    ceiling = ceiling_metrics(texts, torch.tensor([0, 0, 0, 1, 1]), ks=(1, 2))
    assert ceiling["t2i_R@1"] == 80.0  # of three times "all", image 0 first answers two
    assert ceiling["t2i_R@2"] == 100.0
    assert ceiling["i2t_R@1"] == 100.0  # each image has a caption of its own
    ceiling = ceiling_metrics(["all", "all", "own"], torch.tensor([0, 1, 2]), ks=(1, 2))
    assert ceiling["i2t_R@1"] == pytest.approx(100 / 3)
    assert ceiling["i2t_R@2"] == 100.0


@pytest.mark.parametrize("seed", range(3))
def test_no_model_is_above_the_ceiling_and_an_oracle_reaches_it_text_to_image(seed):
    split = embeddings_with_shared_captions(seed)
    ceiling = ceiling_metrics(split.texts, split.text_to_image)
    recall = embeddings_metrics(split)
    assert all(recall[name] <= ceiling[name] + 1e-9 for name in recall)
    numbers, first = distinct_captions(split.texts)
    copies = torch.zeros(len(split.image_embeds), len(first)).index_put_(
        (split.text_to_image, numbers), torch.tensor(1.0), accumulate=True
    )
    oracle = copies - 1e-3 * torch.arange(len(split.image_embeds))[:, None]  # its images first, those with most copies
    text_ranks = retrieval_ranks(oracle[:, numbers], split.text_to_image)[1]
    for k in (1, 5, 10):
        assert 100 * (text_ranks < k).double().mean().item() == pytest.approx(ceiling[f"t2i_R@{k}"])


def test_metrics_of_equal_weights_are_those_of_the_ranks():
    table = table_of([0, 7], [0, 0, 12], [0, 0, 1])
    metrics = whole(table, 2)
    assert metrics["recall", "i2t_R@5"].item() == 50.0
    assert metrics["recall", "t2i_R@1"].item() == pytest.approx(200 / 3)
    assert metrics[MR].item() == pytest.approx(np.mean([50, 50, 100, 200 / 3, 200 / 3, 200 / 3]))
    assert metrics["mAP", "t2i"].item() == pytest.approx(100 * (1 + 1 + 1 / 13) / 3)


def test_an_image_drawn_twice_counts_as_two_images():
    table = table_of([0, 7, 3], [0, 2, 12], [0, 1, 2])
    twice = table_of([0, 0, 3], [0, 0, 12], [0, 1, 2])
    weighted = weighted_metrics(table, torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.double))
    assert {name: value.item() for name, value in weighted.items()} == pytest.approx(
        {name: value.item() for name, value in whole(twice, 3).items()}
    )


def test_bootstrap_weights_draw_as_many_images_as_there_are(monkeypatch):
    weights = bootstrap_weights(17, 50, seed=3)
    assert (weights.sum(dim=1) == 17).all()
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights, bootstrap_weights(17, 50, seed=3))
    monkeypatch.setattr(statistics, "MAX_BLOCK", 100)  # many parts
    assert bootstrap_weights(17, 50).shape == (50, 17)


def test_the_bootstrap_interval_is_that_of_the_binomial_law():
    hits = torch.tensor([0] * 120 + [99] * 280)  # 30 % of 400
    table = table_of(hits, hits, torch.arange(400))
    low, high = interval(weighted_metrics(table, bootstrap_weights(400))["recall", "i2t_R@1"])
    half = 1.96 * (100 * 0.3 * 0.7 / 400 * 100) ** 0.5
    assert (low, high) == pytest.approx((30 - half, 30 + half), abs=0.6)


def test_a_real_difference_is_told_from_none():
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(0, 20, (300,), generator=generator)
    shuffled, better = ranks[torch.randperm(300, generator=generator)], (ranks - 4).clamp(min=0)
    base = table_of(ranks, ranks, torch.arange(300))
    weights = bootstrap_weights(300)
    clear = paired_difference(base, table_of(better, better, torch.arange(300)), weights)
    assert clear["interval"][0] > 0 and clear["p"] < 0.01 and clear["difference"] > 5
    none = paired_difference(base, table_of(shuffled, shuffled, torch.arange(300)), weights)
    assert none["interval"][0] < 0 < none["interval"][1] and none["p"] > 0.05
    same = paired_difference(base, base, weights)
    assert same["difference"] == 0 and same["p"] == 1


def test_pairing_narrows_the_interval():
    ranks = torch.randint(0, 20, (300,), generator=torch.Generator().manual_seed(0))
    base = table_of(ranks, ranks, torch.arange(300))
    better = table_of((ranks - 1).clamp(min=0), (ranks - 1).clamp(min=0), torch.arange(300))
    weights = bootstrap_weights(300)
    low, high = paired_difference(base, better, weights)["interval"]
    lone_low, lone_high = interval(weighted_metrics(base, weights)[MR])
    assert high - low < (lone_high - lone_low) / 2


def test_different_splits_are_not_compared():
    with pytest.raises(ValueError, match="different images"):
        paired_difference(table_of([0], [0], [0]), table_of([0, 1], [0, 1], [0, 1]), bootstrap_weights(1, 5))


def test_the_mean_of_seeds_has_their_mean_recall():
    tables = [table_of([0, 7], [0, 0], [0, 1]), table_of([0, 0], [12, 2], [0, 1])]
    values = [whole(table, 2)[MR].item() for table in tables]
    assert whole(mean_table(tables), 2)[MR].item() == pytest.approx(np.mean(values))


def test_a_scene_counts_its_own_queries_among_all_candidates():
    table = table_of([0, 7, 3], [0, 2, 12], [0, 1, 2])
    scenes = scene_metrics(table, ["port", "river", None])
    assert list(scenes) == ["port", "river"]
    assert scenes["port"]["images"] == 1 and scenes["port"]["mR"] == 100
    assert scenes["river"]["i2t_R@5"] == 0 and scenes["river"]["t2i_R@5"] == 100
    assert scene_metrics(table, [None, None, None]) == {}


def test_all_statistics_are_there_and_inside_their_intervals():
    measured, _, _ = split_statistics(embeddings_with_shared_captions(), ["a"] * 12 + ["b"] * 11)
    assert set(measured) == {
        "recall", "merged_recall", "mAP", "intervals", "median_rank", "ceiling", "chance", "scenes",
    }  # fmt: skip
    for group in ("recall", "merged_recall", "mAP"):
        for name, value in measured[group].items():
            low, high = measured["intervals"][group][name]
            assert low <= value <= high
    assert measured["merged_recall"]["mR"] > measured["recall"]["mR"]
