"""Embeddings of a split whose products are similarities corrected for hubness, as in the index."""

from dataclasses import replace

import torch

from modeling_pir.index.questions.bank import bank_embeds
from modeling_pir.index.questions.ranking import HUBNESS_WEIGHT, hubness
from modeling_pir.inference.encoder import Encoder
from training.evaluation.split_embeddings import SplitEmbeddings


def corrected_embeddings(encoder: Encoder, embeddings: SplitEmbeddings) -> SplitEmbeddings:
    """Take half of each image's hubness off its similarities to all texts.

    One more coordinate holds it: of an image minus the offset, of a text one. It changes which images a text finds, and
    not which texts an image finds.

    Args:
        encoder: that made the embeddings.
        embeddings: of a split.

    Returns:
        Embeddings (images or texts, dim + 1), no longer of unit norm.

    Raises:
        ValueError: a model without a logit scale, by which hubness is measured.
    """
    if encoder.logit_scale is None:
        raise ValueError(f"A {type(encoder.model).__name__} has no logit scale, so that its hubness is not measured.")
    images, texts = embeddings.image_embeds, embeddings.text_embeds
    bank = bank_embeds(encoder, encoder.describe()["weights"])
    offsets = torch.from_numpy(hubness(images.numpy(), bank, encoder.logit_scale))
    return replace(
        embeddings,
        image_embeds=torch.cat([images, -HUBNESS_WEIGHT * offsets[:, None]], dim=1),
        text_embeds=torch.cat([texts, torch.ones(len(texts), 1)], dim=1),
    )
