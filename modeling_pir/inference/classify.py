"""Rank sentences for an image."""

from PIL import Image

from .encoder import Encoder
from .images import open_image


def rank_sentences(encoder: Encoder, image: Image.Image | None, sentences: str) -> list[tuple[int, float, str]]:
    """The other way round: which of the given sentences fits an image best.

    Args:
        encoder: of `load_encoder`.
        image: of any mode.
        sentences: one per line; empty lines are passed over, and one that is there twice is ranked once.

    Returns:
        (rank, similarity, sentence), the best first; similarity is the cosine, in [-1, 1].

    Raises:
        ValueError: no image or no sentence.
    """
    texts = list(dict.fromkeys(line.strip() for line in sentences.splitlines() if line.strip()))
    if image is None or not texts:
        missing = "image" if image is None else "sentence"
        raise ValueError(f"There is no {missing}: choose an image, and write sentences, one per line.")
    image_embeds = encoder.embed_images([open_image(image)])
    similarity = (encoder.embed_texts(texts) @ image_embeds.T)[:, 0].tolist()  # (texts,)
    ranked = sorted(zip(similarity, texts, strict=True), key=lambda pair: -pair[0])
    return [(rank, round(value, 4), text) for rank, (value, text) in enumerate(ranked, start=1)]
