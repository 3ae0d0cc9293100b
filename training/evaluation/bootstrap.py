"""What is reported beside recall: confidence intervals, the ceiling set by identical captions, recall by scene.

All of it follows from a table with one line per image (`QueryTable`): its queries' hits, for the split or any weighting
of its images. A bootstrap is many weightings, a scene is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.evaluation.metrics import chance_metrics
from training.evaluation.ranks import KS, MAX_BLOCK, QueryRanks, ceiling_metrics, rank_queries
from training.evaluation.split_embeddings import SplitEmbeddings

NUM_RESAMPLES = 2000


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
