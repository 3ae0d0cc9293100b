"""From rows to training items and batches."""

import hashlib
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate
from transformers import BaseImageProcessor
from transformers.image_processing_backends import TorchvisionBackend

from modeling_pir import PIRModel, PIRProcessor
from training.data.augment import Augmentation
from training.data.rows import decode_image

logger = logging.getLogger(__name__)
Caption = TypeVar("Caption", str, int)  # a text, or its number


def item_seed(*place: int) -> int:
    """Seed of an item's captions and augmentation: a hash of the numbers that say which item it is."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def draw_captions(texts: list[Caption], num_captions: int, generator: torch.Generator | None = None) -> list[Caption]:
    """Captions of an item in random order, without repeats where there are enough; none where there are none."""
    if not texts:  # scenes without captions
        return []
    order = torch.randperm(len(texts), generator=generator).tolist()
    repeats = -(-num_captions // len(texts))
    return [texts[place] for place in (order * repeats)[:num_captions]]


class TrainItems(TorchDataset):
    """Training items of a split: an image with captions, augmented anew each epoch.

    What an item looks like depends on the seed, the epoch and its index alone, not on the order of access, the number
    of loader processes or of training processes.

    Args:
        rows: of [`load_image_captions`].
        scenes: of [`scene_names`]; other scenes get the label -1.
        captions_per_image: 0: an item is one caption with its image. n: an item is an image with n of its captions,
            drawn anew each epoch, without repeats where there are enough; none where the image has none.
        image_size: side of the augmented image, pixels.
        augment: False leaves the image as it is, to be resized by the processor.
        crop_scale: see [`Augmentation`].
        rand_augment: see [`Augmentation`].
        flips_and_turns: see [`Augmentation`].
        cache_images: keep decoded images in memory.
        seed: of captions and augmentation.
    """

    def __init__(
        self,
        rows: Dataset,
        scenes: list[str],
        captions_per_image: int,
        image_size: int,
        augment: bool = True,
        crop_scale: float = 0.5,
        rand_augment: bool = True,
        flips_and_turns: bool = True,
        cache_images: bool = False,
        seed: int = 0,
    ) -> None:
        self.images = rows.select_columns(["image", "filename"]).cast_column("image", ImageFeature(decode=False))
        self.captions = list(rows["captions"])
        label_of = {scene: label for label, scene in enumerate(scenes)}
        self.labels = [label_of.get(scene, -1) for scene in rows["scene"]]
        self.captions_per_image = captions_per_image
        self.pairs = [(image, caption) for image, texts in enumerate(self.captions) for caption in range(len(texts))]
        self.augmentation = Augmentation(image_size, crop_scale, rand_augment, flips_and_turns) if augment else None
        self.seed = seed
        self.shared_epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by loader processes that stay
        self.cache: list[torch.Tensor] | None = None
        if cache_images:  # filled here and not on demand, so that loader processes share it
            with ThreadPoolExecutor() as pool:
                self.cache = list(pool.map(self._decode, range(len(rows))))

    def __len__(self) -> int:
        return len(self.captions) if self.captions_per_image else len(self.pairs)

    def set_epoch(self, epoch: int) -> None:
        """Choose what is drawn; call it before each epoch."""
        self.shared_epoch.fill_(epoch)

    def _decode(self, image: int) -> torch.Tensor:
        return decode_image(self.images[image])

    def __getitem__(self, index: int) -> dict:
        """An item: `pixels` (3, height, width) uint8, `captions` list, `image_id`, `scene_label`."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which tells GPUs, too, and where there is none keeps a stack trace of every call.
            torch.default_generator.manual_seed(item_seed(self.seed, int(self.shared_epoch), index))
            if self.captions_per_image:
                image, captions = index, draw_captions(self.captions[index], self.captions_per_image)
            else:
                image, caption = self.pairs[index]
                captions = [self.captions[image][caption]]
            pixels = self._decode(image) if self.cache is None else self.cache[image]
            if self.augmentation is not None:
                pixels = self.augmentation(pixels, captions)
        return {"pixels": pixels, "captions": captions, "image_id": image, "scene_label": self.labels[image]}


def keep_items_in_trainer() -> None:
    """Let transformers' Trainer hand on our items by its defaults: it removes what the model's `forward` does not name.

    The signature that it reads names their fields, too. Not `scene_label`, which the Trainer would take for a label
    that every batch has to hold under that name.
    """
    *own, rest = inspect.signature(PIRModel.forward).parameters.values()
    known = {parameter.name for parameter in own}
    fields = [name for name in ("pixels", "captions", "image_id") if name not in known]
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in fields]
    PIRModel.forward.__signature__ = inspect.Signature([*own, *added, rest])


def only_normalises(image_processor: BaseImageProcessor, side: int) -> bool:
    """Whether an image processor does nothing but [`normalised`] to an image (3, side, side) of bytes."""
    if not isinstance(image_processor, TorchvisionBackend):
        return False
    pixels = torch.arange(3 * side * side).view(1, 3, side, side).to(torch.uint8)
    expected = image_processor(list(pixels), return_tensors="pt")["pixel_values"]
    return torch.equal(normalised({"pixel_values": pixels}, image_processor)["pixel_values"], expected)


def normalised(batch: dict[str, torch.Tensor], image_processor: TorchvisionBackend) -> dict[str, torch.Tensor]:
    """A batch with its images as an image processor makes them of bytes; on the device where they are.

    Args:
        batch: `pixel_values` (items, 3, height, width) uint8; a batch of others stays as it is.
        image_processor: for which [`only_normalises`] holds.
    """
    pixels = batch["pixel_values"]
    if pixels.dtype != torch.uint8:
        return batch
    names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    settings = {name: getattr(image_processor, name) for name in names}
    settings |= {name: tuple(settings[name] or ()) for name in ("image_mean", "image_std")}
    return batch | {"pixel_values": image_processor.rescale_and_normalize(pixels, **settings)}


class TrainCollator:
    """Make a batch of items: named tensors that [`PIRModel`] takes.

    Args:
        processor: of the model.
        as_bytes: leave images of the final size as they are, uint8, for [`normalised`] behind the transfer: a loader
            process is done sooner, and hands over a quarter.
        return_loss: add `return_loss=True`, which transformers' Trainer needs; our loop computes the loss itself, from
            the rows of all processes. The Trainer's default `remove_unused_columns=True` takes the scenes from the
            items, which is said; set it to False where the affiliation loss is on.
    """

    def __init__(self, processor: PIRProcessor, return_loss: bool = False, as_bytes: bool = False) -> None:
        self.processor = processor
        self.as_bytes = as_bytes
        self.return_loss = return_loss
        self.has_warned = False
        if return_loss:
            keep_items_in_trainer()

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Collate.

        Args:
            items: of [`TrainItems`], each with the same number of captions.

        Returns:
            `pixel_values` (items, 3, height, width), `input_ids` and the tokenizer's other tensors (items * captions,
            length), `image_ids` and `scene_labels` (items,) long.

        Raises:
            ValueError: items without captions, which is what transformers' Trainer hands on for a model of other code.
        """
        if "captions" not in items[0]:
            raise ValueError(
                f"The items have the fields {', '.join(items[0])} and no captions: transformers' Trainer removes what "
                "the model's forward does not name, so give it TrainingArguments(remove_unused_columns=False)."
            )
        if "scene_label" not in items[0] and not self.has_warned:
            self.has_warned = True
            logger.warning(
                "The items have no scene_label, so that the affiliation loss sees no scenes: transformers' Trainer "
                "keeps it with TrainingArguments(remove_unused_columns=False)."
            )
        captions = [caption for item in items for caption in item["captions"]]
        images = [item["pixels"] for item in items]
        if self.as_bytes:
            pixels = default_collate(images)  # in a loader process straight into the memory that it shares
            batch = {"pixel_values": pixels} | dict(self.processor(text=captions, return_tensors="pt"))
        else:
            batch = dict(self.processor(images=images, text=captions, return_tensors="pt"))
        batch["image_ids"] = torch.tensor([item["image_id"] for item in items])
        batch["scene_labels"] = torch.tensor([item.get("scene_label", -1) for item in items])
        return batch | {"return_loss": True} if self.return_loss else batch
