"""Train the instruction encoder as a scene classifier, so that a prior that knows scenes instructs, and not noise.

The paper's prior is a ResNet-50 trained on AID's scenes. The official code builds it but loads none of its weights, so
a random network instructs there. Training on the scenes of the training split alone leaks nothing of the test split
(AID contains RSICD's test images).
"""

import logging
import time

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_pir import PIRModel
from training.config import TrainConfig
from training.data import TrainItems

logger = logging.getLogger(__name__)


class SceneClassifier(nn.Module):
    """A tower with a linear layer on its pooled vector.

    Args:
        tower: the instruction encoder.
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


def pretrain_instruction(
    model: PIRModel,
    train_items: TrainItems,
    validation_loader: DataLoader,
    collate: object,
    num_scenes: int,
    config: TrainConfig,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Train `model.instruction_model` on the scenes of the training items, in place; it is frozen again afterwards.

    Args:
        model: whose instruction encoder is trained.
        train_items: one item per image; those without a known scene are passed over.
        validation_loader: batches of `pixel_values` and `scene_labels`, for the accuracy.
        collate: makes a batch of items.
        num_scenes: classes.
        config: `instruction_epochs`, `instruction_learning_rate`, `batch_size`, `seed`.
        accelerator: device, precision and processes.

    Returns:
        `scene_accuracy` on validation (percent), `scene_loss` of the last epoch, `seconds`.

    Raises:
        ValueError: the data names no scenes.
    """
    if num_scenes < 2:
        raise ValueError(
            f"instruction_epochs is {config.instruction_epochs}, but the training split names {num_scenes} scenes: add "
            "a scene column, or set instruction_epochs to 0."
        )
    start = time.perf_counter()
    classifier = SceneClassifier(model.instruction_model, model.instruction_projection.in_features, num_scenes)
    classifier.requires_grad_(True)
    loader = DataLoader(
        train_items, config.batch_size, shuffle=True, drop_last=True, collate_fn=collate, num_workers=config.num_workers
    )
    optimizer = torch.optim.AdamW(classifier.parameters(), config.instruction_learning_rate, weight_decay=0.05)
    classifier, optimizer, loader = accelerator.prepare(classifier, optimizer, loader)
    num_steps = config.instruction_epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer.optimizer, config.instruction_learning_rate, total_steps=num_steps
    )
    progress = tqdm(total=num_steps, desc="instruction encoder", disable=not accelerator.is_main_process)
    loss_of_epoch = 0.0
    for epoch in range(config.instruction_epochs):
        train_items.set_epoch(epoch)
        loader.set_epoch(epoch)
        classifier.train()
        losses = []
        for batch in loader:
            logits = classifier(batch["pixel_values"])
            loss = F.cross_entropy(logits, batch["scene_labels"], ignore_index=-1)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            progress.update()
        loss_of_epoch = torch.stack(losses).mean().item()
        progress.set_postfix(epoch=epoch, loss=f"{loss_of_epoch:.3f}")
    progress.close()
    accuracy = scene_accuracy(accelerator.unwrap_model(classifier), validation_loader)
    accelerator.free_memory()  # forgets the prepared classifier, so that the model can be prepared whole
    model.tie_weights()
    model.train(model.training)
    return {"scene_accuracy": accuracy, "scene_loss": loss_of_epoch, "seconds": time.perf_counter() - start}


@torch.inference_mode()
def scene_accuracy(classifier: SceneClassifier, loader: DataLoader) -> float:
    """Share of the images with a known scene that are classified right, percent."""
    classifier.eval()
    device = next(classifier.parameters()).device
    right, known = 0, 0
    for batch in loader:
        labels = batch["scene_labels"].to(device)
        predicted = classifier(batch["pixel_values"].to(device)).argmax(dim=1)
        right += ((predicted == labels) & (labels >= 0)).sum().item()
        known += (labels >= 0).sum().item()
    return 100 * right / max(known, 1)
