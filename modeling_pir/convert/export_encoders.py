"""Export both sides of PIR to ONNX, in the layout of transformers.js, and to torch.export; outputs are checked.

    pir export MODEL OUT

OUT gets `onnx/text_model.onnx` and `onnx/vision_model.onnx`, each also as `_quantized` (8 bits) and `_fp16`, the same
two as `text_model.pt2` and `vision_model.pt2` (torch.export.load), and the processor, whose tokenizer cleans captions
by itself. All give unit vectors, for any number of images or texts and any text length the text tower takes.

`pir export MODEL MODEL` puts them into the model's own folder and leaves its processor as it is: `pir index` then
embeds images with ONNX Runtime on a CPU.
"""

import json
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, ExportedProgram

from ..errors import need
from ..hub.identity import weights_fingerprint
from ..hub.pretrained import load_pretrained
from ..processing_pir import PIRProcessor, image_size
from ..towers_pir import PIRTextModelWithProjection, PIRVisionModelWithProjection

TOLERANCE = 1e-4  # largest difference of a coordinate of a unit vector between an export and the model
VISION, TEXT = "vision_model", "text_model"
INPUTS = {VISION: ["pixel_values"], TEXT: ["input_ids", "attention_mask"]}
OUTPUTS = {VISION: "image_embeds", TEXT: "text_embeds"}

Batch = dict[str, torch.Tensor]


class ImageEncoder(nn.Module):
    """Images to unit vectors: pixel_values (images, 3, height, width) to image_embeds (images, dim)."""

    def __init__(self, model: PIRVisionModelWithProjection) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed."""
        return self.model(pixel_values).image_embeds


class TextEncoder(nn.Module):
    """Texts to unit vectors: input_ids and attention_mask (texts, length) to text_embeds (texts, dim)."""

    def __init__(self, model: PIRTextModelWithProjection) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed."""
        return self.model(input_ids, attention_mask).text_embeds


def example_images(model: PIRVisionModelWithProjection, batch: int, height: int, width: int) -> Batch:
    """Random inputs of [`ImageEncoder`], of about the processor's range."""
    return {"pixel_values": torch.randn(batch, 3, height, width, dtype=model.dtype)}


def example_texts(model: PIRTextModelWithProjection, batch: int, length: int) -> Batch:
    """Random inputs of [`TextEncoder`]; the last text fills the length, the others are padded by one more each."""
    input_ids = torch.randint(model.config.text_config.vocab_size, (batch, length))
    real_tokens = (length - torch.arange(batch).flip(0)).clamp(min=1)  # (batch,)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(length) < real_tokens[:, None]).long()}


@torch.no_grad()  # without it, the frozen prior's own no_grad becomes an operator that a saved program cannot load
def export_image_encoder(model: PIRVisionModelWithProjection, height: int, width: int) -> ExportedProgram:
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
def export_text_encoder(model: PIRTextModelWithProjection) -> ExportedProgram:
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


def save_program(program: ExportedProgram, output: Path, name: str, weights: str) -> None:
    """Write a program as `name`.pt2 and onnx/`name`.onnx, which bears the weights' fingerprint, into a folder."""
    torch.export.save(program, output / f"{name}.pt2")
    save_onnx(program, output / "onnx" / f"{name}.onnx", name, weights)


def save_onnx(program: ExportedProgram, path: Path, name: str, weights: str) -> None:
    """Write a program of the side `name` as an ONNX model that bears the weights' fingerprint."""
    onnx_program = torch.onnx.export(
        program, dynamo=True, input_names=INPUTS[name], output_names=[OUTPUTS[name]], verbose=False, external_data=False
    )
    onnx_program.model.metadata_props["weights"] = weights
    onnx_program.save(path)


def write_reduced(folder: Path, name: str) -> None:
    """Write `name`_quantized.onnx, its matrices in blocks of 8 bits, and `name`_fp16.onnx beside `name`.onnx.

    Convolutions and tables of embeddings stay in float32 in the quantized model: in 8 bits the first are slower at run
    time, and the second, for which there is one scale a table alone, change the ranking.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = folder / f"{name}.onnx"
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=8, block_size=32, is_symmetric=True, accuracy_level=4)
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)  # else a line for every operator
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / f"{name}_quantized.onnx"), False)
    half = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(half, folder / f"{name}_fp16.onnx")


def write_processor(processor: PIRProcessor, output: Path) -> None:
    """Save the processor; its tokenizer by itself cuts texts and, where training did, cleans them.

    `preprocessor_config.json`, which transformers.js reads, has the settings of the images.
    """
    processor.save_pretrained(output)
    (output / "preprocessor_config.json").write_text(processor.image_processor.to_json_string())
    path = output / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    length = processor.text_kwargs["max_length"]
    tokenizer["truncation"] = {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2))


@torch.inference_mode()
def compare(encoder: nn.Module, folder: Path, name: str, batches: list[Batch]) -> dict[str, float]:
    """How what was written differs from the model.

    Args:
        encoder: [`ImageEncoder`] or [`TextEncoder`].
        folder: where the exports are.
        name: of the exports.
        batches: inputs of different shapes.

    Returns:
        `difference`: the largest of any coordinate, of the float32 forms; `quantized` and `fp16`: the smallest cosine.
    """
    from onnxruntime import InferenceSession

    forms = {form: folder / "onnx" / f"{name}{form}.onnx" for form in ("", "_quantized", "_fp16")}
    sessions = {form: InferenceSession(path, providers=["CPUExecutionProvider"]) for form, path in forms.items()}
    program = torch.export.load(folder / f"{name}.pt2").module()
    found = {"difference": 0.0, "quantized": 1.0, "fp16": 1.0}
    for batch in batches:
        expected = encoder(*batch.values())
        arrays = {key: tensor.numpy() for key, tensor in batch.items()}
        embeds = {form: torch.from_numpy(session.run(None, arrays)[0]) for form, session in sessions.items()}
        for own in (embeds[""], program(*batch.values())):
            found["difference"] = max(found["difference"], (own - expected).abs().max().item())
        for form in ("quantized", "fp16"):
            cosine = F.cosine_similarity(embeds[f"_{form}"], expected).min().item()
            found[form] = min(found[form], cosine)
    return found


def export(name_or_path: str, output: str | Path) -> dict[str, dict[str, float]]:
    """Export both sides of a model and check them.

    Args:
        name_or_path: Hub id or folder.
        output: folder that is written.

    Returns:
        For "vision_model" and "text_model" what [`compare`] finds, in batches of 1 and 3 and texts of several lengths.

    Raises:
        ImportError: the extra `onnx` is missing.
        ValueError: a model that cannot be loaded, or an export that differs by more than `TOLERANCE`.
    """
    for package in ("onnxruntime", "onnxscript"):
        need(package, "onnx", "The export needs")
    model, processor = load_pretrained(name_or_path)
    weights = weights_fingerprint(model)
    # ONNX has no kernel for Swin's views of fused attention.
    vision = PIRVisionModelWithProjection.from_pretrained(name_or_path, dtype=torch.float32)
    text = PIRTextModelWithProjection.from_pretrained(name_or_path, dtype=torch.float32)
    for side in (vision, text):
        side.set_attn_implementation("eager")
    height, width = image_size(processor.image_processor)
    output = Path(output)
    (output / "onnx").mkdir(parents=True, exist_ok=True)
    if not Path(name_or_path).is_dir() or not output.samefile(name_or_path):  # the model's own stays as it is
        write_processor(processor, output)
    longest = min(text.config.text_config.max_position_embeddings, processor.text_kwargs["max_length"])
    save_program(export_image_encoder(vision, height, width), output, VISION, weights)
    save_program(export_text_encoder(text), output, TEXT, weights)
    for name in (VISION, TEXT):
        write_reduced(output / "onnx", name)
    torch.manual_seed(0)
    images = [example_images(vision, batch, height, width) for batch in (1, 3)]
    texts = [example_texts(text, batch, length) for batch, length in ((1, 3), (3, 12), (2, longest))]
    found = {
        VISION: compare(ImageEncoder(vision), output, VISION, images),
        TEXT: compare(TextEncoder(text), output, TEXT, texts),
    }
    for name, values in found.items():
        if not values["difference"] <= TOLERANCE:
            raise ValueError(
                f"The exported {name} differs from the model by {values['difference']:.1e}: do not use {output}."
            )
    return found
