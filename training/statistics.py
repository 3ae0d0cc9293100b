"""What stands beside recall: how sure it is, how far identical captions bound it, and where it comes from.

All of it follows from a table with one line per image (`QueryTable`): its queries' hits, for the split or any weighting
of its images. A bootstrap is many weightings, a scene is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.evaluate import SplitEmbeddings
from training.metrics import TIE_TOLERANCE, chance_metrics, streamed_retrieval_ranks

KS = (1, 5, 10)
NUM_RESAMPLES = 2000
MAX_BLOCK = 16_000_000  # entries of a block of similarities or of resampled weights


@dataclass
class QueryRanks:
    """Where the right answers of a split are; ranks count the wrong candidates before them, 0 for the first place.

    Attributes:
        image_ranks: (images,) of the best own caption.
        text_ranks: (texts,) of the own image.
        merged_image_ranks: (images,) of the best caption that is word for word an own one; any image's copy is right.
        merged_text_ranks: (texts,) of the best image that has this caption, word for word.
        image_precision: (images,) average precision over the image's own captions, 0 to 1.
        text_to_image: (texts,) long.
    """

    image_ranks: torch.Tensor
    text_ranks: torch.Tensor
    merged_image_ranks: torch.Tensor
    merged_text_ranks: torch.Tensor
    image_precision: torch.Tensor
    text_to_image: torch.Tensor


def distinct_captions(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the captions so that identical ones share a number.

    Args:
        texts: captions.

    Returns:
        numbers (texts,) long, and first (distinct,) long, the position of each distinct caption's first copy.
    """
    number_of: dict[str, int] = {}
    first = []
    for position, text in enumerate(texts):
        if text not in number_of:
            number_of[text] = len(first)
            first.append(position)
    return torch.tensor([number_of[text] for text in texts]), torch.tensor(first)


def rank_queries(embeddings: SplitEmbeddings) -> QueryRanks:
    """Rank the right answers of all queries, block by block over distinct captions.

    Args:
        embeddings: of a split.

    Returns:
        The ranks. A wrong candidate within `TIE_TOLERANCE` of the right one counts as ranked before it.

    Raises:
        ValueError: see `streamed_retrieval_ranks`.
    """
    images, texts, text_to_image = embeddings.image_embeds, embeddings.text_embeds, embeddings.text_to_image
    image_ranks, text_ranks = streamed_retrieval_ranks(images, texts, text_to_image)
    numbers, first = distinct_captions(embeddings.texts)
    vectors, copies = texts[first], torch.bincount(numbers).float()  # (distinct, dim), (distinct,)
    own_score = (images[text_to_image] * texts).sum(dim=1)  # (texts,)
    best_of_caption = torch.full((len(first),), -torch.inf).scatter_reduce(0, numbers, own_score, "amax")
    thresholds, is_own = _padded_own_scores(own_score, text_to_image, len(images))  # (images, most captions)
    merged_image_ranks = torch.zeros(len(images), dtype=torch.long)
    merged_text_ranks = torch.zeros(len(first), dtype=torch.long)
    wrong = torch.zeros_like(thresholds)  # wrong candidates before each own caption
    for rows in torch.arange(len(images)).split(max(1, MAX_BLOCK // len(first))):
        block = images[rows] @ vectors.T  # (rows, distinct)
        for place in range(thresholds.shape[1]):
            reached = thresholds[rows, place, None] - TIE_TOLERANCE
            own_before = (is_own[rows] & (thresholds[rows] >= reached)).sum(dim=1)
            wrong[rows, place] = (block >= reached).float() @ copies - own_before
        pairs = (text_to_image >= rows[0]) & (text_to_image <= rows[-1])
        # What is word for word an own caption is no wrong answer.
        block[text_to_image[pairs] - rows[0], numbers[pairs]] = -torch.inf
        merged_image_ranks[rows] = ((block >= thresholds[rows, :1] - TIE_TOLERANCE).float() @ copies).long()
        merged_text_ranks += (block >= best_of_caption - TIE_TOLERANCE).sum(dim=0, dtype=torch.int32)
    place = torch.arange(1, thresholds.shape[1] + 1)
    precision = (place / (wrong + place) * is_own).sum(dim=1) / is_own.sum(dim=1)
    return QueryRanks(image_ranks, text_ranks, merged_image_ranks, merged_text_ranks[numbers], precision, text_to_image)


def _padded_own_scores(
    own_score: torch.Tensor, text_to_image: torch.Tensor, num_images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of each image's own captions, descending, inf beyond its last, and which are its own: (images, most)."""
    by_score = own_score.argsort(descending=True, stable=True)
    order = by_score[text_to_image[by_score].argsort(stable=True)]  # by image, then by score
    counts = torch.bincount(text_to_image, minlength=num_images)
    is_own = torch.arange(int(counts.max())) < counts[:, None]
    scores = torch.full(is_own.shape, torch.inf)
    scores[is_own] = own_score[order]
    return scores, is_own


@dataclass
class QueryTable:
    """Hits of a split's queries, gathered by image: what any weighting of the images is computed from.

    Attributes:
        sums: column to (images,) float64: hits of the image's queries (or their precisions). Columns are pairs such as
            ("recall", "i2t_R@1").
        counts: column to (images,) float64: queries of the image: 1 where it asks itself, its captions where they do.
    """

    sums: dict[tuple[str, str], torch.Tensor]
    counts: dict[tuple[str, str], torch.Tensor]


def query_table(ranks: QueryRanks, ks: Sequence[int] = KS) -> QueryTable:
    """Gather the hits of a split by image.

    Args:
        ranks: of the split.
        ks: places that count.

    Returns:
        A table with the groups `recall`, `merged_recall` (an identical caption of another image counts as right) and
        `mAP`.
    """
    num_images = len(ranks.image_ranks)
    captions = torch.bincount(ranks.text_to_image, minlength=num_images).double()
    ones = torch.ones(num_images, dtype=torch.double)

    def by_image(of_text: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(ones).index_add_(0, ranks.text_to_image, of_text.double())

    groups = {
        "recall": (ranks.image_ranks, ranks.text_ranks),
        "merged_recall": (ranks.merged_image_ranks, ranks.merged_text_ranks),
    }
    sums, counts = {}, {}
    for group, (image_ranks, text_ranks) in groups.items():
        for k in ks:
            sums[group, f"i2t_R@{k}"], counts[group, f"i2t_R@{k}"] = (image_ranks < k).double(), ones
        for k in ks:
            sums[group, f"t2i_R@{k}"], counts[group, f"t2i_R@{k}"] = by_image(text_ranks < k), captions
    sums["mAP", "i2t"], counts["mAP", "i2t"] = ranks.image_precision.double(), ones
    sums["mAP", "t2i"], counts["mAP", "t2i"] = by_image(1 / (ranks.text_ranks + 1)), captions
    return QueryTable(sums, counts)


def weighted_metrics(table: QueryTable, weights: torch.Tensor) -> dict[tuple[str, str], torch.Tensor]:
    """The metrics of weighted images.

    Args:
        table: of a split.
        weights: (weightings, images) float64, 0 or more; how often each image is there.

    Returns:
        Column to (weightings,) percent, and the mean of each group of recalls as its `mR`.
    """
    columns = list(table.sums)
    sums = weights @ torch.stack([table.sums[column] for column in columns], dim=1)  # (weightings, columns)
    counts = weights @ torch.stack([table.counts[column] for column in columns], dim=1)
    metrics = dict(zip(columns, (100 * sums / counts).unbind(dim=1), strict=True))
    for group in dict.fromkeys(group for group, _ in columns if group.endswith("recall")):
        recalls = [value for (own, _), value in metrics.items() if own == group]
        metrics[group, "mR"] = torch.stack(recalls).mean(dim=0)
    return metrics


def bootstrap_weights(num_images: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> torch.Tensor:
    """How often each image is in samples drawn with replacement.

    Args:
        num_images: of the split, and drawn each time.
        num_resamples: samples.
        seed: of the draw.

    Returns:
        (num_resamples, num_images) float64.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for part in torch.arange(num_resamples).split(max(1, MAX_BLOCK // num_images)):
        drawn = torch.randint(num_images, (len(part), num_images), generator=generator)
        drawn += torch.arange(len(part))[:, None] * num_images
        weights.append(torch.bincount(drawn.flatten(), minlength=drawn.numel()).view(drawn.shape))
    return torch.cat(weights).double()


def interval(values: torch.Tensor) -> list[float]:
    """The middle 95 % of resampled values: [low, high]."""
    return torch.quantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()


def paired_difference(
    first: QueryTable, second: QueryTable, weights: torch.Tensor, column: tuple[str, str] = ("recall", "mR")
) -> dict[str, float | list[float]]:
    """Second minus first on the same resampled images.

    Args:
        first: of one model (or the mean of several, see [`mean_table`]).
        second: of another one on the same split.
        weights: of [`bootstrap_weights`].
        column: what to compare.

    Returns:
        `difference` in percentage points, its 95 % `interval`, and `p`: the two-sided share of resamples in which the
        sign is the other one, at least 1 / (resamples + 1).

    Raises:
        ValueError: tables of different splits.
    """
    if len(next(iter(first.sums.values()))) != len(next(iter(second.sums.values()))):
        raise ValueError("The two models were evaluated on different images: a paired comparison needs the same split.")
    whole = torch.ones(1, weights.shape[1], dtype=torch.double)
    difference = weighted_metrics(second, whole)[column] - weighted_metrics(first, whole)[column]
    resampled = weighted_metrics(second, weights)[column] - weighted_metrics(first, weights)[column]
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(resampled) + 1))
    return {"difference": difference.item(), "interval": interval(resampled), "p": p}


def mean_table(tables: Sequence[QueryTable]) -> QueryTable:
    """The mean hits of several models on one split, such as the seeds of one setting."""
    sums = {column: torch.stack([table.sums[column] for table in tables]).mean(dim=0) for column in tables[0].sums}
    return QueryTable(sums, tables[0].counts)


def ceiling_metrics(texts: Sequence[str], text_to_image: torch.Tensor, ks: Sequence[int] = KS) -> dict[str, float]:
    """The most recall that identical captions allow.

    Text to image, a caption of several images ranks them once for all, so at most k of them are among the first k.
    Image to text, a copy of the caption that belongs to another image scores the same and, as a tie, is ranked before.

    Args:
        texts: the captions.
        text_to_image: (texts,) long.
        ks: places that count.

    Returns:
        The keys of `retrieval_metrics`, percent.
    """
    numbers, _ = distinct_captions(texts)
    num_images, copies = int(text_to_image.max()) + 1, torch.bincount(numbers)
    pair, pair_of_text, own_copies = torch.unique(
        numbers * num_images + text_to_image, return_inverse=True, return_counts=True
    )
    caption = pair // num_images  # of each distinct (caption, image) pair
    # The best order of a caption's images puts those first that have it most often; place: of a pair in that order.
    order = own_copies.argsort(descending=True, stable=True)
    order = order[caption[order].argsort(stable=True)]
    start = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(caption).cumsum(0)[:-1]])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - start[caption[order]]
    others = copies[caption] - own_copies  # copies of the caption that belong to other images
    fewest = torch.full((num_images,), len(texts)).scatter_reduce(0, pair % num_images, others, "amin")
    metrics = {f"i2t_R@{k}": 100 * (fewest < k).double().mean().item() for k in ks}
    metrics |= {f"t2i_R@{k}": 100 * (place[pair_of_text] < k).double().mean().item() for k in ks}
    return metrics | {"mR": sum(metrics.values()) / len(metrics)}


def split_statistics(
    embeddings: SplitEmbeddings, scenes: Sequence[str | None] | None = None, num_resamples: int = NUM_RESAMPLES
) -> tuple[dict, QueryTable, QueryRanks]:
    """Everything that is measured of a model on a split, apart from encoding.

    Args:
        embeddings: of the split.
        scenes: of each image; None where it is not known.
        num_resamples: of the bootstrap over images.

    Returns:
        A dict ready for JSON (`recall`, `merged_recall`, `mAP` in percent, `intervals` of all these, `median_rank`
        counted from 1, `ceiling`, `chance`, `scenes`), the table and the ranks behind it.
    """
    ranks = rank_queries(embeddings)
    table = query_table(ranks)
    num_images = len(embeddings.image_embeds)
    whole = weighted_metrics(table, torch.ones(1, num_images, dtype=torch.double))
    resampled = weighted_metrics(table, bootstrap_weights(num_images, num_resamples))
    statistics: dict = {"recall": {}, "merged_recall": {}, "mAP": {}, "intervals": {}}
    for (group, name), value in whole.items():
        statistics[group][name] = value.item()
        statistics["intervals"].setdefault(group, {})[name] = interval(resampled[group, name])
    statistics["median_rank"] = {
        "i2t": float(np.median(ranks.image_ranks) + 1),
        "t2i": float(np.median(ranks.text_ranks) + 1),
    }
    statistics["ceiling"] = ceiling_metrics(embeddings.texts, embeddings.text_to_image)
    statistics["chance"] = chance_metrics(embeddings.text_to_image)
    statistics["scenes"] = scene_metrics(table, scenes) if scenes is not None else {}
    return statistics, table, ranks


def scene_metrics(table: QueryTable, scenes: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """Recall of the queries of each scene among all candidates of the split.

    Args:
        table: of the split.
        scenes: of each image; images without one are in none.

    Returns:
        Scene to `images`, the six recalls and `mR`, scenes sorted by name.
    """
    names = sorted({scene for scene in scenes if scene})
    if not names:
        return {}
    weights = torch.tensor([[float(scene == name) for scene in scenes] for name in names], dtype=torch.double)
    metrics = {name: values for (group, name), values in weighted_metrics(table, weights).items() if group == "recall"}
    return {
        scene: {"images": int(weights[row].sum())} | {name: values[row].item() for name, values in metrics.items()}
        for row, scene in enumerate(names)
    }
