"""Train PIR: from a configuration to a run folder whose `best/` loads with `PIRModel.from_pretrained`.

    python -m training.train                                             # the drawn sample, minutes on two cores
    accelerate launch -m training.train --config training/configs/rsicd.yaml
    python -m training.train --config training/configs/rsicd_mini.yaml --data FOLDER --set epochs=2
    python -m training.train --config runs/NAME/config.yaml --resume     # go on where it was killed

The loop is `train`, top to bottom. A run that gets SIGTERM saves itself and exits with code 75.
"""

import argparse
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.errors import one_sentence
from modeling_pir.hub.pretrained import weights_hash
from modeling_pir.hub.whole_folder import naming_full_disk
from modeling_pir.modeling_pir import caption_keys
from training.config import TrainConfig, load_config, parse_assignments
from training.data.loader import build_loader, epoch_batches, load_splits
from training.data.rows import decoded_images, scene_names
from training.data.stream import Stream
from training.evaluation.split_embeddings import evaluate_split
from training.loop.grad_cache import cached_backward
from training.loop.joint_loss import joint_losses
from training.loop.optim import parameter_groups, warmup_then_decay
from training.loop.raw_temperatures import train_raw_temperatures
from training.loop.sharding import check_sharding, prepare_sharding, whole_model
from training.model.adapters import add_lora, freeze_modules
from training.model.batch_norm import check_chunks, freeze_batch_norm, synchronise_batch_norms
from training.model.build import build_model_and_processor
from training.model.feature_cache import PRECISIONS, with_features
from training.model.scene_classifier import prepare_instruction
from training.model.starts import check_parts, check_starts
from training.report.run_report import finish_run
from training.run.checkpoint import (
    EXIT_PREEMPTED,
    Preempted,
    checkpoints,
    is_told_to_stop,
    load_checkpoint,
    save_checkpoint,
    seed_step,
    stop_at_sigterm,
    stop_if_told,
)
from training.run.folder import keep_records, open_run, save, save_beside, settle_best, write_record
from training.run.state import RunState

logger = logging.getLogger(__name__)
EXIT_INTERRUPTED = 130  # what a shell says of Ctrl-C
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "sample.yaml"


def timed(batches: Iterable[dict], state: RunState) -> Iterable[dict]:
    """Hand on batches; the seconds waited for them, and those of their steps, are added to the state.

    A GPU may still be busy while the next batch is waited for, so what waiting costs is this at most.
    """
    before = time.perf_counter()
    for batch in batches:
        arrived = time.perf_counter()
        state.seconds_waiting += arrived - before
        yield batch
        before = time.perf_counter()
        state.seconds_in_steps += before - arrived


def check_losses(unchecked: list[torch.Tensor], step: int, output_dir: Path) -> None:
    """Stop at a loss that was not finite, before anything is saved or logged of what came of it; empties the list.

    Args:
        unchecked: losses of the last steps, still on the device: looking at each in its step would wait for it.
        step: that comes next.
        output_dir: of the run.

    Raises:
        FloatingPointError: with the step and what is left.
    """
    first, losses = step - len(unchecked), torch.stack(unchecked).tolist() if unchecked else []
    unchecked.clear()
    for number, loss in enumerate(losses, start=first):
        if not math.isfinite(loss):
            kept = output_dir / "last"
            left = f"the model of the last whole epoch is in {kept}" if kept.exists() else "no epoch was finished"
            raise FloatingPointError(
                f"The loss is {loss} at step {number}: training stopped, {left}. Lower learning_rate."
            )


def build_accelerator(config: TrainConfig) -> Accelerator:
    """The engine: a batch of the configuration is cut into equal parts, one for each process."""
    loading = DataLoaderConfiguration(
        use_seedable_sampler=True, data_seed=config.seed, split_batches=True, non_blocking=True
    )
    accelerator = Accelerator(log_with=config.log_with, project_dir=config.output_dir, dataloader_config=loading)
    if config.log_with and not accelerator.log_with:  # accelerate passes over what is not installed
        raise ValueError(f"log_with is {config.log_with!r}, which is not installed: pip install {config.log_with}.")
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps is {accelerator.gradient_accumulation_steps}, but a contrastive batch cannot "
            "be accumulated, its items are compared with each other: leave it at 1 and set chunk_size, which holds a "
            "batch larger than memory."
        )
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size is {config.batch_size}, which cannot be shared equally by {accelerator.num_processes} "
            "processes: choose a multiple."
        )
    check_sharding(accelerator, config)
    return accelerator


def build_model(
    config: TrainConfig, splits: dict[str, Dataset | Stream], mixed_precision: str
) -> tuple[PIRModel, PIRProcessor]:
    """Model and processor of the run, with what it freezes and adapts."""
    model, processor = build_model_and_processor(config, splits["train"])
    if config.lora_rank:
        add_lora(model, config.lora_rank)
    freeze_modules(model, config.freeze)
    model.train()
    if config.freeze_batch_norm:
        freeze_batch_norm(model)
    check_chunks(model, config.chunk_size)
    synchronise_batch_norms(model)
    return model, with_features(model, processor, config, mixed_precision)


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Run the configuration.

    Args:
        config: the run.
        resume: go on from the newest checkpoint of the run in `config.output_dir`, exactly.

    Returns:
        The run folder: config.yaml, environment.json, metrics.jsonl, best/, last/, test.json, pictures, report.md.

    Raises:
        ValueError: bad data or settings, before any work starts.
        FloatingPointError: the loss is not finite.
        Preempted: SIGTERM came; the run has saved itself.
    """
    check_starts(config)
    check_parts(config)
    accelerator = build_accelerator(config)
    set_seed(config.seed)
    stop = stop_at_sigterm()
    output_dir, start = Path(config.output_dir), time.perf_counter()
    splits = load_splits(config, accelerator)
    model, processor = build_model(config, splits, accelerator.mixed_precision)
    scenes = scene_names(splits["validation" if config.streaming else "train"])
    loader = build_loader(config, splits["train"], scenes, processor, accelerator)
    open_run(config, splits, accelerator, resume)
    prior = None
    if not checkpoints(output_dir):  # else its weights and figures come with the checkpoint
        stop_early = partial(stop_if_told, accelerator, stop)
        prior = prepare_instruction(model, splits, scenes, config, processor, accelerator, stop_early)
    whole = prepare_sharding(accelerator, config, model)
    rates = config.learning_rate, config.layer_decay, config.module_learning_rates
    groups = parameter_groups(model, config.weight_decay, *rates)
    adamw = torch.optim.AdamW(groups, betas=config.adam_betas, eps=1e-8, fused=True)
    num_steps = config.epochs * len(loader)
    model, optimizer = accelerator.prepare(model, adamw)
    loader = accelerator.prepare(loader) if isinstance(loader, DataLoader) else loader
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    if config.raw_temperatures:  # behind prepare, which moves the scales to the device; before the schedule
        train_raw_temperatures(plain, adamw, config.weight_decay)
    # Not prepared: accelerate would step it once per process, but num_steps already counts updates.
    scheduler = warmup_then_decay(adamw, num_steps, config.warmup_ratio, config.schedule)
    accelerator.init_trackers("pir", tracked(config))
    state = load_checkpoint(accelerator, output_dir, scheduler) or RunState(prior=prior)
    if accelerator.is_main_process:
        settle_best(output_dir, state.best)
    keep_records(accelerator, output_dir, state.records)
    save_checkpoint(accelerator, output_dir, state, scheduler)
    validate = validation_of(config, splits["validation"], accelerator)
    progress = tqdm(total=num_steps, initial=state.step, desc="training", disable=not accelerator.is_main_process)
    unchecked: list[torch.Tensor] = []
    for epoch in range(state.epoch, config.epochs):
        model.train()
        if config.freeze_batch_norm:
            freeze_batch_norm(plain)
        batches = epoch_batches(accelerator, loader, processor, epoch, state.step_in_epoch)
        for batch in timed(batches, state):
            seed_step(config.seed, state.step, accelerator.process_index)
            ids = batch.pop("image_ids"), batch.pop("scene_labels")
            if config.chunk_size:
                losses = cached_backward(accelerator, model, batch, *ids, config.chunk_size)
            else:
                outputs = model(**batch)
                embeds = outputs.image_embeds, outputs.text_embeds
                captions = caption_keys(batch["input_ids"], batch.get("attention_mask"))
                losses = joint_losses(plain, *embeds, *ids, accelerator.process_index, captions)
                accelerator.backward(losses.loss)
            unchecked.append(losses.loss.detach())
            grad_norm = None
            if config.max_grad_norm:
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            if not config.raw_temperatures:  # which the official code lets go wherever they go
                plain.clamp_logit_scales()
            scheduler.step()
            optimizer.zero_grad()
            state.step += 1
            state.step_in_epoch += 1
            progress.update()
            told_to_stop = is_told_to_stop(accelerator, stop)
            is_due = config.checkpoint_every and state.step % config.checkpoint_every == 0
            is_logged = state.step % config.log_every == 0
            if told_to_stop or is_due or is_logged:
                check_losses(unchecked, state.step, output_dir)
            if is_logged:  # one process writes; reading the loss waits for the device
                record = {"step": state.step, "epoch": epoch} | scalars(losses, grad_norm, scheduler, plain)
                progress.set_postfix(loss=f"{record['loss']:.3f}")
                write_record(accelerator, output_dir, record, state)
            if told_to_stop or (is_due and state.step_in_epoch < len(loader)):
                save_checkpoint(accelerator, output_dir, since(state, start), scheduler)
            if told_to_stop:
                raise Preempted(f"Stopped by SIGTERM at step {state.step}; --resume goes on from there.")
        check_losses(unchecked, state.step, output_dir)
        accelerator.wait_for_everyone()
        full = whole_model(accelerator, model, whole)
        if accelerator.is_main_process:
            close_epoch(config, accelerator, full, processor, validate, epoch, state)
        if whole is not None:
            whole.cpu()  # training needs its place on the device
        # Only the main process knows the best epoch and the number of records, and only it writes them.
        state.epoch, state.step_in_epoch = epoch + 1, 0
        save_checkpoint(accelerator, output_dir, since(state, start), scheduler)
        if accelerator.is_main_process:
            settle_best(output_dir, state.best)
    progress.close()
    if accelerator.is_main_process:
        with naming_full_disk(output_dir):
            finish_run(config, splits, since(state, start))
    accelerator.end_training()
    return output_dir


def tracked(config: TrainConfig) -> dict[str, int | float | str | bool] | None:
    """The configuration as trackers take it: what is not finite or truth value as text; None without trackers."""
    if not config.log_with:
        return None
    values = dataclasses.asdict(config)
    return {name: value if isinstance(value, int | float | bool) else str(value) for name, value in values.items()}


def since(state: RunState, start: float) -> RunState:
    """The state with the seconds of this session added to those before it."""
    return dataclasses.replace(state, seconds=state.seconds + time.perf_counter() - start)


def validation_of(
    config: TrainConfig, rows: Dataset, accelerator: Accelerator
) -> Callable[[PIRModel, PIRProcessor], dict[str, float]]:
    """What measures a model on the validation rows, in the precision of the run; its images are kept where asked."""
    images = list(decoded_images(rows)) if config.cache_images and accelerator.is_main_process else None
    dtype = PRECISIONS.get(accelerator.mixed_precision)
    return partial(evaluate_split, rows=rows, batch_size=config.evaluation_batch_size, dtype=dtype, images=images)


def close_epoch(
    config: TrainConfig,
    accelerator: Accelerator,
    model: PIRModel,
    processor: PIRProcessor,
    validate: Callable[[PIRModel, PIRProcessor], dict[str, float]],
    epoch: int,
    state: RunState,
) -> None:
    """Save the model as last/, evaluate it on validation and keep it beside best/ if it is; updates `state`."""
    output_dir = Path(config.output_dir)
    save(output_dir / "last", model, processor, config.save_dtype)
    if (epoch + 1) % config.evaluate_every and epoch + 1 != config.epochs:
        return
    metrics = validate(model, processor)
    record = {"epoch": epoch, "step": state.step, "split": "validation"} | metrics
    write_record(accelerator, output_dir, record, state)
    tqdm.write(f"epoch {epoch + 1} of {config.epochs}: validation mR {metrics['mR']:.2f}")
    if state.best is None or metrics["mR"] > state.best["mR"]:
        waiting = save_beside(output_dir / "best", model, processor, config.save_dtype)
        state.best = record | {"weights_sha256": weights_hash(waiting)}


def scalars(losses: object, grad_norm: torch.Tensor | None, scheduler: object, model: PIRModel) -> dict[str, float]:
    """What a line of metrics.jsonl says of a step; temperatures as the factors that multiply cosines."""
    record = {"loss": losses.loss.item(), "contrastive_loss": losses.contrastive_loss.item()}
    if losses.affiliation_loss is not None:
        record["affiliation_loss"] = losses.affiliation_loss.item()
    if grad_norm is not None:
        record["grad_norm"] = float(grad_norm)
    return record | {"learning_rate": scheduler.get_last_lr()[0], "logit_scale": model.logit_scale.exp().item()}


def parse_args(arguments: list[str] | None = None) -> tuple[TrainConfig, bool]:
    """Read the command line: the configuration, and whether to resume."""
    parser = argparse.ArgumentParser("python -m training.train", description="Train PIR.", allow_abbrev=False)
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, help="YAML file of TrainConfig (default: the synthetic sample)"
    )
    parser.add_argument("--output-dir", help="run folder (default: from the configuration)")
    parser.add_argument("--data", help="rsicd, rsitmd, ucm, sample, a Hub id, a folder or a table of captions")
    parser.add_argument("--seed", type=int, help="random seed (default: from the configuration)")
    parser.add_argument("--init-instruction", help="weights of the instruction encoder: a .pth or a saved tower")
    parser.add_argument("--skip-bad-images", action="store_true", default=None, help="leave out unreadable images")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set any field, e.g. epochs=3 or model.num_cycles=0",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in the run folder where it stopped")
    values = vars(parser.parse_args(arguments))
    path, assignments, resume = values.pop("config"), values.pop("set"), values.pop("resume")
    given = {name: value for name, value in values.items() if value is not None}
    return load_config(path, given | parse_assignments(assignments)), resume


def out_of_memory(error: RuntimeError | MemoryError) -> str | None:
    """What a device or the computer says of its full memory; None for any other error."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
        return (str(error) or "MemoryError").split(". ")[0]
    return None


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input, full memory and Ctrl-C get one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # a line for each file of a checkpoint
    config = None
    try:
        with one_sentence():
            config, resume = parse_args(arguments)
            folder = train(config, resume)
    except KeyboardInterrupt:
        kept = config is not None and checkpoints(Path(config.output_dir))
        again = f"python -m training.train --config {config.output_dir}/config.yaml --resume" if kept else ""
        print(
            f"\nStopped. {f'Go on from the last checkpoint: {again}' if kept else 'Nothing was kept.'}", file=sys.stderr
        )
        sys.exit(EXIT_INTERRUPTED)
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)
    except (RuntimeError, MemoryError) as error:
        reason = out_of_memory(error)
        if reason is None:
            raise
        sys.exit(
            f"error: The memory is full ({reason}): set chunk_size (the gradient stays the same), or lower batch_size "
            "or evaluation_batch_size; --resume goes on."
        )
    print(f"{folder / 'report.md'} is the report; {folder / 'best'} loads with PIRModel.from_pretrained.")


if __name__ == "__main__":
    main()
