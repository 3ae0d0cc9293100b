"""Ranks of the right answers of each query, and the ceiling set by identical captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.evaluation.metrics import TIE_TOLERANCE, streamed_retrieval_ranks
from training.evaluation.split_embeddings import SplitEmbeddings

KS = (1, 5, 10)
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
