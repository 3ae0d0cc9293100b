"""Measure training and embedding on one GPU at the paper's size, into one JSON file.

    python -m training.benchmarks.gpu --output gpu.json                # every job, compilation included: 8 minutes
    python -m training.benchmarks.gpu --output gpu.json --minutes 3    # the jobs that fit, the most telling ones first
    python -m training.benchmarks.gpu --output gpu.json --tiny --batch-size 4      # every job on a CPU, in a minute

Weights are random and pixels and captions are drawn, so nothing is needed but the checkout. Three ways to train take
the same batch: "plain", as a paper's code runs it (float32, attention written out, whole cross-attentions); "ours",
bfloat16 by autocast, fused attention and optimiser; "compiled", ours by torch.compile. The file is written anew behind
every job, so that a run that is cut off keeps what it has measured.
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from modeling_pir import PIRConfig, PIRModel
from training.benchmarks.plain_way import plain_image_embeds, plain_text_embeds
from training.loop.grad_cache import cached_backward
from training.loop.joint_loss import joint_losses

# Dense bfloat16 matrix products a second by NVIDIA's data sheets, TFLOP/s; other cards are held against `matrix_peak`.
DATA_SHEET_TFLOPS = {"NVIDIA H200": 989.4, "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA A100-SXM4-80GB": 312.0}
NUM_SCENES = 8
INPUTS = ("pixel_values", "input_ids", "attention_mask")  # of the model
MAX_FILES = 1024  # JPEGs that are drawn; an epoch of the loader reads each several times
FLOPS_BATCH = 4  # pairs that operations are counted on: they grow in proportion, but for the small product of the loss
TINY = {  # an architecture of the same parts for the tests and a look on a CPU
    "vision_config": {
        "model_type": "swin", "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
        "window_size": 4,
    },
    "text_config": {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "vocab_size": 1000,
    },
    "instruction_config": {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic",
    },
    "projection_dim": 32, "num_attention_heads": 4, "feedforward_dim": 64, "filter_size": 40,
}  # fmt: skip


@dataclass
class Setting:
    """What all jobs share.

    Attributes:
        model: fields of [`PIRConfig`]; none for the paper's size.
        device: "cuda" or "cpu".
        batch_size: pairs of a step, images or texts of an embedding.
        length: tokens of every caption, padding included.
        repeats: timed passes of a job, of which the median counts.
        memory_batches: batch sizes whose peak memory is measured.
        chunk_size: pairs of a chunk of gradient caching.
        num_workers: loader processes.
        num_images: JPEG files that the loader reads.
    """

    model: dict[str, Any]
    device: str
    batch_size: int
    length: int
    repeats: int
    memory_batches: list[int]
    chunk_size: int
    num_workers: int
    num_images: int


@dataclass
class Job:
    """A part of the run: its name in the file, what it does (findings as they are made), its seconds on an H100."""

    name: str
    run: Callable[[Setting], Iterator[dict[str, Any]]]
    seconds: int


def synchronize() -> None:
    """Wait for the device, whose work runs behind the host's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a pass, behind two that warm up."""
    durations = []
    for index in range(2 + repeats):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        if index >= 2:
            durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def free_memory() -> None:
    """Give the last job's memory back, and count the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Peak of the GPU's memory since [`free_memory`], GiB; None without one."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 3) if torch.cuda.is_available() else None


def build_model(setting: Setting, attention: str) -> PIRModel:
    """The model with random weights, always the same ones."""
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = PIRModel(PIRConfig(**setting.model))
    model.set_attn_implementation(attention)
    return model


def draw_batch(setting: Setting, batch_size: int) -> dict[str, torch.Tensor]:
    """Model inputs on the device: `pixel_values`, `input_ids`, `attention_mask`; half of the captions are padded."""
    config, generator = PIRConfig(**setting.model), torch.Generator().manual_seed(0)
    side, length = config.vision_config.image_size, setting.length
    lengths = torch.randint(length // 2, length + 1, (batch_size,), generator=generator)
    batch = {
        "pixel_values": torch.randn(batch_size, 3, side, side, generator=generator),
        "input_ids": torch.randint(5, config.text_config.vocab_size, (batch_size, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
    }
    return {name: tensor.to(setting.device) for name, tensor in batch.items()}


def training_step(
    model: PIRModel, run_model: Callable[..., Any], optimizer: torch.optim.Optimizer, dtype: torch.dtype
) -> Callable[[dict[str, torch.Tensor]], None]:
    """A step of the optimiser on a batch, as `training.train` does it: losses, gradients clipped to norm 1, update."""

    def step(batch: dict[str, torch.Tensor]) -> None:
        scene_labels = torch.arange(len(batch["pixel_values"]), device=model.device) % NUM_SCENES
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = run_model(**batch, scene_labels=scene_labels, return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_forward(model: PIRModel) -> Callable[..., Any]:
    """The plain way's losses of a batch."""

    def run(
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        scene_labels: torch.Tensor,
        return_loss: bool,
    ) -> Any:
        text_inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        image_embeds, text_embeds = plain_image_embeds(model, pixel_values), plain_text_embeds(model, text_inputs)
        return model.compute_loss(image_embeds, text_embeds, scene_labels=scene_labels)

    return run


def count_training_flops(setting: Setting) -> Iterator[dict[str, Any]]:
    """Operations of the model for one pair, forward and backward, and for one image and one text, forward.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two; padding counts
    with the tokens. The frozen prior runs forward only.
    """
    model, batch = build_model(setting, "sdpa").train(), draw_batch(setting, FLOPS_BATCH)
    text_inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def per_item(run: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / FLOPS_BATCH / 1e9

    found = {"pair": per_item(lambda: model(**batch, return_loss=True).loss.backward())}
    with torch.no_grad():
        found["image"] = per_item(lambda: model.get_image_features(batch["pixel_values"]))
        found["text"] = per_item(lambda: model.get_text_features(**text_inputs))
    yield {f"gflops_per_{name}": round(value, 3) for name, value in found.items()}


def matrix_peak(setting: Setting) -> Iterator[dict[str, Any]]:
    """TFLOP/s of a large product of bfloat16 matrices, and what the data sheet says of the card."""
    side = 8192 if setting.device == "cuda" else 256
    left, right = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    tflops = 2 * side**3 / seconds_of(lambda: left @ right, 10) / 1e12
    name = torch.cuda.get_device_name() if setting.device == "cuda" else None
    yield {"measured_tflops": round(tflops, 4), "data_sheet_tflops": DATA_SHEET_TFLOPS.get(name)}


def train_plain(setting: Setting) -> Iterator[dict[str, Any]]:
    """The plain way."""
    model, batch = build_model(setting, "eager").train(), draw_batch(setting, setting.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)
    step = training_step(model, plain_forward(model), optimizer, torch.float32)
    yield rate("pairs", setting, lambda: step(batch))


def train_ours(setting: Setting) -> Iterator[dict[str, Any]]:
    """Our way, not compiled."""
    model, batch = build_model(setting, "sdpa").train(), draw_batch(setting, setting.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=True)
    step = training_step(model, model, optimizer, torch.bfloat16)
    yield rate("pairs", setting, lambda: step(batch))


def train_compiled(setting: Setting) -> Iterator[dict[str, Any]]:
    """Our way by compiled code; then the same step fed by a loader that reads JPEG files."""
    found, step = compiled_step(setting, "sdpa")
    yield found
    yield {"loader": loader_wait(setting, step)}


def train_compiled_written_out(setting: Setting) -> Iterator[dict[str, Any]]:
    """Compiled, the attention written out, which the compiler then fuses by itself."""
    yield compiled_step(setting, "eager")[0]


def compiled_step(setting: Setting, attention: str) -> tuple[dict[str, Any], Callable[[dict[str, torch.Tensor]], None]]:
    """Time a compiled step and the compilation; the step itself is handed on."""
    model, batch = build_model(setting, attention).train(), draw_batch(setting, setting.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=True)
    step = training_step(model, torch.compile(model), optimizer, torch.bfloat16)
    start = time.perf_counter()
    step(batch)
    synchronize()
    compile_seconds = round(time.perf_counter() - start, 1)
    return rate("pairs", setting, lambda: step(batch)) | {"compile_seconds": compile_seconds}, step


def rate(unit: str, setting: Setting, run: Callable[[], object]) -> dict[str, Any]:
    """Items a second of a pass over one batch, and the peak memory."""
    seconds = seconds_of(run, setting.repeats)
    return {f"{unit}_per_second": round(setting.batch_size / seconds, 2), "peak_gib": peak_gib()}


def loader_wait(setting: Setting, step: Callable[[dict[str, torch.Tensor]], None]) -> list[dict[str, Any]]:
    """How long a step waits for its next batch when pairs come from JPEG files, with and without RandAugment.

    Raises:
        ImportError: `datasets` is missing, as it may be on a lent machine; all other jobs run without it.
    """
    from training.benchmarks.jpeg_loader import build_jpeg_loader, build_processor, draw_jpegs, jpeg_items
    from training.data.items import TrainCollator

    side = PIRConfig(**setting.model).vision_config.image_size
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = draw_jpegs(Path(folder), min(setting.num_images, MAX_FILES), side)
        for rand_augment in (False, True):
            items = jpeg_items(files, setting.num_images, side, rand_augment)
            collate = TrainCollator(build_processor(side, setting.length), as_bytes=True)
            loader = build_jpeg_loader(items, collate, setting.batch_size, setting.num_workers)
            rows.append({"rand_augment": rand_augment} | wait_of(loader, setting, step))
    return rows


def wait_of(loader: DataLoader, setting: Setting, step: Callable[[dict[str, torch.Tensor]], None]) -> dict[str, float]:
    """Images a second of the loader by itself, pairs a second of steps that it feeds, and the share they wait.

    The device is waited for behind every step, so that a batch that comes late is time in which the device idles.
    """
    from training.data.items import normalised

    start = time.perf_counter()  # the processes start, and the files come into the system's memory
    for _ in loader:
        pass
    first_epoch = time.perf_counter() - start
    waiting, start = 0.0, time.perf_counter()
    before = start
    for batch in loader:
        batch = {name: batch[name].to(setting.device, non_blocking=True) for name in INPUTS}
        batch = normalised(batch, loader.collate_fn.processor.image_processor)
        waiting += time.perf_counter() - before
        step(batch)
        synchronize()
        before = time.perf_counter()
    total = time.perf_counter() - start
    num_images = len(loader) * setting.batch_size
    return {
        "images_per_second_alone": round(num_images / first_epoch, 1),
        "pairs_per_second_trained": round(num_images / total, 1),
        "waiting_share": round(waiting / total, 4),
    }


def embed(setting: Setting, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """Embedding images and texts with bfloat16 weights."""
    model, batch = build_model(setting, "sdpa").eval().to(torch.bfloat16), draw_batch(setting, setting.batch_size)
    pixel_values = batch.pop("pixel_values").to(torch.bfloat16)
    image_features, text_features = model.get_image_features, model.get_text_features
    if compiled:
        image_features, text_features = torch.compile(image_features), torch.compile(text_features)
    with torch.no_grad():
        found = rate("images", setting, lambda: image_features(pixel_values).pooler_output)
        found |= rate("texts", setting, lambda: text_features(**batch).pooler_output)
    yield found


def step_memory(setting: Setting) -> Iterator[dict[str, Any]]:
    """Peak GiB of a training step over the batch size: plain beside gradient caching in chunks; and its pairs a second.

    A batch that does not fit is an answer, too: its entry is None.
    """
    accelerator = Accelerator(cpu=setting.device == "cpu")
    rows = []
    for batch_size in setting.memory_batches:
        for chunk_size in (0, setting.chunk_size):
            free_memory()
            try:
                seconds = one_step(setting, accelerator, batch_size, chunk_size)
                found = {"peak_gib": peak_gib(), "pairs_per_second": round(batch_size / seconds, 2)}
            except torch.OutOfMemoryError:
                found = {"peak_gib": None, "pairs_per_second": None}
            rows.append({"batch_size": batch_size, "chunk_size": chunk_size} | found)
    yield {"steps": rows}


def one_step(setting: Setting, accelerator: Accelerator, batch_size: int, chunk_size: int) -> float:
    """Seconds of the second of two steps; `chunk_size` 0 takes the batch as a whole."""
    model, batch = build_model(setting, "sdpa").train(), draw_batch(setting, batch_size)
    model.forward = torch.autocast(setting.device, dtype=torch.bfloat16)(model.forward)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=True)
    ids = torch.arange(batch_size, device=setting.device)
    for _ in range(2):
        synchronize()
        start = time.perf_counter()
        if chunk_size:
            cached_backward(accelerator, model, batch, ids, ids % NUM_SCENES, chunk_size)
        else:
            outputs = model(**batch)
            joint_losses(model, outputs.image_embeds, outputs.text_embeds, ids, ids % NUM_SCENES, 0).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
    return time.perf_counter() - start


JOBS = [
    Job("operations", count_training_flops, 10),
    Job("matrix_peak", matrix_peak, 5),
    Job("train_plain", train_plain, 20),
    Job("train_ours", train_ours, 15),
    Job("embed", embed, 15),
    Job("train_compiled", train_compiled, 80),
    Job("memory", step_memory, 30),
    Job("embed_compiled", lambda setting: embed(setting, compiled=True), 60),
    Job("train_compiled_written_out", train_compiled_written_out, 90),
]


def comparisons(results: dict[str, Any]) -> dict[str, Any]:
    """What the issue asks of the figures: times the plain way, and shares of the matrix peak by model operations."""
    plain = results.get("train_plain", {}).get("pairs_per_second")
    gflops = results.get("operations", {}).get("gflops_per_pair")
    peak = results.get("matrix_peak", {})
    found = {}
    for name in ("train_plain", "train_ours", "train_compiled", "train_compiled_written_out"):
        pairs = results.get(name, {}).get("pairs_per_second")
        if pairs and plain:
            found[name] = {"times_plain": round(pairs / plain, 2)}
            if gflops and peak.get("measured_tflops"):
                tflops = pairs * gflops / 1e3
                found[name] |= {"model_tflops": round(tflops, 2)}
                for source in ("data_sheet", "measured"):
                    if peak.get(f"{source}_tflops"):
                        found[name][f"share_of_{source}_peak"] = round(tflops / peak[f"{source}_tflops"], 4)
    return found


def run_jobs(setting: Setting, minutes: float, output: Path, jobs: list[Job]) -> dict[str, Any]:
    """Run the jobs that fit into the time, and write the file behind each."""
    deadline = time.monotonic() + 60 * minutes
    results = {
        "machine": {
            "device": torch.cuda.get_device_name() if setting.device == "cuda" else "CPU",
            "cpu_cores": os.cpu_count(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "setting": asdict(setting),
        "left_out": [],
        "failed": {},
        "seconds": {},
    }
    for job in jobs:
        if time.monotonic() + job.seconds > deadline:
            results["left_out"].append(job.name)
            continue
        free_memory()
        start = time.monotonic()
        try:
            for found in job.run(setting):
                results[job.name] = results.get(job.name, {}) | found
                results["comparisons"] = comparisons(results)
                output.write_text(json.dumps(results, indent=2) + "\n")
        except Exception as error:  # reported and in the file; a lent machine's time is not lost for the other jobs
            traceback.print_exc()
            results["failed"][job.name] = str(error)
        results["seconds"][job.name] = round(time.monotonic() - start, 1)
        output.write_text(json.dumps(results, indent=2) + "\n")
        print(job.name, f"{results['seconds'][job.name]} s", json.dumps(results.get(job.name)), flush=True)
    print(json.dumps(results["comparisons"], indent=2))
    return results


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--minutes", type=float, default=8, help="jobs that would not end in time are left out")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--tiny", action="store_true", help="a tiny model instead of the paper's size")
    args = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = True  # as the official code sets it, too
    setting = Setting(
        model=TINY if args.tiny else {},
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=args.batch_size,
        length=32,
        repeats=1 if args.tiny else 15,
        memory_batches=[args.batch_size * factor for factor in ((1,) if args.tiny else (0.25, 0.5, 1, 2, 4))],
        chunk_size=max(args.batch_size // 4, 1),
        num_workers=2 if args.tiny else os.cpu_count() or 1,
        num_images=args.batch_size * (2 if args.tiny else 20),
    )
    setting.memory_batches = [int(size) for size in setting.memory_batches]
    results = run_jobs(setting, args.minutes, args.output, JOBS)
    if results["failed"]:
        raise SystemExit(f"error: {', '.join(results['failed'])} failed; the rest is in {args.output}.")


if __name__ == "__main__":
    main()
