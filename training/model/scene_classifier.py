"""Train a tower as a scene classifier."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.modeling_pir import tower_width
from training.config import TrainConfig
from training.data.items import TrainItems
from training.data.loader import make_items
from training.data.stream import Stream
from training.model.batch_norm import synchronise_batch_norms

logger = logging.getLogger(__name__)
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


def items_with_scene(train_items: TrainItems, scenes: Sequence[str], config: TrainConfig) -> Subset:
    """The items whose scene is known.

    Raises:
        ValueError: fewer than two scenes, or fewer images with a scene than a batch has.
    """
    if len(scenes) < 2:
        raise ValueError(
            f"instruction_epochs is {config.instruction_epochs}, but the training split names {len(scenes)} scenes: "
            "add a scene column, or set instruction_epochs to 0."
        )
    known = Subset(train_items, [index for index, label in enumerate(train_items.labels) if label >= 0])
    if len(known) < config.batch_size:
        raise ValueError(
            f"batch_size is {config.batch_size}, but only {len(known)} training images have a scene: lower batch_size."
        )
    return known


def scene_step(
    classifier: nn.Module,
    batch: dict[str, torch.Tensor],
    optimizer: AcceleratedOptimizer,
    scheduler: LRScheduler,
    accelerator: Accelerator,
) -> torch.Tensor:
    """One step of the scene classification; its loss, without a graph."""
    logits = classifier(batch["pixel_values"])
    loss = F.cross_entropy(logits, batch["scene_labels"], label_smoothing=LABEL_SMOOTHING)
    accelerator.backward(loss)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return loss.detach()


def train_on_scenes(
    tower: PreTrainedModel,
    train_items: TrainItems,
    validation_items: TrainItems,
    collate: SceneCollator,
    scenes: Sequence[str],
    config: TrainConfig,
    accelerator: Accelerator,
    after_step: Callable[[], None] = lambda: None,
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
        after_step: called behind each step; what it raises ends the training.

    Returns:
        `scene_accuracy` on validation (percent), `scene_loss` of the last epoch, `seconds`, and `confusion`, the
        (scenes, scenes) counts on validation, true scene by row.

    Raises:
        ValueError: fewer than two scenes, or fewer images with a scene than a batch has.
        FloatingPointError: the loss is not finite.
    """
    known = items_with_scene(train_items, scenes, config)
    start = time.perf_counter()
    classifier = SceneClassifier(tower, tower_width(tower), len(scenes))
    classifier.requires_grad_(True)
    synchronise_batch_norms(classifier.train())
    classifier.to(memory_format=torch.channels_last)  # a fifth faster for convolutions in bfloat16
    workers = {"num_workers": config.num_workers, "persistent_workers": config.num_workers > 0}
    loader = DataLoader(known, config.batch_size, shuffle=True, drop_last=True, collate_fn=collate, **workers)
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
            losses.append(scene_step(classifier, batch, optimizer, scheduler, accelerator))
            progress.update()
            after_step()
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


def prepare_instruction(
    model: PIRModel,
    splits: dict[str, Dataset | Stream],
    scenes: list[str],
    config: TrainConfig,
    processor: PIRProcessor,
    accelerator: Accelerator,
    after_step: Callable[[], None],
) -> dict[str, float] | None:
    """Load the prior's weights, or train it on scenes, as the configuration says; returns what was measured."""
    if config.init_instruction is not None:
        from modeling_pir.convert.backbones import load_instruction_weights

        logger.info("Instruction encoder: %s", load_instruction_weights(model, config.init_instruction))
    if not config.instruction_epochs or model.instruction_model is None:
        return None
    if len(scenes) < 2:
        logger.warning(
            "The data names %s, so the instruction encoder learns none and stays as it starts (instruction_epochs is "
            "%d): add a column scene, or start from a trained model (training/configs/finetune.yaml).",
            "one scene" if scenes else "no scenes",
            config.instruction_epochs,
        )
        return None
    items = make_items(splits["train"], scenes, config, processor, captions_per_image=1)
    validation_items = make_items(splits["validation"], scenes, config, processor, captions_per_image=1, augment=False)
    collate = SceneCollator(processor.image_processor)
    tower = model.instruction_model
    measured = train_on_scenes(tower, items, validation_items, collate, scenes, config, accelerator, after_step)
    model.tie_weights()  # frozen again
    model.train(model.training)
    return {name: measured[name] for name in ("scene_accuracy", "scene_loss", "seconds")}
