"""Train PIR: from a configuration to a run folder whose `best/` loads with `PIRModel.from_pretrained`.

    python -m training.train                                             # the drawn sample, minutes on two cores
    accelerate launch -m training.train --config training/configs/rsicd.yaml
    python -m training.train --config training/configs/rsicd_mini.yaml --data FOLDER --set epochs=2
    python -m training.train --config runs/NAME/config.yaml --resume     # go on where it was killed

The loop is `train`, top to bottom. A run that gets SIGTERM saves itself and exits with code 75.
"""

import argparse
import dataclasses
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from training.augment import Augmentation
from training.build import add_lora, build_model_and_processor, freeze_modules, without_adapters
from training.checkpoint import (
    EXIT_PREEMPTED,
    Preempted,
    check_resumable,
    checkpoints,
    disk_full,
    load_checkpoint,
    recover_folder,
    save_checkpoint,
    seed_step,
    write_folder,
)
from training.config import TrainConfig, load_config, parse_assignments, save_config
from training.data import TrainCollator, TrainItems, load_image_captions, scene_names
from training.evaluate import evaluate_split
from training.grad_cache import cached_backward, joint_losses
from training.optim import parameter_groups, warmup_then_decay
from training.pretrain_instruction import SceneCollator, train_on_scenes
from training.raw_temperatures import train_raw_temperatures
from training.record import describe_starts, environment, finish_run, split_facts
from training.sharding import check_sharding, prepare_sharding, whole_model
from training.stream import Stream, StreamItems, StreamLoader, in_memory, open_streams

logger = logging.getLogger(__name__)
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "sample.yaml"
NEW_RUN = {
    "epoch": 0, "step": 0, "step_in_epoch": 0, "records": 0, "best": None, "prior": None,
    "seconds": 0.0, "seconds_waiting": 0.0, "seconds_in_steps": 0.0,
}  # fmt: skip


def load_splits(config: TrainConfig) -> dict[str, Dataset | Stream]:
    """The train, validation and test rows of the run, checked before any work starts."""
    if config.streaming:
        return load_streamed_splits(config)
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
    check_scenes(config, splits["train"])
    return splits


def load_streamed_splits(config: TrainConfig) -> dict[str, Dataset | Stream]:
    """The training shards as they are, validation and test in memory and checked.

    Scenes are those of validation, because only reading all shards would tell which the training split has.
    """
    streams = open_streams(config.data, config.data_revision)
    for name in ("train", "validation", "test"):
        if name not in streams:
            raise ValueError(f"There is no split {name!r} in {config.data!r}: its shards are {', '.join(streams)}.")
    splits = {name: in_memory(streams[name], name, config.skip_bad_images) for name in ("validation", "test")}
    check_scenes(config, splits["validation"])
    return {"train": streams["train"]} | splits


def check_scenes(config: TrainConfig, rows: Dataset) -> None:
    """One sentence where the affiliation loss is on and no row names a scene."""
    affiliation_weight = config.model.get("affiliation_weight", PIRConfig.affiliation_weight)
    if affiliation_weight and not any(rows["scene"]):
        raise ValueError(
            f"{config.data!r} names no scenes, which the affiliation loss needs: add a scene column, or train without "
            "that loss (--set model.affiliation_weight=0)."
        )


def make_items(
    rows: Dataset, scenes: list[str], config: TrainConfig, processor: PIRProcessor, **options: object
) -> TrainItems:
    """Training items of a split, augmented as the configuration says."""
    settings = {"captions_per_image": config.captions_per_image, "cache_images": config.cache_images} | options
    return TrainItems(
        rows,
        scenes,
        image_size=processor.image_processor.size["height"],
        crop_scale=config.crop_scale,
        rand_augment=config.rand_augment,
        flips_and_turns=config.flips_and_turns,
        seed=config.seed,
        **settings,
    )


def build_loader(
    config: TrainConfig,
    rows: Dataset | Stream,
    scenes: list[str],
    processor: PIRProcessor,
    accelerator: Accelerator,
) -> DataLoader | StreamLoader:
    """The loader of the training split, not prepared: a stream's has this process's share already."""
    collate = TrainCollator(processor)
    if not config.streaming:
        items = make_items(rows, scenes, config, processor)
        return DataLoader(
            items, config.batch_size, shuffle=True, drop_last=True, collate_fn=collate, num_workers=config.num_workers
        )
    image_size = processor.image_processor.size["height"]
    items = StreamItems(
        rows,
        scenes,
        config.captions_per_image,
        Augmentation(image_size, config.crop_scale, config.rand_augment, config.flips_and_turns),
        config.shuffle_buffer,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        config.num_workers,
        config.skip_bad_images,
    )
    return StreamLoader(items, collate, config.batch_size, config.steps_per_epoch, accelerator)


def epoch_batches(
    accelerator: Accelerator, loader: DataLoader | StreamLoader, epoch: int, start: int
) -> Iterable[dict[str, torch.Tensor]]:
    """The batches of an epoch from step `start` of it on, the same whether or not those before were asked for."""
    if isinstance(loader, StreamLoader):
        return loader.epoch(epoch, start)
    loader.dataset.set_epoch(epoch)
    batches = accelerator.skip_first_batches(loader, start) if start else loader
    batches.set_epoch(epoch)
    return batches


def timed(batches: Iterable[dict], state: dict[str, Any]) -> Iterable[dict]:
    """Hand on batches; the seconds waited for them, and those of their steps, are added to the state.

    A GPU may still be busy while the next batch is waited for, so what waiting costs is this at most.
    """
    before = time.perf_counter()
    for batch in batches:
        arrived = time.perf_counter()
        state["seconds_waiting"] += arrived - before
        yield batch
        before = time.perf_counter()
        state["seconds_in_steps"] += before - arrived


def check_loss(loss: torch.Tensor, step: int, output_dir: Path) -> None:
    """Stop at a loss that is no number, before it reaches the weights.

    Raises:
        FloatingPointError: with the step and what is left.
    """
    if not torch.isfinite(loss):
        kept = output_dir / "last"
        state = f"the model of the last whole epoch is in {kept}" if kept.exists() else "no epoch was finished"
        raise FloatingPointError(
            f"The loss is {loss.item()} at step {step}: training stopped, {state}. Lower learning_rate."
        )


def save(folder: Path, model: PIRModel, processor: PIRProcessor, save_dtype: str) -> None:
    """Write a `from_pretrained` folder, whole or not at all.

    Matrices are stored in `save_dtype`; vectors and statistics of norms, which weigh nothing, in float32. config.json
    still says float32, in which `from_pretrained` then computes.
    """

    def write(partial: Path) -> None:
        plain = without_adapters(model)
        matrices = {name for name, parameter in plain.named_parameters() if parameter.dim() > 1}
        dtype = getattr(torch, save_dtype)
        state = {name: value.to(dtype) if name in matrices else value for name, value in plain.state_dict().items()}
        plain.save_pretrained(partial, state_dict=state)
        processor.save_pretrained(partial)

    write_folder(folder, write)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """The engine: a batch of the configuration is cut into equal parts, one for each process."""
    accelerator = Accelerator(
        log_with=config.log_with,
        project_dir=config.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed, split_batches=True),
    )
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size is {config.batch_size}, which cannot be shared equally by {accelerator.num_processes} "
            "processes: choose a multiple."
        )
    check_sharding(accelerator, config)
    return accelerator


def build_model(config: TrainConfig, splits: dict[str, Dataset | Stream]) -> tuple[PIRModel, PIRProcessor]:
    """Model and processor of the run, with what it freezes and adapts."""
    model, processor = build_model_and_processor(config, splits["train"])
    live_statistics = not (model.config.freeze_instruction_encoder and model.config.freeze_instruction_batch_norm)
    if config.chunk_size and live_statistics and model.config.has_instruction:
        raise ValueError(
            f"chunk_size is {config.chunk_size}, but the instruction encoder's BatchNorm is live: its statistics would "
            "depend on the chunks. Freeze it (freeze_instruction_batch_norm) or set chunk_size to 0."
        )
    if config.lora_rank:
        add_lora(model, config.lora_rank)
    freeze_modules(model, config.freeze)
    return model, processor


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Run the configuration.

    Args:
        config: the run.
        resume: go on from the newest checkpoint of the run in `config.output_dir`, exactly.

    Returns:
        The run folder: config.yaml, environment.json, metrics.jsonl, best/, last/, test.json, pictures, report.md.

    Raises:
        ValueError: bad data or settings, before any work starts.
        FloatingPointError: the loss is no number.
        Preempted: SIGTERM came; the run has saved itself.
    """
    accelerator = build_accelerator(config)
    set_seed(config.seed)
    stop = stop_at_sigterm()
    output_dir, start = Path(config.output_dir), time.perf_counter()
    splits = load_splits(config)
    model, processor = build_model(config, splits)
    scenes = scene_names(splits["validation" if config.streaming else "train"])
    loader = build_loader(config, splits["train"], scenes, processor, accelerator)
    open_run(config, splits, accelerator, resume)
    prior = None
    if not checkpoints(output_dir):  # else its weights and figures come with the checkpoint
        prior = prepare_instruction(model, splits, scenes, config, processor, accelerator)
    whole = prepare_sharding(accelerator, config, model)
    groups = parameter_groups(model, config.weight_decay, config.learning_rate, config.layer_decay)
    adamw = torch.optim.AdamW(groups, betas=config.adam_betas, eps=1e-8, fused=True)
    num_steps = config.epochs * len(loader)
    model, optimizer = accelerator.prepare(model, adamw)
    loader = loader if config.streaming else accelerator.prepare(loader)
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    if config.raw_temperatures:  # behind prepare, which moves the scales to the device; before the schedule
        train_raw_temperatures(plain, adamw, config.weight_decay)
    # Not prepared: accelerate would step it once per process, but num_steps already counts updates.
    scheduler = warmup_then_decay(adamw, num_steps, config.warmup_ratio, config.schedule)
    accelerator.register_for_checkpointing(scheduler)
    accelerator.init_trackers("pir", dataclasses.asdict(config) if config.log_with else None)
    state = NEW_RUN | (load_checkpoint(accelerator, output_dir) or {"prior": prior})
    keep_records(accelerator, output_dir, state["records"])
    save_checkpoint(accelerator, output_dir, state)
    progress = tqdm(total=num_steps, initial=state["step"], desc="training", disable=not accelerator.is_main_process)
    for epoch in range(state["epoch"], config.epochs):
        model.train()
        for batch in timed(epoch_batches(accelerator, loader, epoch, state["step_in_epoch"]), state):
            seed_step(config.seed, state["step"], accelerator.process_index)
            ids = batch.pop("image_ids"), batch.pop("scene_labels")
            if config.chunk_size:
                losses = cached_backward(accelerator, model, batch, *ids, config.chunk_size)
            else:
                outputs = model(**batch)
                losses = joint_losses(plain, outputs.image_embeds, outputs.text_embeds, *ids, accelerator.process_index)
                accelerator.backward(losses.loss)
            check_loss(losses.loss.detach(), state["step"], output_dir)
            grad_norm = None
            if config.max_grad_norm:
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            state["step"] += 1
            state["step_in_epoch"] += 1
            progress.update()
            if state["step"] % config.log_every == 0:  # one process writes; reading the loss waits for the device
                record = {"step": state["step"], "epoch": epoch} | scalars(losses, grad_norm, scheduler, plain)
                progress.set_postfix(loss=f"{record['loss']:.3f}")
                write_record(accelerator, output_dir, record, state)
            told_to_stop = is_told_to_stop(accelerator, stop)
            is_due = config.checkpoint_every and state["step"] % config.checkpoint_every == 0
            if told_to_stop or (is_due and state["step_in_epoch"] < len(loader)):
                save_checkpoint(accelerator, output_dir, since(state, start))
            if told_to_stop:
                raise Preempted(f"Stopped by SIGTERM at step {state['step']}; --resume goes on from there.")
        accelerator.wait_for_everyone()
        full = whole_model(accelerator, model, whole)
        if accelerator.is_main_process:
            close_epoch(config, accelerator, full, processor, splits["validation"], epoch, state)
        if whole is not None:
            whole.cpu()  # training needs its place on the device
        # Only the main process knows the best epoch and the number of records, and only it writes them.
        state |= {"epoch": epoch + 1, "step_in_epoch": 0}
        save_checkpoint(accelerator, output_dir, since(state, start))
    progress.close()
    if accelerator.is_main_process:
        finish_run(config, splits, since(state, start))
    accelerator.end_training()
    return output_dir


def since(state: dict[str, Any], start: float) -> dict[str, Any]:
    """The state with the seconds of this session added to those before it."""
    return state | {"seconds": state["seconds"] + time.perf_counter() - start}


def stop_at_sigterm() -> threading.Event:
    """An event that is set when the process is told to end, as a preempted node is."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread set a handler
        signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    return stop


def is_told_to_stop(accelerator: Accelerator, stop: threading.Event) -> bool:
    """Whether any process was told to stop; all of them learn it at the same step."""
    if accelerator.num_processes == 1:
        return stop.is_set()
    if stop.is_set():
        accelerator.set_trigger()
    return accelerator.check_trigger()


def open_run(config: TrainConfig, splits: dict[str, Dataset | Stream], accelerator: Accelerator, resume: bool) -> None:
    """Write what the run is into its folder, or check that the run that is resumed is this one.

    Raises:
        ValueError: the folder holds a run already, or the resumed run was another one.
    """
    output_dir = Path(config.output_dir)
    if resume:
        fingerprints = {name: split_facts(rows)["fingerprint"] for name, rows in splits.items()}
        check_resumable(config, fingerprints, accelerator.num_processes)
    elif (output_dir / "config.yaml").exists():
        raise ValueError(
            f"{config.output_dir!r} holds a run already: go on with it (--resume), choose another --output-dir, or "
            "remove it."
        )
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    if resume:
        for name in ("best", "last"):
            recover_folder(output_dir / name)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    facts = environment(accelerator, splits) | {"starts": describe_starts(config)}
    (output_dir / "environment.json").write_text(json.dumps(facts, indent=2))
    save_config(config, output_dir / "config.yaml")


def keep_records(accelerator: Accelerator, output_dir: Path, count: int) -> None:
    """Cut metrics.jsonl to the records that the checkpoint knows; what came after it will be done again."""
    if accelerator.is_main_process:
        path = output_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)[:count] if path.exists() else []
        path.write_text("".join(lines))


def close_epoch(
    config: TrainConfig,
    accelerator: Accelerator,
    model: PIRModel,
    processor: PIRProcessor,
    validation: Dataset,
    epoch: int,
    state: dict[str, Any],
) -> None:
    """Save the model as last/, evaluate it on validation and keep it as best/ if it is; updates `state`."""
    output_dir = Path(config.output_dir)
    save(output_dir / "last", model, processor, config.save_dtype)
    if (epoch + 1) % config.evaluate_every and epoch + 1 != config.epochs:
        return
    metrics = evaluate_split(model, processor, validation, config.evaluation_batch_size)
    record = {"epoch": epoch, "step": state["step"], "split": "validation"} | metrics
    write_record(accelerator, output_dir, record, state)
    tqdm.write(f"epoch {epoch}: validation mR {metrics['mR']:.2f}")
    if state["best"] is None or metrics["mR"] > state["best"]["mR"]:
        state["best"] = record
        save(output_dir / "best", model, processor, config.save_dtype)


def prepare_instruction(
    model: PIRModel,
    splits: dict[str, Dataset | Stream],
    scenes: list[str],
    config: TrainConfig,
    processor: PIRProcessor,
    accelerator: Accelerator,
) -> dict[str, float] | None:
    """Load the prior's weights, or train it on scenes, as the configuration says; returns what was measured."""
    if config.init_instruction is not None:
        from modeling_pir.convert_backbones import load_instruction_weights

        logger.info("Instruction encoder: %s", load_instruction_weights(model, config.init_instruction))
    if not config.instruction_epochs or model.instruction_model is None:
        return None
    items = make_items(splits["train"], scenes, config, processor, captions_per_image=1)
    validation_items = make_items(splits["validation"], scenes, config, processor, captions_per_image=1, augment=False)
    collate = SceneCollator(processor.image_processor)
    tower = model.instruction_model
    measured = train_on_scenes(tower, items, validation_items, collate, scenes, config, accelerator)
    model.tie_weights()  # frozen again
    model.train(model.training)
    return {name: measured[name] for name in ("scene_accuracy", "scene_loss", "seconds")}


def scalars(losses: object, grad_norm: torch.Tensor | None, scheduler: object, model: PIRModel) -> dict[str, float]:
    """What a line of metrics.jsonl says of a step; temperatures as the factors that multiply cosines."""
    record = {"loss": losses.loss.item(), "contrastive_loss": losses.contrastive_loss.item()}
    if losses.affiliation_loss is not None:
        record["affiliation_loss"] = losses.affiliation_loss.item()
    if grad_norm is not None:
        record["grad_norm"] = float(grad_norm)
    return record | {"learning_rate": scheduler.get_last_lr()[0], "logit_scale": model.logit_scale.exp().item()}


def write_record(accelerator: Accelerator, output_dir: Path, record: dict, state: dict[str, Any]) -> None:
    """Append a line to metrics.jsonl and hand it to the trackers, on the main process."""
    if not accelerator.is_main_process:
        return
    path = output_dir / "metrics.jsonl"
    try:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise disk_full(error, path) or error from error
    state["records"] += 1
    accelerator.log({key: value for key, value in record.items() if isinstance(value, int | float)}, step=state["step"])


def parse_args(arguments: list[str] | None = None) -> tuple[TrainConfig, bool]:
    """Read the command line: the configuration, and whether to resume."""
    parser = argparse.ArgumentParser("python -m training.train", description="Train PIR.", allow_abbrev=False)
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="YAML file of TrainConfig (default: the drawn sample)")
    parser.add_argument("--output-dir", help="run folder (default: the configuration's)")
    parser.add_argument("--data", help="data source: a known name, a Hub id, a folder or a CSV")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--init-instruction", help="weights of the instruction encoder: a .pth or a saved tower")
    parser.add_argument("--skip-bad-images", action="store_true", default=None, help="leave unreadable images out")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field, e.g. epochs=3")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the run folder, where it stopped")
    values = vars(parser.parse_args(arguments))
    path, assignments, resume = values.pop("config"), values.pop("set"), values.pop("resume")
    given = {name: value for name, value in values.items() if value is not None}
    return load_config(path, given | parse_assignments(assignments)), resume


def main() -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder = train(*parse_args())
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{folder / 'report.md'} is the report; {folder / 'best'} loads with PIRModel.from_pretrained.")


if __name__ == "__main__":
    main()
