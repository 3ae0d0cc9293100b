"""Peak memory of one training step by batch size, without and with gradient caching (`chunk_size`).

    python -m training.benchmarks.step_memory --config training/configs/rsicd_mini.yaml --batch-sizes 32 64 128 256 512
    python -m training.benchmarks.step_memory --batch-sizes 8 16 32 64 --chunk-size 8           # official size

Plain, the activations of the whole batch are held at once; cached, those of one chunk. Each step runs in a process of
its own. What both hold anyway (weights, gradients, moments of AdamW, the libraries) is in the figures.
"""

import argparse
import subprocess
import sys
import time

import torch
from accelerate import Accelerator

from modeling_pir import PIRConfig, PIRModel
from training.config import load_config
from training.loop.grad_cache import cached_backward
from training.loop.joint_loss import joint_losses
from training.model.build import image_side
from training.run.environment import peak_memory


def measure(config_path: str | None, batch_size: int, chunk_size: int, length: int) -> str:
    """Peak GiB and seconds of one step.

    Args:
        config_path: YAML file of TrainConfig; None for the official size.
        batch_size: images, each with one caption.
        chunk_size: 0 for a plain step.
        length: tokens of a caption.

    Returns:
        Two numbers in one line: on a GPU its peak memory, else that of this process.
    """
    run = load_config(config_path) if config_path else None
    torch.manual_seed(0)
    model = PIRModel(PIRConfig(**run.model) if run else PIRConfig()).train()
    size = (run and run.image_size) or image_side(model.config.vision_config)
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)
    model, optimizer = accelerator.prepare(model, optimizer)
    device = accelerator.device
    inputs = {
        "pixel_values": torch.randn(batch_size, 3, size, size, device=device),
        "input_ids": torch.randint(5, model.config.text_config.vocab_size, (batch_size, length), device=device),
        "attention_mask": torch.ones(batch_size, length, dtype=torch.long, device=device),
    }
    ids, labels = torch.arange(batch_size, device=device), torch.arange(batch_size, device=device) % 8
    start = time.perf_counter()
    if chunk_size:
        cached_backward(accelerator, model, inputs, ids, labels, chunk_size)
    else:
        outputs = model(**inputs)
        losses = joint_losses(model, outputs.image_embeds, outputs.text_embeds, ids, labels, 0)
        accelerator.backward(losses.loss)
    optimizer.step()
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak_memory()
    return f"{peak:.3f} {time.perf_counter() - start:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.step_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="YAML file of TrainConfig (default: the official size)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--chunk-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=24, help="tokens of a caption")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # the child processes' job
    args = parser.parse_args(arguments)
    if args.one:
        print(measure(args.config, args.batch_sizes[0], args.chunk_size, args.length))
        return
    print(f"{'batch':>6} {'plain GiB':>10} {'seconds':>8} {f'chunks of {args.chunk_size} GiB':>18} {'seconds':>8}")
    for batch_size in args.batch_sizes:
        cells = []
        for chunk_size in (0, args.chunk_size):
            command = [sys.executable, "-m", "training.benchmarks.step_memory", "--one", "--length", str(args.length)]
            command += ["--batch-sizes", str(batch_size), "--chunk-size", str(chunk_size)]
            command += ["--config", args.config] if args.config else []
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:  # such as out of memory, which is an answer, too
                print((done.stderr.strip() or f"ended by signal {-done.returncode}").splitlines()[-1], file=sys.stderr)
            cells.append(done.stdout.split()[-2:] if done.returncode == 0 else ["failed", "-"])
        (plain, plain_seconds), (cached, cached_seconds) = cells
        print(f"{batch_size:6} {plain:>10} {plain_seconds:>8} {cached:>18} {cached_seconds:>8}", flush=True)


if __name__ == "__main__":
    main()
