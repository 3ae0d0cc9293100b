"""A training split held on the accelerator: decoded and tokenized once, augmented there in whole batches.

Decoding and augmenting image by image feeds a small model on a GPU too slowly: RSICD's training split takes 1.2 GB as
8-bit pixels at 224, and a batch of 256 is cropped and turned in a few milliseconds.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from datasets import Dataset
from datasets import Image as ImageFeature
from torchvision.transforms import InterpolationMode

from modeling_pir import PIRProcessor
from training.data.augment import names_direction
from training.data.items import draw_captions, item_seed
from training.data.rows import decode_image

MAX_ASPECT = 4 / 3  # of a random crop, width to height or the other way round, as torchvision's
COLOUR_CHANGE = 0.2  # brightness and contrast go up or down by a fifth at most


def crop_maps(
    count: int, crop_scale: float, turned: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Maps from the augmented image to the image: a random crop, laid down in one of eight ways.

    Args:
        count: images.
        crop_scale: smallest share of the area that a crop keeps.
        turned: (count,) bool, whether flips and quarter turns are allowed.
        generator: random state; None for torch's global one.

    Returns:
        (count, 2, 3) for `torch.nn.functional.affine_grid`.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = uniform(crop_scale, 1)
    aspect = uniform(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)).exp() if crop_scale < 1 else torch.ones(count)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    ways = torch.randint(8, (count,), generator=generator) * turned  # way 0 leaves the image as it is
    angle, mirror = (ways % 4) * (math.pi / 2), 1.0 - 2.0 * (ways >= 4)
    cos, sin = angle.cos(), angle.sin()
    rows = [torch.stack([width * cos * mirror, -width * sin, left], dim=1)]
    rows.append(torch.stack([height * sin * mirror, height * cos, top], dim=1))
    return torch.stack(rows, dim=1)


class DeviceLoader:
    """Batches of a training split for this process, already on its device.

    What a batch looks like depends on the seed, the epoch and its step alone, so a resumed run goes on exactly.

    Args:
        rows: of `load_image_captions`.
        scenes: of `scene_names`; other scenes get the label -1.
        processor: of the model; its size, mean and standard deviation are the images'.
        captions_per_image: captions of an item, drawn anew each epoch.
        batch_size: items of a step, over all processes together.
        crop_scale: smallest share of the area that a random crop keeps, 1 for no crop.
        flips_and_turns: any of the eight ways to lay an image down, where no caption of the item names a direction.
        colour_changes: brightness and contrast change by up to a fifth, each image on its own.
        seed: of order, captions and augmentation.
        device: where the batches are wanted.
        process_index: of this process.
        num_processes: that share a batch.
    """

    def __init__(
        self,
        rows: Dataset,
        scenes: list[str],
        processor: PIRProcessor,
        captions_per_image: int,
        batch_size: int,
        crop_scale: float,
        flips_and_turns: bool,
        colour_changes: bool,
        seed: int,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        settings = processor.image_processor
        self.image_size = settings.size["height"]
        self.mean = 255 * torch.tensor(settings.image_mean, device=device)[:, None, None]
        self.std = 255 * torch.tensor(settings.image_std, device=device)[:, None, None]
        self.captions_per_image, self.batch_size, self.seed, self.device = captions_per_image, batch_size, seed, device
        self.crop_scale, self.flips_and_turns, self.colour_changes = crop_scale, flips_and_turns, colour_changes
        share = batch_size // num_processes
        self.own = slice(process_index * share, (process_index + 1) * share)
        images = rows.select_columns(["image", "filename"]).cast_column("image", ImageFeature(decode=False))
        with ThreadPoolExecutor() as pool:
            self.pixels = torch.stack(list(pool.map(lambda row: self._decode(images[row]), range(len(rows)))))
        self.pixels = self.pixels.to(device)
        label_of = {scene: label for label, scene in enumerate(scenes)}
        self.labels = torch.tensor([label_of.get(scene, -1) for scene in rows["scene"]], device=device)
        texts = sorted({caption for captions in rows["captions"] for caption in captions})
        number_of = {text: number for number, text in enumerate(texts)}
        self.captions = [[number_of[caption] for caption in captions] for captions in rows["captions"]]
        self.names_direction = torch.tensor([names_direction([text]) for text in texts])
        tokens = processor(text=texts, return_tensors="pt")
        self.lengths = tokens["attention_mask"].sum(dim=1)
        self.tokens = {name: values.to(device) for name, values in tokens.items()}

    def _decode(self, row: dict) -> torch.Tensor:
        size = [self.image_size, self.image_size]
        return TF.resize(decode_image(row), size, InterpolationMode.BICUBIC, antialias=True)

    def __len__(self) -> int:
        """Steps of an epoch; the last items, fewer than a batch, are left out."""
        return len(self.captions) // self.batch_size

    def epoch(self, epoch: int, start: int) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of an epoch.

        Args:
            epoch: which one.
            start: steps of it that are done already.

        Yields:
            What `TrainCollator` makes: `pixel_values` (items, 3, height, width), `input_ids` and the tokenizer's other
            tensors (items * captions, length), `image_ids` and `scene_labels` (items,) long.
        """
        order = torch.randperm(len(self.captions), generator=self._generator(epoch))
        for step in range(start, len(self)):
            images = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(images, self._generator(epoch, step))

    def _generator(self, *place: int) -> torch.Generator:
        return torch.Generator().manual_seed(item_seed(self.seed, *place))

    def _batch(self, images: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """This process's share of a batch; the draws are those of the whole batch, on every process."""
        drawn = [draw_captions(self.captions[image], self.captions_per_image, generator) for image in images]
        captions = torch.tensor(drawn)  # (items, captions)
        turned = ~self.names_direction[captions].any(dim=1) & self.flips_and_turns
        pixel_values = self._pixel_values(images, turned, generator)
        images, captions = images[self.own].to(self.device), captions[self.own].flatten()
        length = int(self.lengths[captions].max())
        captions = captions.to(self.device)
        batch = {name: tokens[captions, :length] for name, tokens in self.tokens.items()}
        batch |= {"pixel_values": pixel_values, "image_ids": images, "scene_labels": self.labels[images]}
        return batch

    def _pixel_values(self, images: torch.Tensor, turned: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Cropped, turned, recoloured and normalised images of this process's share, (items, 3, height, width)."""
        maps = crop_maps(len(images), self.crop_scale, turned, generator)[self.own].to(self.device)
        strength = COLOUR_CHANGE * self.colour_changes
        changes = 1 + strength * (2 * torch.rand(2, len(images), 1, 1, 1, generator=generator) - 1)
        brightness, contrast = changes[:, self.own].to(self.device)
        pixels = self.pixels[images[self.own].to(self.device)].float()
        grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        pixels = pixels * brightness
        average = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = ((pixels - average) * contrast + average).clamp(0, 255)
        return (pixels - self.mean) / self.std
