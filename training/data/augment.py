"""Augmentation that keeps captions true: crops, turns if no caption names a direction, mild colour changes."""

import re
import unicodedata

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

DIRECTIONS = re.compile(
    r"\b(left|right|north|south|east|west|top|bottom|upper|lower|above|below|beneath|underneath|vertical|horizontal|"
    r"clockwise|anticlockwise|counterclockwise)(ern|wards?|most|ly|east|west|eastern|western)?\b",
    re.IGNORECASE,
)
# German, French, Spanish, Italian, Portuguese, Dutch
FOREIGN_DIRECTIONS = re.compile(
    r"\b(links|rechts|linke[nrs]?|rechte[nrs]?|oben|unten|obere[nrs]?|untere[nrs]?|nord(en|lich)?|süd(en|lich)?|ost(en)?|"
    r"westen|östlich|gauche|droite?|haut|bas|nord|sud|est|ouest|izquierda|derecha|arriba|abajo|norte|sur|este|oeste|"
    r"sinistra|destra|sopra|sotto|esquerda|direita|acima|abaixo|boven|onder|noord(en|elijk)?|zuid(en|elijk)?)\b",
    re.IGNORECASE,
)

TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


class ColourKeepingRandAugment(v2.RandAugment):
    """RandAugment without the operations after which a caption's colours are wrong.

    Left out of torchvision's: Posterize, Solarize, Color and Equalize. The official code's set has Equalize, and
    Brightness and Sharpness only upwards; here they go both ways.
    """

    _AUGMENTATION_SPACE = {
        name: v2.RandAugment._AUGMENTATION_SPACE[name]
        for name in (
            "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Contrast", "Sharpness",
            "AutoContrast",
        )
    }  # fmt: skip


def names_direction(captions: list[str]) -> bool:
    """Whether a caption says left, right, north, top... and so would become false in a mirror or after a turn.

    The words are English. Of a caption in another script nobody knows here what it says, so that it counts as one that
    does; so it does in another language of the Latin script if it has one of that language's usual direction words.
    """
    return any(DIRECTIONS.search(caption) or FOREIGN_DIRECTIONS.search(caption) for caption in captions) or any(
        _is_of_another_script(caption) for caption in captions
    )


def _is_of_another_script(caption: str) -> bool:
    letters = (letter for letter in caption if letter.isalpha()) if not caption.isascii() else ()
    return any(not unicodedata.name(letter, "LATIN").startswith("LATIN") for letter in letters)


class Augmentation:
    """Random crop, flips and quarter turns, and two colour-keeping operations.

    Args:
        image_size: side of the result, pixels.
        crop_scale: smallest share of the area that a crop keeps (official: 0.5); 1 only resizes.
        rand_augment: two operations of [`ColourKeepingRandAugment`] at magnitude 7 of 31 (official: 7 of 10 on scales
            of its own).
        flips_and_turns: any of the eight ways to lay an image down, which nadir imagery allows; the official code
            flips left-right alone, and also where a caption says "left".
    """

    def __init__(self, image_size: int, crop_scale: float, rand_augment: bool, flips_and_turns: bool) -> None:
        self.size = [image_size, image_size]
        self.crop = v2.RandomResizedCrop(self.size, scale=(crop_scale, 1.0)) if crop_scale < 1 else None
        self.rand_augment = ColourKeepingRandAugment(num_ops=2, magnitude=7, fill=128) if rand_augment else None
        self.flips_and_turns = flips_and_turns

    def __call__(self, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Augment one image by torch's global random state.

        Crops are faster on tensors, whose channels stay last as they are decoded, and all else on PIL images.

        Args:
            pixels: (3, height, width) uint8.
            captions: those that are shown with it.

        Returns:
            (3, image_size, image_size) uint8.
        """
        if self.crop is not None:
            pixels = TF.crop(pixels, **self.crop.make_params([pixels]))
        channels_last = pixels.permute(1, 2, 0).contiguous()
        pixels = TF.resize(channels_last.permute(2, 0, 1), self.size, InterpolationMode.BICUBIC, antialias=True)
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        if self.flips_and_turns and not names_direction(captions):
            image = laid_down(image, int(torch.randint(8, ())))
        if self.rand_augment is not None:
            image = self.rand_augment(image)
        return torch.from_numpy(np.array(np.moveaxis(np.asarray(image), 2, 0), order="C"))


def laid_down(image: Image.Image, way: int) -> Image.Image:
    """An image in one of eight ways: way % 4 quarter turns to the left, and mirrored left to right from way 4 on."""
    turn, mirror = TURNS[way % 4], Image.Transpose.FLIP_LEFT_RIGHT
    image = image if turn is None else image.transpose(turn)
    return image.transpose(mirror) if way >= 4 else image
