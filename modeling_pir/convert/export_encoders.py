"""PIR's two encoders as torch.export programs and ONNX models, checked against the model they come from.

    pir export MODEL OUT

OUT gets `image_encoder` and `text_encoder`, each as .pt2 (torch.export.load) and .onnx, and the processor. Both give
unit vectors, for any number of images or texts and any text length the text tower takes.
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, ExportedProgram

from ..extras import need
from ..hub.pretrained import load_pretrained
from ..modeling_pir import PIRModel

TOLERANCE = 1e-4  # largest difference of a coordinate of a unit vector between an export and the model
IMAGE_PARTS = ("vision_model", "visual_projection", "instruction_model", "instruction_projection", "vir")
TEXT_PARTS = ("text_model", "text_projection", "lca")


def without(model: PIRModel, parts: tuple[str, ...]) -> PIRModel:
    """The model less modules that a saved program would carry along unused; it shares its weights with `model`."""
    rest = copy.copy(model)
    rest._modules = {name: module for name, module in model._modules.items() if name not in parts}
    return rest


class ImageEncoder(nn.Module):
    """Images to unit vectors: pixel_values (images, 3, height, width) to image_embeds (images, dim)."""

    def __init__(self, model: PIRModel) -> None:
        super().__init__()
        self.model = without(model, TEXT_PARTS)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed."""
        return F.normalize(self.model.get_image_features(pixel_values).pooler_output, dim=-1)


class TextEncoder(nn.Module):
    """Texts to unit vectors: input_ids and attention_mask (texts, length) to text_embeds (texts, dim)."""

    def __init__(self, model: PIRModel) -> None:
        super().__init__()
        self.model = without(model, IMAGE_PARTS)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed."""
        return F.normalize(self.model.get_text_features(input_ids, attention_mask).pooler_output, dim=-1)


def example_images(model: PIRModel, batch: int, height: int, width: int) -> dict[str, torch.Tensor]:
    """Random inputs of [`ImageEncoder`], of about the processor's range."""
    return {"pixel_values": torch.randn(batch, 3, height, width, dtype=model.dtype)}


def example_texts(model: PIRModel, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Random inputs of [`TextEncoder`]; the last text fills the length, the others are padded by one more each."""
    input_ids = torch.randint(model.config.text_config.vocab_size, (batch, length))
    real_tokens = (length - torch.arange(batch).flip(0)).clamp(min=1)  # (batch,)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(length) < real_tokens[:, None]).long()}


@torch.no_grad()  # without it, the frozen prior's own no_grad becomes an operator that a saved program cannot load
def export_image_encoder(model: PIRModel, height: int, width: int) -> ExportedProgram:
    """Trace the image side.

    Args:
        model: in evaluation mode, with eager attention.
        height: of the processor's images, pixels.
        width: of the processor's images, pixels.

    Returns:
        The program; the number of images is free, their size is not.
    """
    inputs = tuple(example_images(model, 2, height, width).values())
    return torch.export.export(ImageEncoder(model), inputs, dynamic_shapes=({0: Dim("images")},))


@torch.no_grad()
def export_text_encoder(model: PIRModel) -> ExportedProgram:
    """Trace the text side.

    Args:
        model: in evaluation mode, with eager attention.

    Returns:
        The program; the number of texts and their length, up to the tower's positions, are free.
    """
    length = Dim("length", max=model.config.text_config.max_position_embeddings)
    free = {0: Dim("texts"), 1: length}
    inputs = tuple(example_texts(model, 2, 8).values())
    return torch.export.export(TextEncoder(model), inputs, dynamic_shapes=(free, free))


def save_program(program: ExportedProgram, output: Path, name: str, inputs: list[str], result: str) -> None:
    """Write a program as `name`.pt2 and `name`.onnx into the folder `output`."""
    torch.export.save(program, output / f"{name}.pt2")
    onnx_program = torch.onnx.export(
        program, dynamo=True, input_names=inputs, output_names=[result], verbose=False, external_data=False
    )
    onnx_program.save(output / f"{name}.onnx")


@torch.inference_mode()
def largest_difference(encoder: nn.Module, folder: Path, name: str, batches: list[dict[str, torch.Tensor]]) -> float:
    """Largest difference of any coordinate between the model and what was written of it, both forms.

    Args:
        encoder: [`ImageEncoder`] or [`TextEncoder`].
        folder: where the exports are.
        name: of the exports.
        batches: inputs of different shapes.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / f"{name}.pt2").module()
    differences = []
    for batch in batches:
        expected = encoder(*batch.values())
        (onnx_embeds,) = session.run(None, {key: tensor.numpy() for key, tensor in batch.items()})
        for embeds in (torch.from_numpy(onnx_embeds), program(*batch.values())):
            differences.append((embeds - expected).abs().max().item())
    return max(differences)


def export(name_or_path: str, output: str | Path) -> dict[str, float]:
    """Export both encoders of a model and check them.

    Args:
        name_or_path: Hub id or folder.
        output: folder that is written.

    Returns:
        For "image_encoder" and "text_encoder", the largest difference of any coordinate from the model, over batches of
        1 and 3 and texts of several lengths.

    Raises:
        ImportError: the extra `onnx` is missing.
        ValueError: a model that cannot be loaded, or an export that differs by more than `TOLERANCE`.
    """
    for package in ("onnxruntime", "onnxscript"):
        need(package, "onnx", "The export needs")
    model, processor = load_pretrained(name_or_path)
    model.float().set_attn_implementation("eager")  # ONNX has no kernel for Swin's views of fused attention
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(output)
    size = processor.image_processor.size
    height, width = size["height"], size["width"]
    longest = min(model.config.text_config.max_position_embeddings, processor.text_kwargs["max_length"])
    save_program(export_image_encoder(model, height, width), output, "image_encoder", ["pixel_values"], "image_embeds")
    save_program(export_text_encoder(model), output, "text_encoder", ["input_ids", "attention_mask"], "text_embeds")
    torch.manual_seed(0)
    images = [example_images(model, batch, height, width) for batch in (1, 3)]
    texts = [example_texts(model, batch, length) for batch, length in ((1, 3), (3, 12), (2, longest))]
    differences = {
        "image_encoder": largest_difference(ImageEncoder(model), output, "image_encoder", images),
        "text_encoder": largest_difference(TextEncoder(model), output, "text_encoder", texts),
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(f"The exported {name} differs from the model by {difference:.1e}: do not use {output}.")
    return differences
