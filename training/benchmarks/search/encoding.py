"""Encoding speed of models side by side: images per second, milliseconds per text.

    python -m training.benchmarks.search.encoding --model hub_configs/pir-small-rsicd --model OTHER

Images of noise, decoded but not yet resized, in batches; texts one at a time. The models take turns, and the best round
of each counts. A model that has been exported (`pir export MODEL MODEL`) embeds images in ONNX Runtime, as `pir index`
does.
"""

import argparse
import platform
import statistics
import time

import numpy as np
import torch
from PIL import Image

from modeling_pir.errors import one_sentence
from modeling_pir.inference.encoder import Encoder, PIREncoder, load_encoder

SIDE = 224  # pixels
BATCH_SIZE = 32
TEXTS = (
    "many planes are parked beside a terminal of an airport",
    "a river winds through a dense green forest",
    "some boats are in a harbour with several docks",
    "houses with red roofs along a straight road",
)
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


def images_per_second(encoder: Encoder, images: list[Image.Image], dtype: torch.dtype | None) -> float:
    """Images a second in one pass, resizing and normalising included."""
    start = time.perf_counter()
    encoder.embed_images(images, BATCH_SIZE, dtype)
    return len(images) / (time.perf_counter() - start)


def text_milliseconds(encoder: Encoder) -> float:
    """Median time of one text, by itself, with its tokenization."""
    seconds = []
    for text in TEXTS:
        start = time.perf_counter()
        encoder.embed_texts([text])
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def measure(encoders: dict[str, Encoder], num_images: int, repeats: int) -> dict[str, dict[str, float]]:
    """Measure encoders in turns.

    Args:
        encoders: by name.
        num_images: of a pass.
        repeats: rounds; the first one warms up and is hardly ever the best.

    Returns:
        By name: images a second in `float32` and `bfloat16`, and `text` in milliseconds; the best round of each.
    """
    noise = np.random.default_rng(0).integers(0, 256, (num_images, SIDE, SIDE, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    found = {name: dict.fromkeys(DTYPES, 0.0) | {"text": float("inf")} for name in encoders}
    for _ in range(repeats):
        for name, encoder in encoders.items():
            best = found[name]
            for precision, dtype in DTYPES.items():
                best[precision] = max(best[precision], images_per_second(encoder, images, dtype))
            best["text"] = min(best["text"], text_milliseconds(encoder))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        "python -m training.benchmarks.search.encoding", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--model", action="append", required=True, help="Hub id or folder; repeat to compare")
    parser.add_argument("--images", type=int, default=128, help="of a pass (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    args = parser.parse_args(arguments)
    with one_sentence():
        encoders = {name: load_encoder(name) for name in args.model}
    found = measure(encoders, args.images, args.repeats)
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, {SIDE} pixels")
    print(f"{'images/s float32':>16} {'bfloat16':>9} {'ms a text':>10}  model")
    for name, values in found.items():
        is_exported = isinstance(encoders[name], PIREncoder) and encoders[name].vision_session is not None
        note = " (float32 by ONNX Runtime)" if is_exported else ""
        print(f"{values['float32']:16.1f} {values['bfloat16']:9.1f} {values['text']:10.1f}  {name}{note}")


if __name__ == "__main__":
    main()
