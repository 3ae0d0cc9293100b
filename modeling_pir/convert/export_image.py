"""Export the image side of a PIR to ONNX in the user's cache, checked, for `pir index` on a CPU."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from ..errors import need
from ..hub.identity import weights_fingerprint
from ..hub.whole_folder import whole_folder
from ..inference.encoder import PIREncoder, image_program, open_image_program
from ..processing_pir import image_size
from .export_encoders import TOLERANCE, VISION, save_onnx

TEXT_PARTS = ("text_model", "text_projection", "lca")


class ImageFeatures(nn.Module):
    """pixel_values (images, 3, height, width) to unit vectors (images, dim)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.copy(model)  # without the text side, which a saved program would carry along
        self.model._modules = {name: part for name, part in model._modules.items() if name not in TEXT_PARTS}

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed."""
        return F.normalize(self.model.get_image_features(pixel_values).pooler_output, dim=-1)


@torch.no_grad()
def export_image(encoder: PIREncoder) -> float:
    """Write the image side as an ONNX program, which appears only when it was checked, and let the encoder use it.

    Args:
        encoder: a PIR on a CPU.

    Returns:
        The largest difference of any coordinate from the model, for batches of 1 and 3.

    Raises:
        ValueError: a model that is not exported, or an export that differs by more than `TOLERANCE`.
        ImportError: a package of the extra `onnx` is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "onnx", "An exported image side needs")
    model = copy.deepcopy(encoder.model).float()
    model.set_attn_implementation("eager")  # ONNX has no kernel for Swin's views of fused attention
    features = ImageFeatures(model).eval()
    weights = weights_fingerprint(encoder.model)
    height, width = image_size(encoder.processor.image_processor)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, 3, height, width, generator=generator) for batch in (1, 3)]
    folder = image_program(weights).parent
    with whole_folder(folder) as partial:
        program = partial / image_program(weights).name
        try:
            traced = torch.export.export(features, (batches[1],), dynamic_shapes=({0: Dim("images")},))
            save_onnx(traced, program, VISION, weights)
        except Exception as error:  # the exporter has many types of its own
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ValueError(f"The image side of this model cannot be exported ({reason}).") from error
        session = open_image_program(program, weights)
        difference = max(
            float(abs(session.run(None, {"pixel_values": batch.numpy()})[0] - features(batch).numpy()).max())
            for batch in batches
        )
        if not difference <= TOLERANCE:
            raise ValueError(f"The exported image side differs from the model by {difference:.1e}.")
    encoder.vision_session = open_image_program(image_program(weights), weights)
    return difference
