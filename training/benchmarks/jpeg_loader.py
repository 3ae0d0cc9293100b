"""A training loader over drawn JPEG files, to see whether decoding and augmentation keep up with a device.

python -m training.benchmarks.jpeg_loader       # one worker: RandAugment on PIL, and on tensors as it was before
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import BertTokenizer

from modeling_pir import PIRProcessor
from modeling_pir.inference.images import open_image
from modeling_pir.processing_pir import build_image_processor
from training.data.augment import Augmentation

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


class JpegItems(Dataset):
    """A decoded and augmented image with a caption: `pixels` (3, side, side) uint8 and a sentence.

    Args:
        files: JPEG files.
        num_images: of an epoch, in which a file may come more than once.
        side: of the augmented image, pixels.
        rand_augment: see [`Augmentation`].
    """

    def __init__(self, files: list[Path], num_images: int, side: int, rand_augment: bool) -> None:
        self.files = files
        self.num_images = num_images
        self.augmentation = Augmentation(side, crop_scale=0.5, rand_augment=rand_augment, flips_and_turns=True)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        caption = " ".join(WORDS[(index + place) % len(WORDS)] for place in range(11))
        pixels = TF.pil_to_tensor(open_image(self.files[index % len(self.files)]))
        return self.augmentation(pixels, [caption]), caption


def build_jpeg_loader(
    files: list[Path],
    num_images: int,
    side: int,
    batch_size: int,
    length: int,
    num_workers: int,
    rand_augment: bool,
) -> DataLoader:
    """The loader.

    Args:
        files: of [`draw_jpegs`].
        num_images: of an epoch.
        side: of the images, pixels.
        batch_size: pairs.
        length: tokens of every caption, so that compiled code sees one shape.
        num_workers: loader processes.
        rand_augment: two operations of RandAugment behind crop, flips and turns, which cost as much as all the rest.

    Returns:
        Gives `pixel_values`, `input_ids` and `attention_mask`.
    """
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    processor = PIRProcessor(build_image_processor(side), BertTokenizer(vocab=vocabulary, model_max_length=length))

    def collate(items: list[tuple[torch.Tensor, str]]) -> dict[str, torch.Tensor]:
        images, captions = zip(*items, strict=True)
        options = {"padding": "max_length", "max_length": length, "return_tensors": "pt"}
        inputs = processor(images=list(images), text=list(captions), **options)
        return {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}

    return DataLoader(
        JpegItems(files, num_images, side, rand_augment),
        batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


class TensorAugmentation(Augmentation):
    """[`Augmentation`] as it was before: RandAugment on the tensor, which takes four times as long as on PIL."""

    def __call__(self, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """See [`Augmentation`]."""
        rand_augment, self.rand_augment = self.rand_augment, None
        pixels = super().__call__(pixels, captions)
        self.rand_augment = rand_augment
        return rand_augment(pixels)


def images_a_second(loader: DataLoader, ways: list[Augmentation], repeats: int) -> list[float]:
    """Images that the loader makes in a second of one core with each augmentation: the best of some epochs.

    The ways take turns, so that whatever else the machine does slows all of them.
    """
    rates = [0.0] * len(ways)
    for epoch in range(repeats):
        for place, augmentation in enumerate(ways):
            loader.dataset.augmentation = augmentation
            torch.manual_seed(epoch)  # the same draws for all
            start = time.process_time()
            num_images = sum(len(batch["pixel_values"]) for batch in loader)
            rates[place] = max(rates[place], num_images / (time.process_time() - start))
    return rates


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.jpeg_loader", description="One worker, both ways.")
    parser.add_argument("--side", type=int, default=224, help="of the images, pixels (default: 224)")
    parser.add_argument("--num-images", type=int, default=256, help="of an epoch (default: 256)")
    parser.add_argument("--repeats", type=int, default=3, help="epochs, of which the best counts (default: 3)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = draw_jpegs(Path(folder), 64, args.side)
        loader = build_jpeg_loader(files, args.num_images, args.side, 32, 16, num_workers=0, rand_augment=True)
        before = TensorAugmentation(args.side, 0.5, rand_augment=True, flips_and_turns=True)
        now, before = images_a_second(loader, [loader.dataset.augmentation, before], args.repeats)
    print(f"RandAugment on PIL {now:.0f} images/s, on tensors {before:.0f} images/s: {now / before:.2f} times as many")


if __name__ == "__main__":
    main()
