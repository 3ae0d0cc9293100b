"""Read a `.pth` safely, rename its keys by a table, and load it with every key accounted for."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

State = dict[str, torch.Tensor]
KeyTable = dict[str, str | Callable[[re.Match], str]]
DERIVED_BUFFERS = re.compile(r"(relative_position_index|attn_mask)$")  # follow from the sizes
CLASSIFIER_KEYS = re.compile(r"^(_?fc|head|head\.fc)\.(weight|bias)$")
CODE = re.compile(  # torch's wordings of a pickle that needs more than tensors
    r"(?:[Uu]nsupported (?:global: )?(?:GLOBAL|class|type)|unrecognized function|only build Tensor.*?but got) (\S+)"
)
COUNTER = "num_batches_tracked"  # absent in old files; nothing that runs reads it
NUM_PRINTED_KEYS = 10


class KeyMismatchError(ValueError):
    """Tensors and model do not fit; the message shows the first keys, the attributes hold all.

    Attributes:
        missing: keys of the model that the tensors lack.
        unexpected: tensors that have no place in the model.
        mismatched: keys whose shapes differ.
    """

    def __init__(
        self, source: str, model: str, missing: list[str], unexpected: list[str], mismatched: list[str]
    ) -> None:
        self.missing, self.unexpected, self.mismatched = missing, unexpected, mismatched
        parts = []
        for words, keys in (("missing", missing), ("left over", unexpected), ("of another shape", mismatched)):
            if keys:
                more = ", ..." if len(keys) > NUM_PRINTED_KEYS else ""
                parts.append(f"{len(keys)} {words} ({', '.join(keys[:NUM_PRINTED_KEYS])}{more})")
        super().__init__(f"{source} does not hold the weights of {model}: {'; '.join(parts)}.")


def read_checkpoint(path: str | Path) -> dict:
    """Read a `.pth` file without running any code in it.

    Args:
        path: the file.

    Returns:
        What was saved, a dict; tensors stay on disk until they are used, where the format allows it.

    Raises:
        ValueError: no such file, not a checkpoint, cut short, or a pickle that needs classes beyond tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # arbitrary bytes make the unpickler fail with almost any type
        needed = CODE.search(str(error))
        if needed:
            raise ValueError(
                f"{str(path)!r} is refused: it is a pickle that would run code ({needed[1]}). If you trust it, load it "
                "with torch.load(..., weights_only=False) in its own project and save its tensors alone."
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"{str(path)!r} is not a PyTorch checkpoint, or was cut short ({type(error).__name__}: {reason}): "
            "download it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{str(path)!r} holds a {type(checkpoint).__name__}, not a dict of tensors.")
    return checkpoint


def state_dict_of(checkpoint: dict, source: str | Path) -> State:
    """The tensors of a checkpoint: under "model" or "state_dict", or the dict itself.

    Raises:
        ValueError: there are none.
    """
    state = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        keys = ", ".join(str(key) for key in list(checkpoint)[:NUM_PRINTED_KEYS])
        raise ValueError(f"{str(source)!r} holds no state dict of tensors: its keys are {keys or 'none'}.")
    return state


def count_children(state: State, prefix: str) -> int:
    """How many numbered children (`prefix0.`, `prefix1.`...) the names show, gaps counted in."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return max((int(found[1]) + 1 for key in state if (found := pattern.match(key))), default=0)


def shape_of(state: State, key: str) -> torch.Size:
    """Shape of a tensor that sizes are read from.

    Raises:
        ValueError: it is missing.
    """
    if key not in state:
        raise ValueError(f"The tensor {key!r} is missing: the sizes of the model cannot be read from this file.")
    return state[key].shape


def rename_key(key: str, table: KeyTable) -> str | None:
    """The name that `table` gives to `key`; None where no row matches its beginning."""
    for pattern, replacement in table.items():
        name, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return name
    return None


def rename_tensors(state: State, rename: Callable[[str], str | None]) -> tuple[State, list[str]]:
    """Rename the tensors, split fused projections, and leave out buffers that follow from the sizes.

    Args:
        state: name to tensor.
        rename: an old name to a new one, or None.

    Returns:
        The renamed tensors, and the names that have no new one.
    """
    renamed, unknown = {}, []
    for key, tensor in state.items():
        if DERIVED_BUFFERS.search(key):
            continue
        name = rename(key)
        if name is None:
            unknown.append(key)
        elif ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace(".qkv.", f".{part}_proj.")] = rows
        else:
            renamed[name] = tensor
    return renamed, unknown


def load_strictly(module: nn.Module, state: State, unknown: list[str], source: str) -> None:
    """Fill a module with tensors, all of it with all of them.

    Args:
        module: to be filled.
        state: tensors under the module's names. Only BatchNorm's step counters may be absent.
        unknown: tensors that had no name in the module.
        source: for the message.

    Raises:
        KeyMismatchError: a key is missing, left over or of another shape; then nothing is loaded.
    """
    expected = module.state_dict()
    counters = {key: value for key, value in expected.items() if key.endswith(COUNTER)}
    state = counters | state
    missing = [key for key in expected if key not in state]
    unexpected = unknown + [key for key in state if key not in expected]
    mismatched = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or unexpected or mismatched:
        raise KeyMismatchError(source, type(module).__name__, missing, unexpected, mismatched)
    module.load_state_dict(state)
