r"""Train a tower as a scene classifier, so that a prior that knows scenes instructs, and not noise.

    python -m training.pretrain_instruction --config training/configs/rsicd_mini.yaml --data FOLDER \
        --output-dir towers/rsicd
    python -m training.train --config training/configs/rsicd_mini.yaml --data FOLDER --init-instruction towers/rsicd
    python -m training.pretrain_instruction --config training/configs/rsicd.yaml --data AID_FOLDER \
        --test-data RSICD_FOLDER --allow-overlap --output-dir towers/aid      # the paper's recipe, leak and all

The paper's prior is a ResNet-50 trained on AID's scenes. The official code builds it but loads none of its weights, so
a random network instructs there. RSICD's images come in part from AID: a prior trained on all of AID has seen test
images. Here a training image that is in the retrieval test split (`training.leakcheck`: turned or mirrored, too) is
left out, unless `--allow-overlap`, which report and card then state.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from modeling_pir.convert_backbones import whole_folder
from modeling_pir.images import IMAGE_SUFFIXES
from modeling_pir.modeling_pir import tower_width
from training.build import build_image_processor, build_tower
from training.config import TrainConfig, load_config, parse_assignments
from training.data import TrainItems, check_images, load_image_captions, scene_names, split_by_name

logger = logging.getLogger(__name__)
FACTS_FILE = "instruction.json"  # beside a tower's weights: on what it was trained
NUM_LISTED = 5
LABEL_SMOOTHING = 0.1  # scenes overlap (a park has a pond): certainty would be learnt by heart


class SceneClassifier(nn.Module):
    """A tower with a linear layer on its pooled vector.

    Args:
        tower: any vision tower that pools its patches.
        width: of its pooled vector.
        num_scenes: classes.
    """

    def __init__(self, tower: nn.Module, width: int, num_scenes: int) -> None:
        super().__init__()
        self.tower = tower
        self.classifier = nn.Linear(width, num_scenes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map pixel_values (batch, 3, height, width) to scene logits (batch, num_scenes)."""
        return self.classifier(self.tower(pixel_values, return_dict=True).pooler_output.flatten(1))


class SceneCollator:
    """Make a batch of items: `pixel_values` (items, 3, height, width) and `scene_labels` (items,) long, -1 unknown."""

    def __init__(self, image_processor: BaseImageProcessor) -> None:
        self.image_processor = image_processor

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Collate items of [`TrainItems`]."""
        batch = self.image_processor([item["pixels"] for item in items], return_tensors="pt")
        labels = torch.tensor([item["scene_label"] for item in items])
        return {"pixel_values": batch["pixel_values"], "scene_labels": labels}


def train_on_scenes(
    tower: PreTrainedModel,
    train_items: TrainItems,
    validation_items: TrainItems,
    collate: SceneCollator,
    scenes: Sequence[str],
    config: TrainConfig,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Train a tower on the scenes of items, in place; the weights of the last epoch are kept.

    Args:
        tower: to be trained.
        train_items: one item per image; those without a known scene are passed over.
        validation_items: not augmented, for the accuracy.
        collate: makes a batch of items.
        scenes: classes.
        config: `instruction_epochs`, `instruction_learning_rate`, `batch_size`, `evaluation_batch_size`, `num_workers`.
        accelerator: device, precision and processes.

    Returns:
        `scene_accuracy` on validation (percent), `scene_loss` of the last epoch, `seconds`, and `confusion`, the
        (scenes, scenes) counts on validation, true scene by row.

    Raises:
        ValueError: fewer than two scenes.
        FloatingPointError: the loss is no number.
    """
    if len(scenes) < 2:
        raise ValueError(
            f"instruction_epochs is {config.instruction_epochs}, but the training split names {len(scenes)} scenes: "
            "add a scene column, or set instruction_epochs to 0."
        )
    start = time.perf_counter()
    classifier = SceneClassifier(tower, tower_width(tower), len(scenes))
    classifier.requires_grad_(True)
    classifier.to(memory_format=torch.channels_last)  # a fifth faster for convolutions in bfloat16
    loader = DataLoader(
        train_items, config.batch_size, shuffle=True, drop_last=True, collate_fn=collate, num_workers=config.num_workers
    )
    optimizer = torch.optim.AdamW(classifier.parameters(), config.instruction_learning_rate, weight_decay=0.05)
    classifier, optimizer, loader = accelerator.prepare(classifier, optimizer, loader)
    num_steps = config.instruction_epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer.optimizer, config.instruction_learning_rate, total_steps=num_steps
    )
    progress = tqdm(total=num_steps, desc="scenes", disable=not accelerator.is_main_process)
    loss_of_epoch = 0.0
    for epoch in range(config.instruction_epochs):
        train_items.set_epoch(epoch)
        loader.set_epoch(epoch)
        classifier.train()
        losses = []
        for batch in loader:
            logits = classifier(batch["pixel_values"])
            loss = F.cross_entropy(logits, batch["scene_labels"], ignore_index=-1, label_smoothing=LABEL_SMOOTHING)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            progress.update()
        loss_of_epoch = torch.stack(losses).mean().item()
        if not torch.isfinite(losses[-1]):
            raise FloatingPointError(
                f"The loss is {losses[-1].item()} in epoch {epoch}: lower instruction_learning_rate."
            )
        progress.set_postfix(epoch=epoch, loss=f"{loss_of_epoch:.3f}")
    progress.close()
    validation = DataLoader(validation_items, config.evaluation_batch_size, collate_fn=collate)
    confusion = scene_confusion(accelerator.unwrap_model(classifier, keep_torch_compile=False), validation, len(scenes))
    accelerator.free_memory()  # forgets the prepared classifier, so that a model can be prepared whole
    return {
        "scene_accuracy": 100 * confusion.diag().sum().item() / max(confusion.sum().item(), 1),
        "scene_loss": loss_of_epoch,
        "seconds": time.perf_counter() - start,
        "confusion": confusion.tolist(),
    }


@torch.inference_mode()
def scene_confusion(classifier: SceneClassifier, loader: DataLoader, num_scenes: int) -> torch.Tensor:
    """Counts (scenes, scenes) of true scene by row and predicted scene by column; unknown scenes are passed over."""
    classifier.eval()
    device = next(classifier.parameters()).device
    confusion = torch.zeros(num_scenes * num_scenes, dtype=torch.long)
    for batch in loader:
        predicted = classifier(batch["pixel_values"].to(device)).argmax(dim=1).cpu()
        known = batch["scene_labels"] >= 0
        cells = batch["scene_labels"][known] * num_scenes + predicted[known]
        confusion += torch.bincount(cells, minlength=len(confusion))
    return confusion.view(num_scenes, num_scenes)


def load_scene_rows(config: TrainConfig) -> dict[str, Dataset]:
    """Training and validation rows of a scene data set.

    Args:
        config: `data` is what [`load_image_captions`] takes, or a folder with one folder of images for each scene, as
            AID and NWPU come; then every tenth image validates, by a hash of its name.

    Returns:
        "train" and "validation" rows with `image`, `scene`, `filename`, `captions` (empty where there are none).
    """
    folder = Path(config.data)
    tables = [*folder.glob("metadata.*"), *folder.glob("*/metadata.*"), *folder.rglob("*.parquet")]
    if not folder.is_dir() or tables:
        options = {"split_list": config.split_list, "revision": config.data_revision}
        options["skip_bad_images"] = config.skip_bad_images
        return {name: load_image_captions(config.data, name, **options) for name in ("train", "validation")}
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{config.data!r} holds no images in folders of their scenes, such as airport/1.jpg.")
    rows = Dataset.from_dict(
        {
            "filename": [str(path.relative_to(folder)) for path in files],
            "image": [str(path) for path in files],
            "captions": [[] for _ in files],
            "scene": [path.parent.name for path in files],
        }
    ).cast_column("image", ImageFeature())
    parts = split_by_name(rows)
    splits = {"train": concatenate_datasets([parts["train"], parts["test"]]), "validation": parts["validation"]}
    return {name: check_images(rows, name, config.skip_bad_images) for name, rows in splits.items()}


def leave_out_overlap(train: Dataset, test: Dataset, allow: bool) -> tuple[Dataset, list[str]]:
    """Training rows without those whose picture is in the retrieval test split.

    Args:
        train: rows of the scene data.
        test: rows of the retrieval test split.
        allow: only look for them, and keep them.

    Returns:
        The rows, and the file names of the images that are in test, too.

    Raises:
        ImportError: imagehash is missing.
        ValueError: every training image is in the test split.
    """
    from training.leakcheck import ORIENTATIONS, find_pairs, fingerprints

    train_prints = fingerprints({"train": train}, ["as it is"])
    test_prints = fingerprints({"test": test}, list(ORIENTATIONS))
    pairs = find_pairs(train_prints, test_prints)
    overlap = sorted({pair.train.removeprefix("train/") for pair in pairs if pair.is_same})
    if allow or not overlap:
        return train, overlap
    left_out = set(overlap)
    kept = [index for index, name in enumerate(train["filename"]) if name not in left_out]
    if not kept:
        raise ValueError("Every training image is in the retrieval test split: give other --data or --test-data.")
    return train.select(kept), overlap


def pretrain(
    config: TrainConfig, tower_name: str, test_data: str | None, test_split_list: str | None, allow_overlap: bool
) -> dict[str, Any]:
    """Train the tower of a recipe on scenes and save it into `config.output_dir`, whole or not at all.

    Args:
        config: the recipe: data, the tower's sub-configuration or backbone, `instruction_epochs`...
        tower_name: "instruction" or "vision".
        test_data: where the retrieval test split is; None for the training data's own.
        test_split_list: its split list.
        allow_overlap: keep training images that are in the retrieval test split.

    Returns:
        What is in instruction.json.

    Raises:
        ValueError: bad data or settings, before any work starts.
        FloatingPointError: the loss is no number.
    """
    if not config.instruction_epochs:
        raise ValueError("instruction_epochs is 0: say how long to train (--set instruction_epochs=30).")
    out_dir = Path(config.output_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ValueError(f"{config.output_dir!r} exists already: remove it or choose another --output-dir.")
    set_seed(config.seed)
    accelerator = Accelerator()
    splits = load_scene_rows(config)
    test = load_image_captions(test_data or config.data, "test", test_split_list or config.split_list)
    train, overlap = leave_out_overlap(splits["train"], test, allow_overlap)
    if overlap:
        names = ", ".join(overlap[:NUM_LISTED]) + (", ..." if len(overlap) > NUM_LISTED else "")
        verb = "are trained on, as --allow-overlap says" if allow_overlap else "are left out"
        logger.warning("%d training images are in the retrieval test split and %s: %s", len(overlap), verb, names)
    scenes = scene_names(train)
    tower, image_size = build_tower(config, tower_name)
    processor = build_image_processor(image_size)
    options = {"image_size": image_size, "captions_per_image": 1, "cache_images": config.cache_images}
    options |= {"crop_scale": config.crop_scale, "rand_augment": config.rand_augment, "seed": config.seed}
    items = TrainItems(train, scenes, flips_and_turns=config.flips_and_turns, **options)
    validation_items = TrainItems(splits["validation"], scenes, augment=False, **options)
    measured = train_on_scenes(tower, items, validation_items, SceneCollator(processor), scenes, config, accelerator)
    facts = {
        "data": config.data, "tower": tower_name, "scenes": scenes, "train_images": len(train),
        "validation_images": len(splits["validation"]), "test_data": test_data or config.data,
        "overlap": overlap, "overlap_allowed": allow_overlap, "epochs": config.instruction_epochs,
        "learning_rate": config.instruction_learning_rate, "seed": config.seed,
    } | measured  # fmt: skip
    if accelerator.is_main_process:
        save_tower(tower, processor, facts, out_dir)
    return facts


def save_tower(tower: PreTrainedModel, processor: BaseImageProcessor, facts: dict[str, Any], out_dir: Path) -> None:
    """Write what `--init-instruction` and `backbones` read, with its facts, confusion picture and report."""
    from training.evaluation_pictures import confusion_picture

    with whole_folder(out_dir) as folder:
        tower.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2))
        title = f"Scenes of validation: {facts['scene_accuracy']:.1f} % right"
        confusion_picture(facts["confusion"], facts["scenes"], folder / "confusion.png", title)
        sections = ["# A tower that knows scenes", describe_facts(facts), "![confusion of scenes](confusion.png)"]
        (folder / "report.md").write_text("\n\n".join(sections) + "\n")


def describe_facts(facts: dict[str, Any]) -> str:
    """On what a tower was trained, in words, for reports and cards."""
    name = Path(facts["data"]).name
    words = (
        f"Trained for {facts['epochs']} epochs to tell the {len(facts['scenes'])} scenes of {name} apart "
        f"({facts['train_images']} images; {facts['scene_accuracy']:.1f} % right on its {facts['validation_images']} "
        "validation images)."
    )
    count = len(facts["overlap"])
    if count and facts["overlap_allowed"]:
        words += f" {count} of its training images are also in the retrieval test split (--allow-overlap): a LEAK."
    elif count:
        words += f" {count} images that are also in the retrieval test split were left out."
    else:
        words += " None of its training images was found in the retrieval test split."
    return words


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        "python -m training.pretrain_instruction", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="a recipe: the tower, the data, instruction_epochs...")
    parser.add_argument("--output-dir", required=True, help="folder to write, for --init-instruction or backbones")
    parser.add_argument("--tower", choices=("instruction", "vision"), default="instruction", help="which of the recipe")
    parser.add_argument("--data", help="scene data: what training.train takes, or a folder of scene folders")
    parser.add_argument("--test-data", help="data whose test split may not be trained on (default: --data)")
    parser.add_argument("--test-split-list", help="its split list (default: the recipe's)")
    parser.add_argument("--allow-overlap", action="store_true", help="train on images of that test split, too")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field of the recipe")
    args = parser.parse_args(arguments)
    try:
        given = {"output_dir": args.output_dir} | ({"data": args.data} if args.data else {})
        config = load_config(args.config, given | parse_assignments(args.set))
        facts = pretrain(config, args.tower, args.test_data, args.test_split_list, args.allow_overlap)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output_dir}: {describe_facts(facts)}")


if __name__ == "__main__":
    main()
