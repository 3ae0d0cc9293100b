r"""Train a tower as a scene classifier, to be used as the prior or as a vision tower.

    python -m training.pretrain_tower --config training/configs/rsicd_mini.yaml --data FOLDER \
        --output-dir towers/rsicd
    python -m training.train --config training/configs/rsicd_mini.yaml --data FOLDER --init-instruction towers/rsicd
    python -m training.pretrain_tower --config training/configs/rsicd.yaml --data AID_FOLDER \
        --test-data RSICD_FOLDER --allow-overlap --output-dir towers/aid  # the recipe of the paper, with its overlap

The paper's prior is a ResNet-50 trained on AID's scenes. The official code builds it but loads none of its weights, so
a random network instructs there. RSICD's images come in part from AID: a prior trained on all of AID has seen test
images. Here a training image that is in the retrieval test or validation split (`training.leakcheck`: turned or
mirrored, too) is left out, unless `--allow-overlap`, which report and card then state.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from transformers import BaseImageProcessor, PreTrainedModel

from modeling_pir.errors import one_sentence
from modeling_pir.hub.whole_folder import whole_folder
from modeling_pir.processing_pir import build_image_processor
from training.config import TrainConfig, load_config, parse_assignments
from training.data.duplicates import leave_out_overlap
from training.data.items import TrainItems
from training.data.rows import scene_names
from training.data.sources import load_image_captions, load_scene_rows
from training.model.build import build_tower
from training.model.provenance import FACTS_FILE, describe_facts
from training.model.scene_classifier import SceneCollator, train_on_scenes
from training.train import build_accelerator

logger = logging.getLogger(__name__)
NUM_LISTED = 5


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
        FloatingPointError: the loss is not finite.
    """
    if not config.instruction_epochs:
        raise ValueError("instruction_epochs is 0: say how long to train (--set instruction_epochs=30).")
    out_dir = Path(config.output_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ValueError(f"{config.output_dir!r} exists already: remove it or choose another --output-dir.")
    accelerator = build_accelerator(config)
    set_seed(config.seed)
    splits = load_scene_rows(config)
    train, overlaps = splits["train"], {}
    for split in ("validation", "test"):  # a prior that knows validation would choose the epoch that suits it
        rows = load_image_captions(test_data or config.data, split, test_split_list or config.split_list)
        train, overlaps[split] = leave_out_overlap(train, rows, allow_overlap)
    if any(overlaps.values()):
        overlap = sorted({name for names in overlaps.values() for name in names})
        names = ", ".join(overlap[:NUM_LISTED]) + (", ..." if len(overlap) > NUM_LISTED else "")
        verb = "are trained on, as --allow-overlap says" if allow_overlap else "are left out"
        logger.warning("%d training images are in other retrieval splits and %s: %s", len(overlap), verb, names)
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
        "overlap": overlaps["test"], "overlap_validation": overlaps["validation"], "overlap_allowed": allow_overlap,
        "epochs": config.instruction_epochs,
        "learning_rate": config.instruction_learning_rate, "seed": config.seed,
    } | measured  # fmt: skip
    if accelerator.is_main_process:
        save_tower(tower, processor, facts, out_dir)
    return facts


def save_tower(tower: PreTrainedModel, processor: BaseImageProcessor, facts: dict[str, Any], out_dir: Path) -> None:
    """Write what `--init-instruction` and `backbones` read, with its facts, confusion picture and report."""
    from training.report.pictures import confusion_picture

    with whole_folder(out_dir) as folder:
        tower.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2))
        title = f"Scenes of validation: {facts['scene_accuracy']:.1f} % right"
        confusion_picture(facts["confusion"], facts["scenes"], folder / "confusion.png", title)
        sections = ["# A tower that knows scenes", describe_facts(facts), "![confusion of scenes](confusion.png)"]
        (folder / "report.md").write_text("\n\n".join(sections) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        "python -m training.pretrain_tower", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--config", required=True, help="YAML file of TrainConfig: the tower, the data, instruction_epochs..."
    )
    parser.add_argument("--output-dir", required=True, help="folder to write, for --init-instruction or backbones")
    parser.add_argument(
        "--tower",
        choices=("instruction", "vision"),
        default="instruction",
        help="which tower of the recipe to train (default: %(default)s)",
    )
    parser.add_argument("--data", help="scene data: as in training.train, or a folder with one folder per scene")
    parser.add_argument("--test-data", help="data whose test images are left out of training (default: --data)")
    parser.add_argument("--test-split-list", help="its split list (default: the recipe's)")
    parser.add_argument("--allow-overlap", action="store_true", help="train on images of that test split as well")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set any field of the recipe")
    args = parser.parse_args(arguments)
    with one_sentence():
        given = {"output_dir": args.output_dir} | ({"data": args.data} if args.data else {})
        config = load_config(args.config, given | parse_assignments(args.set))
        facts = pretrain(config, args.tower, args.test_data, args.test_split_list, args.allow_overlap)
    print(f"{args.output_dir}: {describe_facts(facts)}")


if __name__ == "__main__":
    main()
