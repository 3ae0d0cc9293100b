"""Which of some sentences fits an image best."""

from PIL import Image

from ..modeling_pir import PIRModel
from ..processing_pir import PIRProcessor
from .embed import embed_images, embed_texts
from .images import open_image


def rank_sentences(
    model: PIRModel, processor: PIRProcessor, image: Image.Image | None, sentences: str
) -> list[tuple[int, float, str]]:
    """The other way round: which of the given sentences fits an image best.

    Args:
        model: in evaluation mode.
        processor: its processor.
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
    image_embeds = embed_images(model, processor, [open_image(image)])
    similarity = (embed_texts(model, processor, texts) @ image_embeds.T)[:, 0].tolist()  # (texts,)
    ranked = sorted(zip(similarity, texts, strict=True), key=lambda pair: -pair[0])
    return [(rank, round(value, 4), text) for rank, (value, text) in enumerate(ranked, start=1)]
