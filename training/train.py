"""Train PIR: from a configuration to a run folder whose `best/` loads with `PIRModel.from_pretrained`.

    python -m training.train                                             # the drawn sample, minutes on two cores
    accelerate launch -m training.train --config training/configs/rsicd.yaml
    python -m training.train --config training/configs/rsicd_mini.yaml --data FOLDER --set epochs=2

The loop is `train`, top to bottom.
"""

import argparse
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_pir import PIRModel, PIRProcessor
from training.build import build_model_and_processor
from training.config import TrainConfig, load_config, parse_assignments, save_config
from training.data import TrainCollator, TrainItems, load_image_captions, scene_names
from training.evaluate import evaluate_split
from training.gather import gather_rows
from training.optim import parameter_groups, warmup_then_decay
from training.pretrain_instruction import pretrain_instruction
from training.record import environment, finish_run

logger = logging.getLogger(__name__)
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "sample.yaml"


def load_splits(config: TrainConfig) -> dict[str, Dataset]:
    """The train, validation and test rows of the run, checked before any work starts."""
    options = {
        "split_list": config.split_list,
        "revision": config.data_revision,
        "skip_bad_images": config.skip_bad_images,
    }
    splits = {name: load_image_captions(config.data, name, **options) for name in ("train", "validation", "test")}
    num_items = len(splits["train"])
    if not config.captions_per_image:
        num_items = sum(len(captions) for captions in splits["train"]["captions"])
    if num_items < config.batch_size:
        raise ValueError(
            f"The training split of {config.data!r} gives {num_items} items, fewer than one batch of "
            f"{config.batch_size}: lower batch_size."
        )
    return splits


def make_items(rows: Dataset, scenes: list[str], config: TrainConfig, image_size: int, **options: object) -> TrainItems:
    """Training items of a split, augmented as the configuration says."""
    settings = {"captions_per_image": config.captions_per_image, "cache_images": config.cache_images} | options
    return TrainItems(
        rows,
        scenes,
        image_size=image_size,
        crop_scale=config.crop_scale,
        rand_augment=config.rand_augment,
        flips_and_turns=config.flips_and_turns,
        seed=config.seed,
        **settings,
    )


def check_loss(loss: torch.Tensor, step: int, output_dir: Path) -> None:
    """Stop at a loss that is no number, before it reaches the weights.

    Raises:
        FloatingPointError: with the step and what is left.
    """
    if not torch.isfinite(loss):
        kept = output_dir / "last"
        state = f"the model of the last whole epoch is in {kept}" if kept.exists() else "no epoch was finished"
        raise FloatingPointError(
            f"The loss is {loss.item()} at step {step}: training stopped, {state}. Lower learning_rate or max_grad_norm."
        )


def save(folder: Path, model: PIRModel, processor: PIRProcessor) -> None:
    """Write a `from_pretrained` folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(config: TrainConfig) -> Path:
    """Run the configuration.

    Args:
        config: the run.

    Returns:
        The run folder: config.yaml, environment.json, metrics.jsonl, best/, last/, test.json, pictures, report.md.

    Raises:
        ValueError: bad data or settings, before any work starts.
        FloatingPointError: the loss is no number.
    """
    accelerator = Accelerator(
        log_with=config.log_with,
        project_dir=config.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    set_seed(config.seed)
    output_dir, start = Path(config.output_dir), time.perf_counter()
    splits = load_splits(config)
    model, processor = build_model_and_processor(config, splits["train"])
    scenes = scene_names(splits["train"])
    image_size = processor.image_processor.size["height"]
    items = make_items(splits["train"], scenes, config, image_size)
    collate = TrainCollator(processor)
    loader = DataLoader(
        items, config.batch_size, shuffle=True, drop_last=True, collate_fn=collate, num_workers=config.num_workers
    )
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, output_dir / "config.yaml")
        (output_dir / "environment.json").write_text(json.dumps(environment(accelerator, splits), indent=2))
        (output_dir / "metrics.jsonl").write_text("")
    prior = prepare_instruction(model, splits, scenes, collate, config, image_size, accelerator)
    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, config.learning_rate, config.adam_betas, eps=1e-8)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    num_steps = config.epochs * len(loader)
    # Not prepared: accelerate would step it once per process, but num_steps already counts updates.
    scheduler = warmup_then_decay(optimizer.optimizer, num_steps, config.warmup_ratio, config.schedule)
    accelerator.init_trackers("pir", dataclasses.asdict(config) if config.log_with else None)
    plain = accelerator.unwrap_model(model)
    progress = tqdm(total=num_steps, desc="training", disable=not accelerator.is_main_process)
    step, best = 0, None
    for epoch in range(config.epochs):
        items.set_epoch(epoch)
        loader.set_epoch(epoch)
        model.train()
        for batch in loader:
            image_ids, scene_labels = batch.pop("image_ids"), batch.pop("scene_labels")
            outputs = model(**batch)
            losses = plain.compute_loss(
                gather_rows(outputs.image_embeds),
                gather_rows(outputs.text_embeds),
                gather_rows(image_ids),
                gather_rows(scene_labels),
                gather_rows(torch.full_like(image_ids, accelerator.process_index)),
            )
            check_loss(losses.loss.detach(), step, output_dir)
            accelerator.backward(losses.loss)
            grad_norm = None
            if config.max_grad_norm:
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            progress.update()
            if step % config.log_every == 0:  # one process writes; reading the loss waits for the device
                record = {"step": step, "epoch": epoch} | scalars(losses, grad_norm, scheduler, plain)
                progress.set_postfix(loss=f"{record['loss']:.3f}")
                write_record(accelerator, output_dir, record, step)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            save(output_dir / "last", plain, processor)
            if (epoch + 1) % config.evaluate_every == 0 or epoch + 1 == config.epochs:
                metrics = evaluate_split(plain, processor, splits["validation"], config.evaluation_batch_size)
                record = {"epoch": epoch, "step": step, "split": "validation"} | metrics
                write_record(accelerator, output_dir, record, step)
                progress.write(f"epoch {epoch}: validation mR {metrics['mR']:.2f}")
                if best is None or metrics["mR"] > best["mR"]:
                    best = record
                    save(output_dir / "best", plain, processor)
        accelerator.wait_for_everyone()
    progress.close()
    if accelerator.is_main_process:
        finish_run(config, splits, best, prior, time.perf_counter() - start)
    accelerator.end_training()
    return output_dir


def prepare_instruction(
    model: PIRModel,
    splits: dict[str, Dataset],
    scenes: list[str],
    collate: TrainCollator,
    config: TrainConfig,
    image_size: int,
    accelerator: Accelerator,
) -> dict[str, float] | None:
    """Load the prior's weights, or train it on scenes, as the configuration says; returns what was measured."""
    if config.init_instruction is not None:
        from modeling_pir.convert_backbones import load_instruction_weights

        logger.info("Instruction encoder: %s", load_instruction_weights(model, config.init_instruction))
    if not config.instruction_epochs or model.instruction_model is None:
        return None
    items = make_items(splits["train"], scenes, config, image_size, captions_per_image=1)
    plain_items = TrainItems(splits["validation"], scenes, captions_per_image=1, image_size=image_size, augment=False)
    validation = DataLoader(plain_items, config.evaluation_batch_size, collate_fn=collate)
    return pretrain_instruction(model, items, validation, collate, len(scenes), config, accelerator)


def scalars(losses: object, grad_norm: torch.Tensor | None, scheduler: object, model: PIRModel) -> dict[str, float]:
    """What a line of metrics.jsonl says of a step; temperatures as the factors that multiply cosines."""
    record = {"loss": losses.loss.item(), "contrastive_loss": losses.contrastive_loss.item()}
    if losses.affiliation_loss is not None:
        record["affiliation_loss"] = losses.affiliation_loss.item()
    if grad_norm is not None:
        record["grad_norm"] = float(grad_norm)
    return record | {"learning_rate": scheduler.get_last_lr()[0], "logit_scale": model.logit_scale.exp().item()}


def write_record(accelerator: Accelerator, output_dir: Path, record: dict, step: int) -> None:
    """Append a line to metrics.jsonl and hand it to the trackers, on the main process."""
    if not accelerator.is_main_process:
        return
    with (output_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    accelerator.log({key: value for key, value in record.items() if isinstance(value, int | float)}, step=step)


def parse_args(arguments: list[str] | None = None) -> TrainConfig:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m training.train", description="Train PIR.", allow_abbrev=False)
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="YAML file of TrainConfig (default: the drawn sample)")
    parser.add_argument("--output-dir", help="run folder (default: the configuration's)")
    parser.add_argument("--data", help="data source: a known name, a Hub id, a folder or a CSV")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--init-instruction", help="weights of the instruction encoder: a .pth or a saved tower")
    parser.add_argument("--skip-bad-images", action="store_true", default=None, help="leave unreadable images out")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field, e.g. epochs=3")
    values = vars(parser.parse_args(arguments))
    path, assignments = values.pop("config"), values.pop("set")
    given = {name: value for name, value in values.items() if value is not None}
    return load_config(path, given | parse_assignments(assignments))


def main() -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder = train(parse_args())
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    print(f"{folder / 'report.md'} is the report; {folder / 'best'} loads with PIRModel.from_pretrained.")


if __name__ == "__main__":
    main()
