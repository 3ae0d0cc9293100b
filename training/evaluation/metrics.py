"""Recall of image-text retrieval, as pure functions of a similarity matrix or of embeddings.

The rank of a query is the number of wrong candidates that score at least as high as its best right one, so a tie with
a wrong candidate counts against us. (The official code orders ties by an unstable sort; without ties both agree.)
"""

from collections.abc import Sequence

import torch

TIE_TOLERANCE = 1e-6  # cosine units; two products of equal vectors may differ by rounding, depending on their block
METRICS = ("i2t_R@1", "i2t_R@5", "i2t_R@10", "t2i_R@1", "t2i_R@5", "t2i_R@10", "mR")


def retrieval_ranks(similarity: torch.Tensor, text_to_image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank of the right answer of every query, 0 for the first place.

    Args:
        similarity: (images, texts); any scale, higher is closer.
        text_to_image: (texts,) long, the row of the image each text describes.

    Returns:
        image_ranks (images,) and text_ranks (texts,) long. An image is answered by any of its texts.

    Raises:
        ValueError: shapes that do not fit, an image without text, NaN.
    """
    _check(similarity.shape[0], similarity.shape[1], text_to_image)
    if similarity.isnan().any():
        raise ValueError("The similarity has NaN: the model's weights or its inputs are broken.")
    own_score = similarity[text_to_image, torch.arange(len(text_to_image))]  # (texts,)
    text_ranks = _count(similarity >= own_score, dim=0) - 1
    best_own = torch.full((len(similarity),), -torch.inf, dtype=similarity.dtype)
    best_own = best_own.scatter_reduce(0, text_to_image, own_score, "amax")  # (images,)
    own_hits = torch.zeros(len(similarity), dtype=torch.long)
    own_hits.scatter_add_(0, text_to_image, (own_score >= best_own[text_to_image]).long())
    image_ranks = _count(similarity >= best_own[:, None], dim=1) - own_hits
    return image_ranks, text_ranks


def streamed_retrieval_ranks(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, text_to_image: torch.Tensor, chunk_size: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`retrieval_ranks`] without ever holding the whole similarity matrix.

    Candidates within `TIE_TOLERANCE` of the right one count as ties.

    Args:
        image_embeds: (images, dim).
        text_embeds: (texts, dim).
        text_to_image: (texts,) long.
        chunk_size: rows and columns of a block; a block takes 5 * chunk_size^2 bytes.

    Returns:
        image_ranks (images,) and text_ranks (texts,) long.

    Raises:
        ValueError: as [`retrieval_ranks`], or embeddings of different widths.
    """
    _check(len(image_embeds), len(text_embeds), text_to_image)
    if image_embeds.shape[1] != text_embeds.shape[1]:
        raise ValueError(
            f"Images have {image_embeds.shape[1]} numbers and texts {text_embeds.shape[1]}: embed both with one model."
        )
    text_chunks = [slice(start, start + chunk_size) for start in range(0, len(text_embeds), chunk_size)]
    own_score = torch.cat(
        [(image_embeds[text_to_image[chunk]] * text_embeds[chunk]).sum(dim=1) for chunk in text_chunks]
    )
    if own_score.isnan().any():
        raise ValueError("The embeddings have NaN: the model's weights or its inputs are broken.")
    best_own = torch.full((len(image_embeds),), -torch.inf).scatter_reduce(0, text_to_image, own_score, "amax")
    image_ranks = torch.zeros(len(image_embeds), dtype=torch.long)
    text_ranks = torch.zeros(len(text_embeds), dtype=torch.long)
    for first in range(0, len(image_embeds), chunk_size):
        rows = slice(first, first + chunk_size)
        for columns in text_chunks:
            block = image_embeds[rows] @ text_embeds[columns].T  # (rows, columns)
            # An own pair is no wrong candidate of its image or of its text.
            own = (text_to_image[columns] >= first) & (text_to_image[columns] < first + len(block))
            block[text_to_image[columns][own] - first, own.nonzero().squeeze(1)] = -torch.inf
            image_ranks[rows] += _count(block >= best_own[rows, None] - TIE_TOLERANCE, dim=1)
            text_ranks[columns] += _count(block >= own_score[columns] - TIE_TOLERANCE, dim=0)
    return image_ranks, text_ranks


def recall_metrics(image_ranks: torch.Tensor, text_ranks: torch.Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict:
    """Recall at k both ways and their mean.

    Args:
        image_ranks: (images,) rank of the best right text, 0 for the first place.
        text_ranks: (texts,) rank of the right image.
        ks: places that count.

    Returns:
        `i2t_R@k`, `t2i_R@k` for each k, and `mR`, all in percent.
    """
    metrics = {f"i2t_R@{k}": 100 * (image_ranks < k).double().mean().item() for k in ks}
    metrics |= {f"t2i_R@{k}": 100 * (text_ranks < k).double().mean().item() for k in ks}
    return metrics | {"mR": sum(metrics.values()) / len(metrics)}


def retrieval_metrics(
    similarity: torch.Tensor, text_to_image: torch.Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at k of a similarity matrix.

    Args:
        similarity: (images, texts); any scale, higher is closer.
        text_to_image: (texts,) long, the row of the image each text describes.
        ks: places that count.

    Returns:
        `i2t_R@1 i2t_R@5 i2t_R@10 t2i_R@1 t2i_R@5 t2i_R@10 mR`, percent.

    Raises:
        ValueError: see [`retrieval_ranks`].
    """
    return recall_metrics(*retrieval_ranks(similarity, text_to_image), ks)


def chance_metrics(text_to_image: torch.Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Expected recall of a random order, percent: the figure a result has to be read against.

    A text finds its image with probability k / images. An image with n texts finds one of them with probability
    1 - C(texts - n, k) / C(texts, k).

    Args:
        text_to_image: (texts,) long.
        ks: places that count.

    Returns:
        The keys of [`retrieval_metrics`].
    """
    texts_of_image = torch.bincount(text_to_image).double()
    num_images, num_texts = len(texts_of_image), len(text_to_image)
    metrics = {}
    for k in ks:
        miss = torch.ones_like(texts_of_image)
        for place in range(min(k, num_texts)):
            miss *= ((num_texts - texts_of_image - place) / (num_texts - place)).clamp(min=0)
        metrics[f"i2t_R@{k}"] = 100 * (1 - miss).mean().item()
    metrics |= {f"t2i_R@{k}": 100 * min(k / num_images, 1.0) for k in ks}
    return metrics | {"mR": sum(metrics.values()) / len(metrics)}


def _count(found: torch.Tensor, dim: int) -> torch.Tensor:
    """How many are true along a dimension, long; summed in int32, which is several times faster than in int64."""
    return found.sum(dim=dim, dtype=torch.int32).long()


def _check(num_images: int, num_texts: int, text_to_image: torch.Tensor) -> None:
    if text_to_image.shape != (num_texts,):
        raise ValueError(
            f"text_to_image has shape {tuple(text_to_image.shape)}, but there are {num_texts} texts: give one image "
            "row for each text."
        )
    outside = text_to_image[(text_to_image < 0) | (text_to_image >= num_images)]
    if len(outside):
        raise ValueError(f"text_to_image names row {int(outside[0])}, but the {num_images} images count from 0.")
    described = torch.bincount(text_to_image, minlength=num_images)
    if (described == 0).any():
        missing = int((described == 0).nonzero()[0])
        raise ValueError(f"Image {missing} has no text: leave it out, nothing can be right for it.")
