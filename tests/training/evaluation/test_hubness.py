"""The evaluation's correction for hubness is the one of the search."""

import torch

from modeling_pir.index.questions.bank import bank_embeds
from modeling_pir.index.questions.ranking import corrected, hubness
from modeling_pir.inference.encoder import PIREncoder
from training.evaluation.hubness import corrected_embeddings
from training.evaluation.split_embeddings import SplitEmbeddings


def test_products_are_the_corrected_similarities(tiny_model, tiny_processor, tiny_images):
    encoder = PIREncoder(tiny_model, tiny_processor)
    texts = ["a green square", "two red squares"]
    images, text_embeds = encoder.embed_images(tiny_images), encoder.embed_texts(texts)
    found = corrected_embeddings(encoder, SplitEmbeddings(images, text_embeds, torch.tensor([0, 1]), texts, {}))
    offsets = hubness(images.numpy(), bank_embeds(encoder, encoder.describe()["weights"]), encoder.logit_scale)
    expected = corrected((text_embeds @ images.T).numpy(), offsets)
    torch.testing.assert_close(found.text_embeds @ found.image_embeds.T, torch.from_numpy(expected).float())
