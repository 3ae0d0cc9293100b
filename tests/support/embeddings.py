"""Random embeddings of a split."""

import torch


def random_split(num_images=23, dim=8, seed=0):
    """Embeddings with one to seven captions per image, in no order, some image pairs and captions equal."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 8, (num_images,), generator=generator)
    text_to_image = torch.arange(num_images).repeat_interleave(counts)
    text_to_image = text_to_image[torch.randperm(len(text_to_image), generator=generator)]
    images = torch.nn.functional.normalize(torch.randn(num_images, dim, generator=generator), dim=-1)
    texts = torch.randn(len(text_to_image), dim, generator=generator) + images[text_to_image]
    return images, torch.nn.functional.normalize(texts, dim=-1), text_to_image
