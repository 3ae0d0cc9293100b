"""Zero-shot scene classification: the scene whose name, in sentences, is closest to the image."""

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from modeling_pir.inference.encoder import Encoder

TEMPLATES = (
    "a satellite image of {}.",
    "an aerial photo of {}.",
    "an overhead view of {}.",
    "this is {} seen from above.",
    "there is {} in the image.",
)
# Scene names of the known data sets that are several words written as one, or need another word to be understood.
SCENE_WORDS = {
    "agricultural": "agricultural fields",
    "bareland": "bare land",
    "baseballdiamond": "a baseball diamond",
    "baseballfield": "a baseball field",
    "buildings": "buildings",
    "center": "a center building",
    "commercial": "a commercial area",
    "denseresidential": "a dense residential area",
    "farmland": "farmland",
    "golfcourse": "a golf course",
    "industrial": "an industrial area",
    "mediumresidential": "a medium residential area",
    "mobilehomepark": "a mobile home park",
    "parking": "a parking lot",
    "parkinglot": "a parking lot",
    "playfields": "playing fields",
    "railwaystation": "a railway station",
    "sparseresidential": "a sparse residential area",
    "storagetanks": "storage tanks",
    "tenniscourt": "a tennis court",
}
UNCOUNTED = ("bare land", "chaparral", "farmland")


def scene_phrase(scene: str) -> str:
    """A scene's name as it reads in a sentence: "railwaystation" is "a railway station".

    Args:
        scene: name in a data set; "_", "-" and capitals inside it part words.

    Returns:
        A phrase with its article; names that are not in `SCENE_WORDS` get one unless they are plural.
    """
    compact = re.sub(r"[\W_]", "", scene).lower()
    words = SCENE_WORDS.get(compact) or re.sub(r"[\W_]+|(?<=[a-z])(?=[A-Z])", " ", scene).strip().lower()
    if words in UNCOUNTED or words.startswith(("a ", "an ")) or (words.endswith("s") and not words.endswith("ss")):
        return words
    return f"{'an' if words[:1] in tuple('aeiou') else 'a'} {words}"


def scene_embeds(
    encoder: Encoder,
    scenes: Sequence[str],
    batch_size: int,
    dtype: torch.dtype | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> torch.Tensor:
    """One unit vector per scene: the mean over the templates, as CLIP's ensemble of prompts.

    Args:
        encoder: of `load_encoder`.
        scenes: their names.
        batch_size: texts encoded at once.
        dtype: precision to compute in, None for the weights' own.
        templates: sentences with one "{}".

    Returns:
        (scenes, dim) float32, unit norm.
    """
    texts = [template.format(scene_phrase(scene)) for scene in scenes for template in templates]
    embeds = encoder.embed_texts(texts, batch_size, dtype, None)
    return F.normalize(embeds.unflatten(0, (len(scenes), len(templates))).mean(dim=1), dim=-1)


def zero_shot_metrics(
    image_embeds: torch.Tensor, prompts: torch.Tensor, scenes: Sequence[str | None], names: Sequence[str]
) -> dict[str, Any]:
    """Accuracy of zero-shot classification.

    Args:
        image_embeds: (images, dim) unit norm.
        prompts: (names, dim) unit norm, of [`scene_embeds`].
        scenes: of each image; images without one are left out.
        names: all scenes, in the order of the prompts.

    Returns:
        In percent: `accuracy` over images, `mean_accuracy` over scenes, `chance` (1 / scenes) and `scenes`, the
        accuracy of each; `images`, how many had a scene; `confusion`, a (names, names) list of counts, true by row.
    """
    label_of = {name: label for label, name in enumerate(names)}
    chosen = [image for image, scene in enumerate(scenes) if scene in label_of]
    true = torch.tensor([label_of[scenes[image]] for image in chosen], dtype=torch.long)
    predicted = (image_embeds[chosen] @ prompts.T).argmax(dim=1)
    confusion = torch.bincount(true * len(names) + predicted, minlength=len(names) ** 2).view(len(names), -1)
    per_scene = 100 * confusion.diag().double() / confusion.sum(dim=1)  # every name is there: none is divided by 0
    return {
        "images": len(chosen),
        "accuracy": 100 * (true == predicted).double().mean().item(),
        "mean_accuracy": per_scene.mean().item(),
        "chance": 100 / len(names),
        "scenes": dict(zip(names, per_scene.tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }
