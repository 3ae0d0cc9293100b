"""The record of a run: where it ran and on what, its test result, its pictures and its report."""

import copy
import json
import os
import platform
import subprocess
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from transformers import AutoModel

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.explain import belief_maps, belief_picture, curves_picture, object_keep_ratio, retrieval_gallery
from modeling_pir.hub import weights_hash
from training.config import TrainConfig
from training.data import fingerprint
from training.evaluate import SplitEmbeddings, decoded_images, embed_split, embeddings_metrics
from training.memory import peak_memory
from training.metrics import chance_metrics
from training.pretrain_instruction import FACTS_FILE, describe_facts
from training.prune_text import PRUNED_FILE, describe_pruned
from training.stream import Stream

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "torchvision", "timm", "numpy", "pillow")
METRICS = ("i2t_R@1", "i2t_R@5", "i2t_R@10", "t2i_R@1", "t2i_R@5", "t2i_R@10", "mR")
NUM_RANDOM_PRIORS = 5  # random instruction encoders that a trained one is compared with; one alone may be lucky
NUM_BELIEF_IMAGES = 4
PICTURE_SEED = 0  # of the images and captions shown; the same for every run, so that runs can be compared


def environment(accelerator: Accelerator, splits: dict[str, Dataset | Stream]) -> dict[str, Any]:
    """What a run depends on beside its configuration.

    Args:
        accelerator: of the run.
        splits: name to rows.

    Returns:
        Start (UTC), commit, versions, hardware, precision and the facts of every split, ready for JSON.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **git_state(ROOT),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": _device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": {"no": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast"}.get(
            accelerator.mixed_precision, accelerator.mixed_precision
        ),
        "torch_threads": torch.get_num_threads(),
        "splits": {name: split_facts(rows) for name, rows in splits.items()},
    }


def git_state(folder: Path) -> dict[str, str | bool | None]:
    """Commit of a checkout and whether its tracked files were changed; both None where there is no git checkout."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or the folder is no checkout
        return {"commit": None, "uncommitted_changes": None}
    return {"commit": commit.strip(), "uncommitted_changes": bool(changes.strip())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # timm is optional
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} {device.type.upper()}, {os.cpu_count()} cores"


def split_facts(rows: Dataset | Stream) -> dict[str, int | str | None]:
    """Counts of a split, and a fingerprint that changes with any file name, caption or their order.

    Args:
        rows: with `filename` and `captions`; of a stream nothing is read.

    Returns:
        `images`, `captions`, `distinct_captions`, `shared_captions` (captions that another image has, too, word for
        word) and `fingerprint`; of a stream `images` (None where it does not say) and `fingerprint` alone.
    """
    if isinstance(rows, Stream):
        return {"images": rows.num_rows, "fingerprint": rows.fingerprint}
    captions = list(rows["captions"])
    num_images_with = Counter(caption for of_image in captions for caption in set(of_image))
    return {
        "images": len(captions),
        "captions": sum(len(of_image) for of_image in captions),
        "distinct_captions": len(num_images_with),
        "shared_captions": sum(num_images_with[caption] > 1 for of_image in captions for caption in of_image),
        "fingerprint": fingerprint(rows),
    }


def finish_run(
    config: TrainConfig,
    splits: dict[str, Dataset],
    state: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate the best model on test, once, and write test.json, the pictures and report.md into the run folder.

    Args:
        config: of the run; its folder holds environment.json, metrics.jsonl and best/.
        splits: name to rows.
        state: of the run: `best`, the validation record of the epoch that was kept in best/; `prior`, what
            `train_on_scenes` measured, or None; `seconds` since its start, `seconds_waiting` for batches and
            `seconds_in_steps`.

    Returns:
        What is in test.json.
    """
    best, prior = state["best"], state["prior"]
    folder = Path(config.output_dir)
    model = PIRModel.from_pretrained(folder / "best").to(PartialState().device)
    processor = PIRProcessor.from_pretrained(folder / "best")
    rows, batch_size = splits["test"], config.evaluation_batch_size
    embeddings = embed_split(model, processor, rows, batch_size)
    test = {"split": "test", "epoch": best["epoch"], "weights_sha256": weights_hash(folder / "best")}
    test |= embeddings_metrics(embeddings)
    test["chance"] = chance_metrics(embeddings.text_to_image)
    if config.init_from is not None:
        test["before"] = metrics_before(config, rows)
    if model.config.has_instruction and "boxes" in rows.column_names:
        test["objects"] = object_keeping(model, processor, rows, batch_size)
    test["instruction"] = describe_prior(config, model, prior)
    draw_pictures(folder, model, processor, splits, embeddings, test.get("objects"))
    waiting, stepping = state["seconds_waiting"], state["seconds_in_steps"]
    loader_wait = waiting / (waiting + stepping) if stepping else None  # an old checkpoint, resumed after its last step
    test |= {"seconds_of_run": state["seconds"], "loader_wait": loader_wait, "peak_memory_gib": peak_memory()}
    (folder / "test.json").write_text(json.dumps(test, indent=2))
    (folder / "report.md").write_text(write_report(config, model, best, test, prior))
    return test


def object_keeping(model: PIRModel, processor: PIRProcessor, rows: Dataset, batch_size: int) -> dict[str, Any]:
    """How often patches with objects are kept against all patches, as instructed by the model and by random priors.

    Args:
        model: with an instruction; it is not changed.
        processor: its processor.
        rows: with `boxes`, lists of (left, top, right, bottom) as shares of the image.
        batch_size: images encoded at once.

    Returns:
        `images` with objects; `keep_ratio` of the model (see `object_keep_ratio`); `random_keep_ratios`, the same with
        the instruction encoder's weights redrawn and all else left; `kept_share` of all patches; `ceiling`, 1 / that.
    """
    rows = _with_boxes(rows)
    boxes = list(rows["boxes"])
    kept = [belief.kept for belief in belief_maps(model, processor, decoded_images(rows), batch_size)]
    kept_share = float(np.mean(kept))
    random_model, random_keep_ratios = copy.deepcopy(model), []
    for seed in range(NUM_RANDOM_PRIORS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = AutoModel.from_config(model.config.instruction_config)
        random_model.instruction_model = encoder.to(model.device).eval()
        beliefs = belief_maps(random_model, processor, decoded_images(rows), batch_size)
        random_keep_ratios.append(object_keep_ratio([belief.kept for belief in beliefs], boxes))
    return {
        "images": len(boxes),
        "keep_ratio": object_keep_ratio(kept, boxes),
        "random_keep_ratios": random_keep_ratios,
        "kept_share": kept_share,
        "ceiling": 1 / kept_share,
    }


def draw_pictures(
    folder: Path,
    model: PIRModel,
    processor: PIRProcessor,
    splits: dict[str, Dataset],
    embeddings: SplitEmbeddings,
    objects: dict[str, Any] | None,
) -> None:
    """Write curves.png, gallery.png and, with an instruction, belief.png into the run folder.

    Args:
        folder: of the run, with metrics.jsonl.
        model: the best one.
        processor: its processor.
        splits: name to rows.
        embeddings: of the test split.
        objects: of `object_keeping`, for the caption of belief.png.
    """
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    num_captions = torch.tensor([len(captions) for captions in splits["validation"]["captions"]])
    validation_chance = chance_metrics(torch.arange(len(num_captions)).repeat_interleave(num_captions))
    curves_picture(records, folder / "curves.png", validation_chance)
    rows = splits["test"]
    retrieval_gallery(
        embeddings.image_embeds,
        embeddings.text_embeds,
        embeddings.texts,
        rows["image"],
        embeddings.text_to_image,
        folder / "gallery.png",
        seed=PICTURE_SEED,
    )
    if model.config.has_instruction:
        shown = _with_boxes(rows) if objects else rows
        shown = shown.shuffle(seed=PICTURE_SEED).select(range(min(NUM_BELIEF_IMAGES, len(shown))))
        caption = f"{len(shown)} test images, drawn at random (seed {PICTURE_SEED}), not chosen by result."
        if objects:
            caption += " " + describe_objects(objects)
        titles = [captions[0] for captions in shown["captions"]]
        boxes = list(shown["boxes"]) if objects else None
        belief_picture(model, processor, list(decoded_images(shown)), titles, folder / "belief.png", boxes, caption)


def _with_boxes(rows: Dataset) -> Dataset:
    return rows.select([index for index, boxes in enumerate(rows["boxes"]) if len(boxes)])


def describe_objects(objects: dict[str, Any]) -> str:
    """What `object_keeping` measured, in words."""
    ratios = objects["random_keep_ratios"]
    return (
        f"On the {objects['images']} test images with objects, patches with objects are kept "
        f"{objects['keep_ratio']:.2f} times as often as patches at large (1 says nothing; "
        f"{objects['ceiling']:.2f} is the most that can be reached where {objects['kept_share']:.0%} of the patches "
        f"are kept). With {len(ratios)} random instruction encoders in place of this one: "
        f"{sum(ratios) / len(ratios):.2f} times (from {min(ratios):.2f} to {max(ratios):.2f})."
    )


def describe_prior(config: TrainConfig, model: PIRModel, prior: dict[str, float] | None) -> str:
    """Where the instruction encoder's weights come from."""
    if not model.config.has_instruction:
        return "None: this model has no instruction."
    if config.init_from is not None:
        origin = f"as it is in {_name(config.init_from)}"
    elif config.init_instruction is not None:
        origin = f"loaded from {_name(config.init_instruction)}"
    elif config.backbones is not None:
        origin = f"loaded from {_name(config.backbones['instruction'])}"
    else:
        origin = "random weights"
    sentence = f"Start: {origin}."
    if known := describe_starts(config).get("instruction"):
        sentence += f" {known}"
    if prior is not None:
        sentence += (
            f" Then trained for {config.instruction_epochs} epochs to tell the scenes of the training split apart "
            f"({prior['scene_accuracy']:.1f} % right on validation, {prior['seconds']:.0f} seconds)."
        )
    frozen = model.config.freeze_instruction_encoder
    return sentence + (" Frozen in the joint training." if frozen else " Trained on in the joint training.")


def metrics_before(config: TrainConfig, rows: Dataset) -> dict[str, float]:
    """Test metrics of the model that a fine-tuning started from, on the same images and captions."""
    model = PIRModel.from_pretrained(config.init_from).to(PartialState().device)
    processor = PIRProcessor.from_pretrained(config.init_from)
    return embeddings_metrics(embed_split(model, processor, rows, config.evaluation_batch_size))


def _name(source: str) -> str:
    """A Hub id as it is; of a folder or a file its name, because the words go into the published card."""
    return Path(source).name if Path(source).exists() else source


def describe_starts(config: TrainConfig) -> dict[str, str]:
    """What is known of the towers that a run starts from, by part: those that a command of this package made."""
    folders = dict(config.backbones or {})
    folders |= {"vision": config.init_vision} if config.init_vision else {}
    folders |= {"instruction": config.init_instruction} if config.init_instruction else {}
    starts = {}
    for part, folder in folders.items():
        for name, describe in ((FACTS_FILE, describe_facts), (PRUNED_FILE, describe_pruned)):
            path = Path(folder, name)
            if path.is_file():
                starts[part] = describe(json.loads(path.read_text()))
    return starts


def write_report(
    config: TrainConfig, model: PIRModel, best: dict[str, Any], test: dict[str, Any], prior: dict[str, float] | None
) -> str:
    """The report of a run as Markdown.

    Args:
        config: of the run, whose folder holds environment.json.
        model: the best one.
        best: its validation record.
        test: what goes into test.json.
        prior: see `finish_run`.

    Returns:
        The text; every number of its table is one of `best` or `test`, rounded to two decimals.
    """
    facts = json.loads((Path(config.output_dir) / "environment.json").read_text())
    sections = [
        f"# Run {Path(config.output_dir).name}",
        _training_section(config, model, facts),
        "## Result",
        _result_table(best, test),
        _protocol_section(config, best, facts["splits"]["test"]),
        "## Instruction encoder",
        test["instruction"],
    ]
    if "objects" in test:
        sections.append(describe_objects(test["objects"]))
    sections += ["## Pictures", "![training curves](curves.png)", "![retrieval gallery](gallery.png)"]
    if model.config.has_instruction:
        sections.append("![belief maps](belief.png)")
    sections += ["## Where and how long", _environment_section(test, facts), "## Use it", _usage_section(config)]
    return "\n\n".join(sections) + "\n"


def _training_section(config: TrainConfig, model: PIRModel, facts: dict[str, Any]) -> str:
    split = facts["splits"]["train"]
    millions = (model.num_parameters() / 1e6, model.num_parameters(only_trainable=True) / 1e6)
    start = config.init_from or (", ".join(config.backbones.values()) if config.backbones else "random weights")
    if config.init_vision is not None:
        start += f", the vision tower from {_name(config.init_vision)}"
    source = f"`{config.data}`" + (f", splits of `{config.split_list}`" if config.split_list else "")
    source += f", revision `{config.data_revision}`" if config.data_revision else ""
    lines = [
        f"PIR with {millions[0]:.1f} M parameters ({millions[1]:.1f} M trained), from {start}.",
        f"Data: {source}; {_count_words(split)}.",
        f"{config.epochs} epochs in batches of {config.batch_size}, AdamW at a peak learning rate "
        f"of {config.learning_rate:g}, {config.schedule} schedule, seed {config.seed}; all settings are in "
        "[config.yaml](config.yaml).",
    ]
    if config.data == "sample":
        lines.append(
            "These images are drawn by code: the numbers show that the model learns, not how it does on real ones."
        )
    return "\n".join(lines)


def _count_words(split: dict[str, Any]) -> str:
    if "captions" in split:
        return f"{split['images']} training images with {split['captions']} captions"
    return f"{split['images'] or 'an unknown number of'} training images, streamed"


def _result_table(best: dict[str, Any], test: dict[str, Any]) -> str:
    header = " | ".join(name.replace("i2t_", "image to text ").replace("t2i_", "text to image ") for name in METRICS)
    rows = {f"validation, epoch {best['epoch'] + 1}": best, "**test**": test}
    if "before" in test:
        rows["test, before fine-tuning"] = test["before"]
    rows["test, chance"] = test["chance"]
    lines = [f"| percent | {header} |", "|---" + "|---:" * len(METRICS) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{row[key]:.2f}" for key in METRICS) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def _protocol_section(config: TrainConfig, best: dict[str, Any], split: dict[str, Any]) -> str:
    shared = split["shared_captions"]
    also = f" ({shared} of them are, word for word, captions of another image, too)" if shared else ""
    return (
        f"Epoch {best['epoch'] + 1} of {config.epochs} had the highest validation mR of those evaluated (every "
        f"{config.evaluate_every}) and was kept; the test split was evaluated once, with that model, after training. "
        f"One seed ({config.seed}): the spread over seeds is not known.\n\n"
        f"Test has {split['images']} images with {split['captions']} captions{also}. Only the image that a caption was "
        "written for counts as right; an image counts as found by the first of its captions. A wrong candidate that "
        "scores as high as the right one counts as ranked before it. mR is the mean of the six recalls."
    )


def _environment_section(test: dict[str, Any], facts: dict[str, Any]) -> str:
    changed = " with uncommitted changes" if facts["uncommitted_changes"] else ""
    memory = "not measured on this system" if test["peak_memory_gib"] is None else f"{test['peak_memory_gib']:.2f} GiB"
    waiting = "not measured" if test["loader_wait"] is None else f"{test['loader_wait']:.1%} of the time of the steps"
    processes = f"processes: {facts['processes']}, threads: {facts['torch_threads']}"
    packages = ", ".join(f"{name} {value}" for name, value in facts["packages"].items() if value is not None)
    return "\n".join(
        [
            f"- {facts['device']}; {processes}; {facts['precision']}",
            f"- started {facts['started']}, {test['seconds_of_run'] / 60:.1f} minutes to the end of training",
            f"- waiting for the loader: {waiting}",
            f"- peak memory of the main process, evaluation and pictures included: {memory}",
            f"- commit {facts['commit'] or 'unknown'}{changed}",
            f"- Python {facts['python']}, {packages}",
        ]
    )


def _usage_section(config: TrainConfig) -> str:
    folder = Path(config.output_dir) / "best"
    return f"""```python
from modeling_pir import PIRModel, PIRProcessor

model = PIRModel.from_pretrained("{folder}")
processor = PIRProcessor.from_pretrained("{folder}")
```

```
python -m training.evaluate --model {folder} --data {config.data} --split test
```"""
