# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""The losses of PIR as pure functions: tensors in, a scalar out; no process group, no rank.

In all of them an item is an image with n captions: row i of the images goes with rows i * n .. (i + 1) * n - 1 of the
texts. Embeddings have unit norm. Work over several processes by gathering the rows first.
"""

import torch
import torch.nn.functional as F


def same_image_targets(image_ids: torch.Tensor, text_image_ids: torch.Tensor) -> torch.Tensor:
    """Whether a text describes an image.

    Args:
        image_ids: (images,) long.
        text_image_ids: (texts,) long, the id of the image each text describes.

    Returns:
        (images, texts) float, 1 where the ids agree and 0 elsewhere.
    """
    return (image_ids[:, None] == text_image_ids[None, :]).float()


def same_caption_targets(caption_ids: torch.Tensor, num_images: int) -> torch.Tensor:
    """Whether a text is word for word one of an image's captions.

    Args:
        caption_ids: (texts,) long, equal for equal captions; rows i * n .. (i + 1) * n - 1 are those of image i.
        num_images: of the batch.

    Returns:
        (images, texts) float, 1 where one of the image's captions has the text's id and 0 elsewhere.
    """
    own = caption_ids.view(num_images, -1)  # (images, captions per image)
    return (own[:, :, None] == caption_ids[None, None, :]).any(dim=1).float()


def contrastive_loss(logits_per_image: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE in which all captions of an image are its joint positives (paper, L_c).

    L = 1/2 (mean_i CE(P_i, softmax_j(logits_ij)) + mean_j CE(Q_j, softmax_i(logits_ij))), where P and Q are the
    positives with rows (columns) scaled to sum 1. The paper has one positive a row; the official code
    (`PIRBase.get_contr_loss` with `idx`) shares the target among captions of the same image, and so do we.

    Args:
        logits_per_image: (images, texts) scaled similarity.
        positives: (images, texts) float, 1 for a pair that belongs together; at least one in each row and column.

    Returns:
        Scalar.
    """
    logits = logits_per_image.float()
    image_to_text = F.cross_entropy(logits, positives / positives.sum(dim=1, keepdim=True))
    text_to_image = F.cross_entropy(logits.T, (positives / positives.sum(dim=0, keepdim=True)).T)
    return (image_to_text + text_to_image) / 2


def triplet_loss(similarity: torch.Tensor, positives: torch.Tensor, margin: float) -> torch.Tensor:
    """Hinges of every wrong pair against the right one, summed over both directions (VSE++'s sum, not its max).

    L = sum_ij [m + s_ij - p_i]+ + [m + s_ij - q_j]+ over the pairs that do not belong together, where p_i (q_j) is the
    similarity of row i (column j) with its own partner, the mean over them where there are several. It is what the
    official code offers as `use_triplet_loss`; that code knows one partner a row, for which this is the same number.

    Args:
        similarity: (images, texts) cosine, unscaled.
        positives: (images, texts) float, 1 for a pair that belongs together.
        margin: in cosine units.

    Returns:
        Scalar.
    """
    similarity = similarity.float()
    right = similarity * positives
    by_image = (margin + similarity - right.sum(dim=1, keepdim=True) / positives.sum(dim=1, keepdim=True)).clamp(min=0)
    by_text = (margin + similarity - right.sum(dim=0, keepdim=True) / positives.sum(dim=0, keepdim=True)).clamp(min=0)
    return ((by_image + by_text) * (1 - positives)).sum()


def cluster_centers(embeds: torch.Tensor, labels: torch.Tensor, member_labels: torch.Tensor) -> torch.Tensor:
    """Mean embedding of the members of each label, not re-normalised (as the official code).

    Args:
        embeds: (members, dim).
        labels: (columns,) the labels whose centres are wanted; repeats give repeated centres.
        member_labels: (members,) label of each embedding.

    Returns:
        (columns, dim); gradient flows to the members.
    """
    members = (labels[:, None] == member_labels[None, :]).to(embeds.dtype)  # (columns, members)
    return members @ embeds / members.sum(dim=1, keepdim=True).clamp(min=1)


def affiliation_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scene_labels: torch.Tensor,
    scale: torch.Tensor,
    targets: str = "scene",
    process_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pull an image to the centre of its scene's captions, and a caption to the centre of its scene's images (L_a).

    With `targets="scene"` each scene counts once: an image is classified among the scenes of the batch by its
    similarity to their text centres, a caption by its similarity to their image centres, and perfect clusters give 0.
    Columns of one scene are equal, so no uniqueness search is needed: a column's logit is lowered by the log of how
    often it occurs, and the columns of the right scene are added up.

    With `targets="identity"` it is the official code (`PIRBase.get_affil_loss`): one column per sample and the
    sample's own column as its target, so perfect clusters give the mean log cluster size instead of 0, and the second
    term runs over the texts of an image centre. (Sharing the target among the equal columns would not change that
    number: their logits are equal.)

    Args:
        image_embeds: (images, dim) unit norm.
        text_embeds: (images * n, dim) unit norm.
        scene_labels: (images,) long; -1 is an unknown scene and takes no part.
        scale: scalar, 1 / temperature.
        targets: "scene" or "identity".
        process_ids: (images,) long; where given, centres are taken within one process, as the official code does.

    Returns:
        Scalar; 0 if no image has a known scene.
    """
    image_embeds, text_embeds = image_embeds.float(), text_embeds.float()
    captions_per_image = text_embeds.shape[0] // image_embeds.shape[0]
    known = scene_labels >= 0
    clusters = scene_labels
    if process_ids is not None:  # one cluster per scene and process
        clusters = torch.where(known, scene_labels + process_ids * (scene_labels.max() + 1), scene_labels)
    text_clusters = clusters.repeat_interleave(captions_per_image)
    image_logits = scale * image_embeds @ cluster_centers(text_embeds, clusters, text_clusters).T  # (images, images)
    text_logits = scale * text_embeds @ cluster_centers(image_embeds, clusters, clusters).T  # (texts, images)
    if targets == "identity":
        return _identity_affiliation(image_logits, text_logits, known)
    return _scene_affiliation(image_logits, text_logits, scene_labels, clusters)


def _identity_affiliation(image_logits: torch.Tensor, text_logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """One column per image, its own the target; logits (images, images) and (texts, images), known (images,)."""
    captions_per_image = len(text_logits) // len(image_logits)
    own = torch.eye(len(image_logits), device=image_logits.device)
    image_term = _masked_cross_entropy(image_logits, own, known, known)
    own_texts = own.repeat_interleave(captions_per_image, dim=1)  # (images, texts)
    known_texts = known.repeat_interleave(captions_per_image)
    return (image_term + _masked_cross_entropy(text_logits.T, own_texts, known, known_texts)) / 2


def _scene_affiliation(
    image_logits: torch.Tensor, text_logits: torch.Tensor, scene_labels: torch.Tensor, clusters: torch.Tensor
) -> torch.Tensor:
    """Each scene counts once: columns of one cluster are equal and are lowered by the log of how many there are."""
    captions_per_image, known = len(text_logits) // len(image_logits), scene_labels >= 0
    same_scene = (scene_labels[:, None] == scene_labels[None, :]).float()  # (images, images)
    repeats = (clusters[:, None] == clusters[None, :]).sum(dim=0).float().log()
    image_term = _cluster_cross_entropy(image_logits - repeats, same_scene, known)
    text_term = _cluster_cross_entropy(
        text_logits - repeats,
        same_scene.repeat_interleave(captions_per_image, dim=0),
        known,
        known.repeat_interleave(captions_per_image),
    )
    return (image_term + text_term) / 2


def _masked_cross_entropy(
    logits: torch.Tensor, positives: torch.Tensor, known_rows: torch.Tensor, known_columns: torch.Tensor
) -> torch.Tensor:
    """Mean over the known rows of the cross-entropy with the shared targets, unknown columns left out."""
    log_probabilities = logits.masked_fill(~known_columns, torch.finfo(logits.dtype).min).log_softmax(dim=1)
    row_loss = -(log_probabilities * positives).sum(dim=1) / positives.sum(dim=1)
    return torch.where(known_rows, row_loss, 0).sum() / known_rows.sum().clamp(min=1)


def _cluster_cross_entropy(
    logits: torch.Tensor, same_scene: torch.Tensor, known: torch.Tensor, known_rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the known rows of -log of the probability that falls on columns of the row's scene."""
    known_rows = known if known_rows is None else known_rows
    lowest = torch.finfo(logits.dtype).min  # finite: a row without any known column has to stay free of NaN
    logits = logits.masked_fill(~known, lowest)
    right = logits.masked_fill(same_scene == 0, lowest).logsumexp(dim=1)
    row_loss = logits.logsumexp(dim=1) - right
    return torch.where(known_rows, row_loss, 0).sum() / known_rows.sum().clamp(min=1)
