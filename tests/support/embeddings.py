"""Random embeddings: of a split, and in clusters."""

import numpy as np
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


def clustered(num_rows, dim=32, seed=0):
    """Unit vectors around 40 centres, and the number of each one's centre."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, dim))
    labels = generator.integers(0, 40, num_rows)
    vectors = centres[labels] + 0.7 * generator.normal(size=(num_rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels
