"""Compare this package's speed with a plain implementation: same weights, same machine, one run.

    python -m training.benchmarks.against_plain --captions rsicd --compile  # official size, batch 16
    python -m training.benchmarks.against_plain --captions FOLDER --part images

The plain way: float32, attention written out, every row of the cross-attentions although one is read, an image
encoded for each of its captions, every caption encoded although many are equal, padded to the longest of the split.
Ours: bfloat16 (autocast), fused attention and optimiser, one row of the last cross-attention, each distinct caption
once, in batches of like length; `--compile` adds compiled code with bfloat16 weights. Pixels are random, captions are
real; reading images from disk is not in these figures. The ways take turns, and the best round of each counts.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch._inductor.config as inductor
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertTokenizer

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.inference.embed import autocast, embed_texts
from modeling_pir.modeling_pir import PIROutput
from modeling_pir.processing_pir import build_image_processor
from training.benchmarks.model_parts import synchronize
from training.benchmarks.plain_way import plain_image_embeds, plain_text_embeds
from training.config import load_config
from training.data.sources import load_image_captions
from training.model.build import image_side
from training.model.tokenizer import train_tokenizer
from training.run.environment import peak_memory

PLAIN, OURS = "plain", "ours"
NUM_TEXT_BATCHES = 2  # of the plain way that are timed: all of its batches are equally long


@dataclass
class Way:
    """One way of doing a job.

    Attributes:
        run: does it once.
        amount: pairs, images or texts that it does.
    """

    run: Callable[[], object]
    amount: float


def image_ways(plain: PIRModel, ours: PIRModel, batch_size: int, device: str) -> dict[str, Way]:
    """Embedding images."""
    size = image_side(plain.config.vision_config)
    pixel_values = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def run_ours() -> None:
        with torch.inference_mode(), autocast(ours, torch.bfloat16):
            F.normalize(ours.get_image_features(pixel_values).pooler_output.float(), dim=-1)

    def run_plain() -> None:
        with torch.no_grad():
            plain_image_embeds(plain, pixel_values)

    return {PLAIN: Way(run_plain, batch_size), OURS: Way(run_ours, batch_size)}


def compiled_image_way(model: PIRModel, batch_size: int, device: str) -> Way:
    """Embedding images by compiled code, bfloat16 weights and norms folded into convolutions.

    Args:
        model: its weights are copied.
        batch_size: images at once, which the compiled code is made for.
        device: such as "cpu".
    """
    frozen = copy.deepcopy(model).to(torch.bfloat16).eval()
    embed = torch.compile(lambda pixels: F.normalize(frozen.get_image_features(pixels).pooler_output.float(), dim=-1))
    size = image_side(model.config.vision_config)
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(batch_size, 3, size, size, generator=generator).to(device, torch.bfloat16)

    def run() -> None:
        with torch.no_grad():
            embed(pixel_values)

    with inductor.patch(freezing=True):  # weights are constants: they are laid out, and norms folded in, once
        run()  # compiles, in a minute
    return Way(run, batch_size)


def text_ways(
    plain: PIRModel, ours: PIRModel, processor: PIRProcessor, captions: list[str], batch_size: int, device: str
) -> dict[str, Way]:
    """Embedding all captions of a split."""
    batch = sorted(captions, key=len)[-NUM_TEXT_BATCHES * batch_size :]
    inputs = processor(text=batch, return_tensors="pt").to(device)  # padded to the longest of the split

    def run_ours() -> None:
        embed_texts(ours, processor, captions, batch_size, torch.bfloat16)

    def run_plain() -> None:
        with torch.no_grad():
            for start in range(0, len(batch), batch_size):
                rows = slice(start, start + batch_size)
                plain_text_embeds(plain, {name: tensor[rows] for name, tensor in inputs.items()})

    return {PLAIN: Way(run_plain, len(batch)), OURS: Way(run_ours, len(captions))}


def training_ways(
    plain: PIRModel,
    ours: PIRModel,
    processor: PIRProcessor,
    captions: list[list[str]],
    batch_size: int,
    device: str,
    compiled: bool = False,
) -> dict[str, Way]:
    """Steps of the optimiser on `batch_size` pairs; ours also compiled, and with two captions for each image.

    Compiled is what `accelerate launch --dynamo_backend inductor -m training.train` runs.
    """
    size = image_side(plain.config.vision_config)
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    order = torch.randperm(len(captions), generator=generator)[:batch_size].tolist()
    longest = max((text for texts in captions for text in texts), key=len)
    padded = processor(text=[*(captions[image][0] for image in order), longest], return_tensors="pt").to(device)
    padded = {name: tensor[:batch_size] for name, tensor in padded.items()}
    scene_labels = (torch.arange(batch_size) % 8).to(device)
    optimizers = {
        plain: torch.optim.AdamW(plain.parameters(), 1e-6),
        ours: torch.optim.AdamW(ours.parameters(), 1e-6, fused=True),
    }

    def step(model: PIRModel, loss: torch.Tensor) -> None:
        loss.backward()
        optimizers[model].step()
        optimizers[model].zero_grad()

    def run_plain() -> None:
        image_embeds, text_embeds = plain_image_embeds(plain, pixel_values), plain_text_embeds(plain, padded)
        step(plain, plain.compute_loss(image_embeds, text_embeds, scene_labels=scene_labels).loss)

    def ours_with(captions_per_image: int, run_model: Callable[..., PIROutput] = ours) -> Way:
        images = batch_size // captions_per_image
        texts = [
            text for image in order[:images] for text in (captions[image] * captions_per_image)[:captions_per_image]
        ]
        inputs = processor(text=texts, return_tensors="pt").to(device)

        def run() -> None:
            with autocast(ours, torch.bfloat16):
                labels = {"scene_labels": scene_labels[:images], "return_loss": True}
                loss = run_model(pixel_values=pixel_values[:images], **inputs, **labels).loss
            step(ours, loss)

        return Way(run, images * captions_per_image)

    ways = {PLAIN: Way(run_plain, batch_size), OURS: ours_with(1)}
    if compiled:
        ways["ours, compiled"] = ours_with(1, torch.compile(ours))
        ways["ours, compiled"].run()  # compiles
    return ways | {"ours, 2 captions an image": ours_with(2)} if batch_size > 1 else ways


def rates(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Best amount per second of each way; they take turns."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(repeats):
        for name, way in ways.items():
            synchronize()
            start = time.perf_counter()
            way.run()
            synchronize()
            best[name] = max(best[name], way.amount / (time.perf_counter() - start))
    return best


def print_rates(title: str, unit: str, found: dict[str, float]) -> None:
    """A table of one job."""
    print(f"\n{title:30} {unit + '/s':>10} {'times plain':>12}")
    for name, rate in found.items():
        print(f"{name:30} {rate:10.2f} {rate / found[PLAIN]:12.2f}", flush=True)


def flops_per_second(way: Way, rate: float) -> float:
    """Model FLOPs a second of a way at its best rate; what counts are products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        way.run()
    return counter.get_total_flops() / way.amount * rate


def print_flops(ways: dict[str, Way], found: dict[str, float], peak: float | None) -> None:
    """Floating-point operations a second of each way, and their share of the machine's matrix peak where it is given.

    Args:
        ways: of one job.
        found: their rates.
        peak: of the device in the precision of ours, in TFLOP/s; None leaves the share out.
    """
    for name, way in ways.items():
        tera = flops_per_second(way, found[name]) / 1e12
        share = f", {100 * tera / peak:.1f} % of {peak:g}" if peak and name != PLAIN else ""
        print(f"{name}: {tera:.3f} TFLOP/s of model operations{share}", flush=True)


def build_models(config: PIRConfig, device: str) -> tuple[PIRModel, PIRModel]:
    """The same weights twice: with attention written out, and with fused attention."""
    plain = PIRModel(config).to(device)
    ours = PIRModel(PIRConfig(**config.to_diff_dict())).to(device)
    ours.load_state_dict(plain.state_dict())
    plain.set_attn_implementation("eager")
    ours.set_attn_implementation("sdpa")
    return plain, ours


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.against_plain", description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="YAML file of TrainConfig (default: the official size)")
    parser.add_argument("--captions", default="sample", help="data whose captions are used (default: the drawn sample)")
    parser.add_argument("--split-list", help="see training.train")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also embed images and train by torch.compile's code")
    parser.add_argument("--peak-tflops", type=float, help="matrix peak of the device in bfloat16, for the share of it")
    parser.add_argument("--part", choices=("images", "texts", "training"), nargs="+", default=None)
    args = parser.parse_args(arguments)
    parts = args.part or ["images", "texts", "training"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = PIRConfig(**load_config(args.config).model) if args.config else PIRConfig()
    captions = list(load_image_captions(args.captions, "test", args.split_list)["captions"])
    texts = [text for of_image in captions for text in of_image]
    tokenizer: BertTokenizer = train_tokenizer(texts, config.text_config.vocab_size, max_length=64)
    processor = PIRProcessor(build_image_processor(image_side(config.vision_config)), tokenizer)
    plain, ours = build_models(config, device)
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {args.batch_size}")
    print(f"{len(texts)} captions, {len(set(texts))} of them distinct")
    plain.eval(), ours.eval()
    if "images" in parts:
        ways = image_ways(plain, ours, args.batch_size, device)
        if args.compile:
            ways["ours, compiled"] = compiled_image_way(ours, args.batch_size, device)
        print_rates("embedding images", "images", rates(ways, args.repeats))
    if "texts" in parts:
        ways = text_ways(plain, ours, processor, texts, 64, device)
        print_rates("embedding captions", "texts", rates(ways, args.repeats))
    if "training" in parts:
        plain.train(), ours.train()
        ways = training_ways(plain, ours, processor, captions, args.batch_size, device, args.compile)
        found = rates(ways, args.repeats)
        print_rates("training", "pairs", found)
        print_flops(ways, found, args.peak_tflops)
    used = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak_memory()
    if used is not None:  # Windows does not tell
        print(f"peak memory of all this: {used:.2f} GiB")


if __name__ == "__main__":
    main()
