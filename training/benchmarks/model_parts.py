"""Measure the cost of each part of PIR: forward + backward throughput of the model and of its bare towers.

    python -m training.benchmarks.model_parts  # official size: Swin-T, BERT-base, ResNet-50, 224 pixels
    python -m training.benchmarks.model_parts --config training/configs/rsicd_mini.yaml --batch-size 64

The towers one after the other are the floor: what PIR adds comes on top of them. The parts take turns in each round and
the best round of each counts, so that other work on the machine does not favour one of them.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch

from modeling_pir import PIRConfig, PIRModel
from training.config import load_config

TOWERS, WHOLE = "towers one after the other", "PIRModel with losses"


def synchronize() -> None:
    """Wait for the device, whose work runs behind the host's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_steps(model: PIRModel, batch_size: int, length: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """One function per part; each returns a scalar to run backward from.

    Args:
        model: in training mode.
        batch_size: images and captions.
        length: tokens of the longest captions; the others have at least half as many, and padding.
        device: such as "cpu".

    Returns:
        Name to function.
    """
    config = model.config
    size = config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    input_ids = torch.randint(5, config.text_config.vocab_size, (batch_size, length), generator=generator).to(device)
    lengths = torch.randint(length // 2, length + 1, (batch_size,), generator=generator)
    attention_mask = (torch.arange(length) < lengths[:, None]).long().to(device)
    scene_labels = (torch.arange(batch_size) % 8).to(device)

    def vision_tower() -> torch.Tensor:
        return model.vision_model(pixel_values).last_hidden_state.sum()

    def text_tower() -> torch.Tensor:
        return model.text_model(input_ids, attention_mask).last_hidden_state.sum()

    def instruction_tower() -> torch.Tensor:  # frozen: forward only, as in the model
        with torch.no_grad():
            pooled = model.instruction_model(pixel_values).pooler_output
        return pooled.sum().requires_grad_()

    def towers() -> torch.Tensor:
        total = vision_tower() + text_tower()
        return total if model.instruction_model is None else total + instruction_tower().detach()

    def whole_model() -> torch.Tensor:
        return model(input_ids, pixel_values, attention_mask, scene_labels=scene_labels, return_loss=True).loss

    steps = {"vision tower": vision_tower, "text tower": text_tower}
    if model.instruction_model is not None:
        steps |= {"instruction tower (forward)": instruction_tower}
    return steps | {TOWERS: towers, WHOLE: whole_model}


def best_seconds(
    model: PIRModel, steps: dict[str, Callable[[], torch.Tensor]], repeats: int, dtype: torch.dtype, device: str
) -> dict[str, float]:
    """Best time of a forward and backward pass of each part.

    The parts take turns, so that whatever else the machine does strikes all of them alike.

    Args:
        model: whose gradients are dropped before each pass, outside of the measured time.
        steps: of [`make_steps`].
        repeats: rounds; the first one warms up and is hardly ever the best.
        dtype: torch.float32, or the precision of autocast.
        device: such as "cpu".

    Returns:
        Name to seconds.
    """
    seconds = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats):
        for name, step in steps.items():
            model.zero_grad()
            synchronize()
            start = time.perf_counter()
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                scalar = step()
            scalar.backward()
            synchronize()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def run(model: PIRModel, batch_size: int, length: int, repeats: int, dtype: torch.dtype, device: str) -> None:
    """Print the table of one precision."""
    results = best_seconds(model, make_steps(model, batch_size, length, device), repeats, dtype, device)
    whole, towers = results[WHOLE], results[TOWERS]
    print(f"\n{str(dtype).removeprefix('torch.')}: batch {batch_size}, {length} tokens, best of {repeats}")
    print(f"{'part':32} {'ms':>9} {'pairs/s':>9} {'share':>7}")
    for name, seconds in results.items():
        print(f"{name:32} {1000 * seconds:9.1f} {batch_size / seconds:9.2f} {seconds / whole:7.1%}")
    print(f"{'heads and losses':32} {1000 * (whole - towers):9.1f} {'':9} {1 - towers / whole:7.1%}")
    print(f"heads and losses cost {whole / towers - 1:+.1%} beyond the towers")


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmarks.model_parts", description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="YAML file of TrainConfig (default: the official size)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=24, help="tokens of the longest captions")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PIRModel(PIRConfig(**load_config(args.config).model) if args.config else PIRConfig()).to(device).train()
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters")
    for dtype in args.dtype:
        run(model, args.batch_size, args.length, args.repeats, getattr(torch, dtype), device)


if __name__ == "__main__":
    main()
