"""What each part of PIR costs: forward + backward throughput of the model beside its bare towers, in one run.

    python -m training.benchmark                     # official size: Swin-T, BERT-base, ResNet-50, 224 pixels
    python -m training.benchmark --config training/configs/rsicd_mini.yaml --batch-size 64

The towers one after the other are the floor: nothing that PIR adds can be cheaper. The heads' share is what the model
costs beyond them.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import nn

from modeling_pir import PIRConfig, PIRModel
from training.config import load_config


def seconds_per_step(step: Callable[[], torch.Tensor], repeats: int) -> float:
    """Best time of a forward and backward pass, seconds; the first pass warms up and is not counted."""
    times = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        step().backward()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def synchronize() -> None:
    """Wait for the device, whose work runs behind the host's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_steps(model: PIRModel, batch_size: int, length: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """One function per part; each returns a scalar to run backward from.

    Args:
        model: in training mode.
        batch_size: images and captions.
        length: tokens of a caption.
        device: such as "cpu".

    Returns:
        Name to function.
    """
    config = model.config
    size = config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    input_ids = torch.randint(5, config.text_config.vocab_size, (batch_size, length), generator=generator).to(device)
    scene_labels = (torch.arange(batch_size) % 8).to(device)
    leaf = torch.ones((), requires_grad=True, device=device)

    def instruction_tower() -> torch.Tensor:  # frozen: forward only, as in the model
        with torch.no_grad():
            return model.instruction_model(pixel_values).pooler_output.sum() + 0 * leaf

    def towers() -> torch.Tensor:
        return vision_tower() + text_tower() + instruction_tower().detach()

    def vision_tower() -> torch.Tensor:
        return model.vision_model(pixel_values).last_hidden_state.sum()

    def text_tower() -> torch.Tensor:
        return model.text_model(input_ids).last_hidden_state.sum()

    def whole_model() -> torch.Tensor:
        return model(input_ids, pixel_values, scene_labels=scene_labels, return_loss=True).loss

    steps = {"vision tower": vision_tower, "text tower": text_tower}
    if model.instruction_model is not None:
        steps |= {"instruction tower (forward)": instruction_tower}
        steps |= {"towers one after the other": towers}
    return steps | {"PIRModel with losses": whole_model}


def run(model: PIRModel, batch_size: int, length: int, repeats: int, dtype: torch.dtype, device: str) -> None:
    """Print the table of one precision."""
    print(f"\n{str(dtype).removeprefix('torch.')}: batch {batch_size}, {length} tokens, best of {repeats}")
    print(f"{'part':32} {'ms':>9} {'pairs/s':>9} {'share':>7}")
    results = {}
    for name, step in make_steps(model, batch_size, length, device).items():

        def in_precision(step: Callable[[], torch.Tensor] = step) -> torch.Tensor:
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                return step()

        results[name] = seconds_per_step(in_precision, repeats)
        nn.Module.zero_grad(model)
    whole = results["PIRModel with losses"]
    for name, seconds in results.items():
        print(f"{name:32} {1000 * seconds:9.1f} {batch_size / seconds:9.2f} {seconds / whole:6.1%}")
    if "towers one after the other" in results:
        towers = results["towers one after the other"]
        print(f"{'heads and losses':32} {1000 * (whole - towers):9.1f} {'':9} {whole / towers - 1:+6.1%} of the towers")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m training.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="YAML file of TrainConfig (default: the official size)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=24, help="tokens of a caption")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PIRModel(PIRConfig(**load_config(args.config).model) if args.config else PIRConfig()).to(device).train()
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters")
    for dtype in args.dtype:
        run(model, args.batch_size, args.length, args.repeats, getattr(torch, dtype), device)


if __name__ == "__main__":
    main()
