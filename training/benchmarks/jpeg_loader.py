"""A training loader over drawn JPEG files, to see whether decoding and augmentation keep up with a device.

python -m training.benchmarks.jpeg_loader       # images for a second of one processor, now and before
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, v2
from transformers import BertTokenizer

from modeling_pir import PIRProcessor
from modeling_pir.processing_pir import build_image_processor
from training.data.augment import Augmentation, names_direction
from training.data.items import TrainCollator, TrainItems, normalised
from training.data.rows import FEATURES

WORDS = ("a", "many", "white", "green", "buildings", "trees", "airplanes", "are", "near", "the", "river", "road")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def draw_jpegs(folder: Path, num_images: int, side: int) -> list[Path]:
    """Draw images as textured as overhead ones: a JPEG of 224 pixels takes about 20 kB, as RSICD's do.

    Args:
        folder: where they go.
        num_images: how many.
        side: of the squares, pixels.

    Returns:
        The files.
    """
    generator = np.random.default_rng(0)
    files = []
    for index in range(num_images):
        patches = generator.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = (smooth + generator.integers(-12, 13, (side, side, 1))).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{index}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=85)
    return files


def jpeg_items(
    files: list[Path], num_images: int, side: int, rand_augment: bool, kind: type[TrainItems] = TrainItems
) -> TrainItems:
    """Items of a training run.

    Args:
        files: of [`draw_jpegs`].
        num_images: of an epoch, in which a file may come more than once.
        side: of the augmented image, pixels.
        rand_augment: two operations of RandAugment behind crop, flips and turns.
        kind: of the items.
    """
    captions = [[" ".join(WORDS[(index + place) % len(WORDS)] for place in range(11))] for index in range(num_images)]
    names = [str(files[index % len(files)]) for index in range(num_images)]
    rows = {"image": names, "filename": names, "captions": captions, "scene": [None] * num_images}
    return kind(Dataset.from_dict(rows, features=FEATURES), [], 1, side, rand_augment=rand_augment)


def build_processor(side: int, length: int) -> PIRProcessor:
    """A processor whose texts all have `length` tokens, so that compiled code sees one shape."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    processor = PIRProcessor(build_image_processor(side), BertTokenizer(vocab=vocabulary, model_max_length=length))
    processor.text_kwargs = {"padding": "max_length", "truncation": True, "max_length": length}
    return processor


def build_jpeg_loader(items: TrainItems, collate: TrainCollator, batch_size: int, num_workers: int) -> DataLoader:
    """The loader, as a run builds it.

    Args:
        items: of [`jpeg_items`].
        collate: of its items.
        batch_size: pairs.
        num_workers: loader processes.
    """
    return DataLoader(
        items,
        batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


class TensorAugmentation(Augmentation):
    """[`Augmentation`] with every step on the tensor, as it was before."""

    def __call__(self, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """See [`Augmentation`]."""
        crop = v2.RandomResizedCrop(self.size, self.crop.scale, interpolation=InterpolationMode.BICUBIC, antialias=True)
        pixels = crop(pixels)
        if self.flips_and_turns and not names_direction(captions):
            way = int(torch.randint(8, ()))
            pixels = torch.rot90(pixels, way % 4, dims=(1, 2))
            pixels = pixels.flip(2) if way >= 4 else pixels
        return self.rand_augment(pixels.contiguous()).contiguous()


class TensorItems(TrainItems):
    """[`TrainItems`] as they were before: augmented on tensors, seeded for all devices."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.augmentation = TensorAugmentation(self.augmentation.size[0], 0.5, rand_augment=True, flips_and_turns=True)

    def __getitem__(self, index: int) -> dict:
        """See [`TrainItems`]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
        return super().__getitem__(index)


def cpu_seconds(num_workers: int) -> float:
    """Seconds of a processor that loading has taken so far: of this process, or of loader processes that have ended."""
    if not num_workers:
        return time.process_time()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def images_a_second(loaders: list[Callable[[], DataLoader]], num_workers: int, repeats: int) -> list[float]:
    """Images that each loader gives for a second of its processor: the best of some epochs.

    Args:
        loaders: build them; they take turns, so that whatever else the machine does slows all of them.
        num_workers: 0 counts all work in one process, the normalising behind the transfer, too; 1 counts what the
            loader process does, its start and its end included.
        repeats: epochs of each.
    """
    rates = [0.0] * len(loaders)
    for _ in range(repeats):
        for place, build in enumerate(loaders):
            start, loader = cpu_seconds(num_workers), build()
            image_processor = loader.collate_fn.processor.image_processor
            num_images = sum(len(normalised(batch, image_processor)["pixel_values"]) for batch in loader)
            del loader  # its process ends and is counted
            rates[place] = max(rates[place], num_images / (cpu_seconds(num_workers) - start))
    return rates


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.jpeg_loader", description="Now and before.")
    parser.add_argument("--side", type=int, default=224, help="of the images, pixels (default: 224)")
    parser.add_argument("--num-images", type=int, default=512, help="of an epoch (default: 512)")
    parser.add_argument("--repeats", type=int, default=3, help="epochs, of which the best counts (default: 3)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    processor = build_processor(args.side, length=16)
    with tempfile.TemporaryDirectory() as folder:
        files = draw_jpegs(Path(folder), 64, args.side)
        ways = [(TrainItems, TrainCollator(processor, as_bytes=True)), (TensorItems, TrainCollator(processor))]
        for num_workers, place in ((1, "in a loader process"), (0, "all in one process")):
            loaders = [
                partial(
                    build_jpeg_loader,
                    jpeg_items(files, args.num_images, args.side, True, kind),
                    collate,
                    batch_size=32,
                    num_workers=num_workers,
                )
                for kind, collate in ways
            ]
            now, before = images_a_second(loaders, num_workers, args.repeats)
            print(f"{place}: {now:.0f} images/s, before {before:.0f}: {now / before:.2f} times as many")


if __name__ == "__main__":
    main()
