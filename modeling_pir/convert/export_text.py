"""Export the text side of any dual encoder to ONNX, checked against the model, for `inference.onnx_text`."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from ..errors import need
from ..hub.whole_folder import whole_folder
from ..inference.encoder import DualEncoder, Encoder, PIREncoder, pooled, text_settings
from ..inference.onnx_text import BANK, PROGRAM, SETTINGS, TOKENIZER, OnnxTextEncoder

TOLERANCE = 1e-4  # largest difference of a coordinate of a unit vector
IMAGE_PARTS = ("vision_model", "visual_projection", "instruction_model", "instruction_projection", "vir")
CHECKED = (
    "a",
    "Planes beside a terminal.",
    "many green trees are in two sides of a curved river with a bridge over it",
)


class TextFeatures(nn.Module):
    """Inputs of a processor, by position, to unit vectors (texts, dim)."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.model = copy.copy(model)  # without the image side, which a saved program would carry along
        self.model._modules = {name: part for name, part in model._modules.items() if name not in IMAGE_PARTS}

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Embed."""
        features = self.model.get_text_features(**dict(zip(self.names, inputs, strict=True)))
        return F.normalize(pooled(features), dim=-1)


def _settings(encoder: Encoder) -> dict:
    """How texts become inputs, as far as `OnnxTextEncoder` has to know it.

    Raises:
        ValueError: the model or its tokenizer is of a kind that is not exported.
    """
    reading = encoder.reading
    if reading is None:
        raise ValueError(f"The text side of a {type(encoder.model).__name__} cannot be exported.")
    is_padded = (
        isinstance(encoder, DualEncoder) and text_settings(encoder.model, encoder.processor)["padding"] != "longest"
    )
    return {
        "inputs": list(_inputs(encoder, ["a"])),
        "max_tokens": reading.max_tokens,
        "pads_to_full_length": is_padded,
        "pad_id": encoder.processor.tokenizer.pad_token_id or 0,
        "unknown_piece": reading.unknown_piece,
        "clean_captions": reading.clean_captions,
    }


def _inputs(encoder: Encoder, texts: list[str]) -> dict[str, torch.Tensor]:
    """What the processor makes of texts."""
    is_pir = isinstance(encoder, PIREncoder)
    settings = {} if is_pir else text_settings(encoder.model, encoder.processor)
    return dict(encoder.processor(text=texts, return_tensors="pt", **settings))


@torch.no_grad()
def export_text(encoder: Encoder, folder: Path, bank: np.ndarray) -> float:
    """Write a text encoder's folder; it appears only when it was checked.

    Args:
        encoder: PIR or a dual encoder of transformers, on any device.
        folder: to write; must not exist.
        bank: (sentences, dim) usual sentences, which are kept with it.

    Returns:
        The largest difference of any coordinate from the model.

    Raises:
        ValueError: a kind of model that is not exported, or an export that differs by more than `TOLERANCE`.
        ImportError: a package of the extra `onnx` is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "onnx", "An exported text side needs")
    settings = _settings(encoder)
    model = copy.deepcopy(encoder.model).to("cpu").float()
    model.set_attn_implementation("eager")
    with whole_folder(folder) as partial:
        try:
            _write_program(model, settings, _inputs(encoder, list(CHECKED[1:])), partial / PROGRAM)
        except Exception as error:  # the exporter has many types of its own
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ValueError(f"The text side of a {type(model).__name__} cannot be exported ({reason}).") from error
        encoder.reading.tokenizer.save(str(partial / TOKENIZER))
        np.save(partial / BANK, bank)
        (partial / SETTINGS).write_text(json.dumps(settings))
        exported = OnnxTextEncoder(partial).embed_texts(CHECKED)
        expected = np.concatenate([encoder.embed_texts([text]).numpy() for text in CHECKED])
        difference = float(np.abs(exported - expected).max())
        if not difference <= TOLERANCE:
            raise ValueError(f"The exported text side differs from the model by {difference:.1e}.")
    return difference


def _write_program(model: nn.Module, settings: dict, inputs: dict[str, torch.Tensor], path: Path) -> None:
    """Trace the text side and write it as an ONNX model; the number of texts and, where they vary, lengths are free."""
    free = {0: Dim("texts")}
    if not settings["pads_to_full_length"]:
        free[1] = Dim("length", max=settings["max_tokens"])
    features = TextFeatures(model, settings["inputs"])
    program = torch.export.export(features, tuple(inputs.values()), dynamic_shapes=((free,) * len(inputs),))
    onnx_program = torch.onnx.export(
        program, dynamo=True, input_names=settings["inputs"], output_names=["text_embeds"], verbose=False,
        external_data=False,
    )  # fmt: skip
    onnx_program.save(path)
