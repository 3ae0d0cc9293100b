"""Compare image encoders on a CPU: torch in three precisions and compiled, ONNX Runtime in float32 and 8 bits.

    python -m training.benchmarks.cpu_forms --model MODEL --data FOLDER_OF_RSICD_PARQUET

Printed are images a second, size and mR. The forms take turns and the best round of each counts; decoding, resizing and
compiling are not in the time. Recall is that of the test split, its captions embedded by torch in float32.
"""

import argparse
import copy
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from onnxruntime import InferenceSession, SessionOptions

from modeling_pir import PIRModel
from modeling_pir.convert.export_encoders import export
from modeling_pir.errors import one_sentence
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.inference.embed import embed_texts
from training.data.rows import decoded_images
from training.data.sources import load_image_captions
from training.evaluation.metrics import recall_metrics, streamed_retrieval_ranks

BATCH_SIZE = 64
NUM_CALIBRATION = 64  # images whose range of activations the 8-bit convolutions are set by
Form = Callable[[torch.Tensor], torch.Tensor]  # pixel_values of a batch to features


def torch_form(model: PIRModel, dtype: torch.dtype) -> Form:
    """Weights in a precision, computed in it."""
    model = copy.deepcopy(model).to(dtype)
    return lambda pixels: model.get_image_features(pixels.to(dtype)).pooler_output.float()


def autocast_form(model: PIRModel, image_features: Callable | None = None) -> Form:
    """Float32 weights, bfloat16 products.

    Args:
        model: in float32.
        image_features: compiled, in the place of the model's own.
    """
    image_features = image_features or model.get_image_features

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return image_features(pixels).pooler_output.float()

    return run


def compiled_form(model: PIRModel) -> Form:
    """`autocast_form` by compiled code, made when the first batch comes; a batch of another size is compiled anew."""
    model = copy.deepcopy(model)
    return autocast_form(model, torch.compile(model.get_image_features, dynamic=False))


def onnx_form(program: Path) -> Form:
    """ONNX Runtime with as many threads as torch."""
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(str(program), options, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])


def quantize_convolutions(program: Path, output: Path, pixels: torch.Tensor) -> None:
    """Weights and activations of the convolutions in 8 bits, their ranges from a few images."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        batches = iter([{"pixel_values": batch.numpy()} for batch in pixels.split(8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(str(program), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(output), Reader(), per_channel=True, op_types_to_quantize=["Conv"])


def megabytes(model: PIRModel, dtype: torch.dtype) -> float:
    """Size of the image side's weights."""
    text_side = ("text_model.", "text_projection.", "lca.")
    numbers = sum(value.numel() for name, value in model.state_dict().items() if not name.startswith(text_side))
    return numbers * dtype.itemsize / 1e6


def build_forms(model: PIRModel, exported: Path, pixels: torch.Tensor) -> dict[str, tuple[Form, float]]:
    """Every form with its size in megabytes."""
    programs = {"ONNX Runtime, float32": exported / "onnx" / "vision_model.onnx"}
    programs["ONNX Runtime, 8-bit matrices"] = exported / "onnx" / "vision_model_quantized.onnx"
    static = exported / "static.onnx"
    quantize_convolutions(programs["ONNX Runtime, float32"], static, pixels[:NUM_CALIBRATION])
    programs["ONNX Runtime, 8-bit convolutions"] = static
    forms = {
        "torch, float32": (torch_form(model, torch.float32), megabytes(model, torch.float32)),
        "torch, bfloat16 autocast": (autocast_form(model), megabytes(model, torch.float32)),
        "torch, bfloat16 autocast, compiled": (compiled_form(model), megabytes(model, torch.float32)),
        "torch, bfloat16 weights": (torch_form(model, torch.bfloat16), megabytes(model, torch.bfloat16)),
    }
    return forms | {name: (onnx_form(path), path.stat().st_size / 1e6) for name, path in programs.items()}


@torch.inference_mode()
def embed(form: Form, pixels: torch.Tensor) -> torch.Tensor:
    """All images by a form: (images, dim), unit norm."""
    return torch.cat([F.normalize(form(batch), dim=-1) for batch in pixels.split(BATCH_SIZE)])


def measure(model_folder: str, data: str, repeats: int) -> dict[str, dict[str, float]]:
    """Images a second, megabytes and mR of every form."""
    model, processor = load_pretrained(model_folder)
    rows = load_image_captions(data, "test")
    pixels = torch.cat(
        [processor(images=[image], return_tensors="pt")["pixel_values"] for image in decoded_images(rows)]
    )
    texts = [text for of_image in rows["captions"] for text in of_image]
    counts = torch.tensor([len(of_image) for of_image in rows["captions"]])
    text_embeds, text_to_image = embed_texts(model, processor, texts), torch.arange(len(rows)).repeat_interleave(counts)
    with tempfile.TemporaryDirectory() as folder:
        export(model_folder, folder)
        forms = build_forms(model, Path(folder), pixels)
        found = {}
        for name, (form, size) in forms.items():
            ranks = streamed_retrieval_ranks(embed(form, pixels), text_embeds, text_to_image)
            found[name] = {"images_per_second": 0.0, "megabytes": size, "mR": recall_metrics(*ranks)["mR"]}
        batch = pixels[:BATCH_SIZE]
        for _ in range(repeats):
            for name, (form, _) in forms.items():
                start = time.perf_counter()
                embed(form, batch)
                rate = len(batch) / (time.perf_counter() - start)
                found[name]["images_per_second"] = max(found[name]["images_per_second"], rate)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.cpu_forms", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a PIR model")
    parser.add_argument("--data", default="sample", help="data with a test split (default: the drawn sample)")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    with one_sentence():
        found = measure(args.model, args.data, args.repeats)
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {BATCH_SIZE}")
    print(f"{'form':36} {'images/s':>9} {'MB':>7} {'mR':>7}")
    for name, values in found.items():
        print(f"{name:36} {values['images_per_second']:9.1f} {values['megabytes']:7.2f} {values['mR']:7.2f}")


if __name__ == "__main__":
    main()
