"""Rebuild, number for number, the checkpoints and inputs behind the reference outputs in this folder.

The reference outputs were produced by running the official PIR code (jaychempan/PIR, commit e3faeda, MIT) in eval mode
on the weights and inputs that this file makes. No published checkpoint can be had without its cloud drive, so the
weights are drawn from a generator seeded by each tensor's own name: the same name gives the same numbers anywhere.

    python official_checkpoint.py pir_small pir_small.pth     # {'model': state dict, 'config': official YAML values}

Then `load_reference("pir_small")` gives the inputs and the outputs to compare with. README.md says what each output is.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def reference_tensor(name: str, shape: tuple[int, ...], dtype: str, salt: str) -> torch.Tensor:
    """The tensor called `name` in a reference checkpoint."""
    if dtype == "int64" or name.endswith("attn_mask"):  # buffers that a model derives from its own configuration
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    if name in ("temp", "temp2"):
        return torch.tensor(0.07)
    normal = np.random.default_rng(zlib.crc32(f"{salt}/{name}".encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_mean"):
        value = 0.05 * normal
    elif name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(normal)
    elif "relative_position_bias_table" in name:
        value = 0.02 * normal
    elif len(shape) >= 2:
        value = normal / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = 1 + 0.1 * normal
    else:
        value = 0.02 * normal
    return torch.as_tensor(np.asarray(value, dtype=np.float32))


def reference_inputs(salt: str, batch: int, length: int, vocab_size: int, *, first_id: int, cls_id: int, sep_id: int):
    """pixel_values (batch, 3, 224, 224), input_ids (batch, length) padded with 0, and the true lengths (batch,)."""
    rng = np.random.default_rng(zlib.crc32(f"{salt}/inputs".encode()))
    pixel_values = np.kron(rng.standard_normal((batch, 3, 7, 7)), np.ones((32, 32))).astype(np.float32)
    pixel_values += 0.3 * rng.standard_normal((batch, 3, 224, 224)).astype(np.float32)
    input_ids = rng.integers(first_id, vocab_size - 1, size=(batch, length)).astype(np.int64)
    input_ids[:, 0] = cls_id
    lengths = rng.integers(5, length + 1, size=batch)
    lengths[0] = length
    for row, n in enumerate(lengths):
        input_ids[row, n - 1] = sep_id
        input_ids[row, n:] = 0
    return torch.tensor(pixel_values), torch.tensor(input_ids), lengths


def load_reference(name: str, folder: Path = HERE) -> dict:
    """Everything about one reference: `config`, `swin`, `bert`, inputs, `outputs`, `grad_norms`..."""
    meta = json.loads((folder / f"{name}.json").read_text())
    outputs = {key: torch.tensor(value) for key, value in np.load(folder / f"{name}.npz").items()}
    small = meta["size"] == "small"
    pixel_values, input_ids, lengths = reference_inputs(
        meta["salt"], meta["batch"], meta["length"], 1000 if small else 30522,
        first_id=10 if small else 1000, cls_id=1 if small else 101, sep_id=2 if small else 102,
    )  # fmt: skip
    assert torch.equal(input_ids, outputs.pop("input_ids")), "the generator does not reproduce the reference inputs"
    meta |= {"pixel_values": pixel_values, "input_ids": input_ids, "lengths": lengths, "outputs": outputs}
    return meta


def official_checkpoint(name: str, folder: Path = HERE) -> dict:
    """A checkpoint in the official layout: {'model': state dict, 'config': the official YAML's values}."""
    meta = json.loads((folder / f"{name}.json").read_text())
    model = {
        key: reference_tensor(key, tuple(shape), dtype, meta["salt"])
        for key, (shape, dtype) in meta["state_dict"].items()
    }
    return {"model": model, "config": meta["config"]}


if __name__ == "__main__":
    torch.save(official_checkpoint(sys.argv[1]), sys.argv[2])
