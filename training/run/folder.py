"""Read and write the files of a run folder."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub.pretrained import check_model_folder, weights_hash, write_checksums
from modeling_pir.hub.whole_folder import (
    disk_full,
    fill_folder,
    put_in_place,
    recover_folder,
    waiting_folder,
    write_whole,
)
from training.config import TrainConfig, config_text, load_config
from training.data.loader import split_facts
from training.data.stream import Stream
from training.model.adapters import without_adapters
from training.model.provenance import describe_starts
from training.run.environment import environment, precision_of
from training.run.state import RunState

FREE_TO_CHANGE = {
    "output_dir", "log_with", "log_every", "num_workers", "cache_images", "checkpoint_every", "chunk_size",
    "feature_cache",
}  # fmt: skip


def check_resumable(config: TrainConfig, fingerprints: dict[str, str], num_processes: int, precision: str) -> None:
    """Refuse to go on with what would silently be another run.

    Args:
        config: of the resumed run.
        fingerprints: of its data, by split.
        num_processes: it runs on.
        precision: it computes in, as environment.json calls it.

    Raises:
        ValueError: there is no run to resume, or its settings or data were others; all differences are listed.
    """
    folder = Path(config.output_dir)
    if not (folder / "config.yaml").is_file() or not (folder / "environment.json").is_file():
        raise ValueError(f"There is no run in {config.output_dir!r} to resume: start it without --resume.")
    old, new = dataclasses.asdict(load_config(folder / "config.yaml")), dataclasses.asdict(config)
    # The loader processes of a streamed run share out its shards, so that their number decides the order.
    free = FREE_TO_CHANGE - {"num_workers"} if config.streaming else FREE_TO_CHANGE
    differences = [
        f"{name} was {old[name]!r} and is {new[name]!r}" for name in new if old[name] != new[name] and name not in free
    ]
    then = json.loads((folder / "environment.json").read_text())
    differences += [
        f"the {split} data had the fingerprint {then['splits'][split]['fingerprint']} and has {value}"
        for split, value in fingerprints.items()
        if then["splits"][split]["fingerprint"] != value
    ]
    if then["processes"] != num_processes:
        differences.append(f"it ran on {then['processes']} processes and is resumed on {num_processes}")
    if then["precision"] != precision:
        differences.append(f"it computed in {then['precision']} and is resumed in {precision} (--mixed_precision)")
    if differences:
        raise ValueError(
            f"The run in {config.output_dir!r} cannot be resumed with other settings: {'; '.join(differences)}. Undo "
            "the change, or start a new run in another folder."
        )


@dataclasses.dataclass
class Run:
    """A finished run folder, or what `--output-dir` kept of one.

    Attributes:
        folder: of the run.
        config: what was asked for.
        environment: where it ran and on what (environment.json).
        test: its result on the test split (test.json).
    """

    folder: Path
    config: TrainConfig
    environment: dict[str, Any]
    test: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """The best model and its processor."""
        return self.folder if (self.folder / "config.json").is_file() else self.folder / "best"


def load_run(folder: str | Path) -> Run:
    """Read a run and refuse what cannot be published.

    Args:
        folder: what `training.train` wrote.

    Returns:
        The run.

    Raises:
        ValueError: no run, no metrics, metrics of other weights, uncommitted code, or a model that is not whole.
    """
    folder = Path(folder)
    has_model = (folder / "best").is_dir() or (folder / "config.json").is_file()
    if not (folder / "environment.json").is_file() or not has_model:
        raise ValueError(f"{folder} is not a run folder with a best model: name one that training.train wrote.")
    results = folder / ("metrics.json" if (folder / "config.json").is_file() else "test.json")
    if not results.is_file():
        raise ValueError(f"{folder} has no metrics (test.json): let the training finish, it evaluates at the end.")
    config = load_config(folder / "config.yaml")
    # Older runs do not say what they started from; the towers' folders may still be there.
    environment = {"starts": describe_starts(config)} | json.loads((folder / "environment.json").read_text())
    run = Run(
        folder,
        config,
        environment,
        json.loads(results.read_text()),
    )
    check_model_folder(run.model_folder)
    if run.test.get("weights_sha256") != weights_hash(run.model_folder):
        raise ValueError(
            f"The metrics in {results} are not of the weights in {run.model_folder}: publish "
            "the folder as the training left it, or train again."
        )
    if run.environment["commit"] is None or run.environment["uncommitted_changes"]:
        state = "unknown code" if run.environment["commit"] is None else "code with uncommitted changes"
        raise ValueError(f"{folder} was made by {state}, which nobody can reproduce: commit the code and train again.")
    return run


def save_beside(folder: Path, model: PIRModel, processor: PIRProcessor, save_dtype: str) -> Path:
    """Write a `from_pretrained` folder that waits beside its place, see [`fill_folder`].

    Matrices are stored in `save_dtype`; vectors and statistics of norms, which weigh nothing, in float32. config.json
    still says float32, in which `from_pretrained` then computes.
    """

    def write(partial: Path) -> None:
        plain = without_adapters(model)
        matrices = {name for name, parameter in plain.named_parameters() if parameter.dim() > 1}
        dtype = getattr(torch, save_dtype)
        state = {name: value.to(dtype) if name in matrices else value for name, value in plain.state_dict().items()}
        plain.save_pretrained(partial, state_dict=state)
        processor.save_pretrained(partial)
        write_checksums(partial)

    return fill_folder(folder, write)


def save(folder: Path, model: PIRModel, processor: PIRProcessor, save_dtype: str) -> None:
    """Write a `from_pretrained` folder, whole or not at all; see [`save_beside`]."""
    save_beside(folder, model, processor, save_dtype)
    put_in_place(folder)


def settle_best(output_dir: Path, best: dict[str, Any] | None) -> None:
    """Put a better model in place once the run's state names it, so that best/ and its record never contradict.

    Call it behind each saving and loading of the state. A model that waits beside best/ and that the state does not
    name is of an epoch that will be done again.

    Args:
        output_dir: the run folder.
        best: of the state; its `weights_sha256` are those of the weights that best/ has to hold.

    Raises:
        ValueError: best/ holds other weights.
    """
    folder = output_dir / "best"
    waiting = waiting_folder(folder)
    if waiting is not None:
        if best is not None and _hash_or_none(waiting) == best["weights_sha256"]:
            put_in_place(folder)
        else:
            shutil.rmtree(waiting)
    if best is not None and _hash_or_none(folder) != best["weights_sha256"]:
        raise ValueError(
            f"{folder} does not hold the weights of epoch {best['epoch']} that the run's state names: put them back, "
            f"or remove {str(output_dir)!r} and start the run anew."
        )


def _hash_or_none(folder: Path) -> str | None:
    return weights_hash(folder) if any(folder.glob("*.safetensors")) else None


def open_run(config: TrainConfig, splits: dict[str, Dataset | Stream], accelerator: Accelerator, resume: bool) -> None:
    """Write what the run is into its folder, or check that the run that is resumed is this one.

    Raises:
        ValueError: the folder holds a run already, or the resumed run was another one or is finished.
    """
    output_dir = Path(config.output_dir)
    if resume and (output_dir / "report.md").exists():
        raise ValueError(f"The run in {config.output_dir!r} is finished (report.md): there is nothing to resume.")
    if resume:
        fingerprints = {name: split_facts(rows)["fingerprint"] for name, rows in splits.items()}
        check_resumable(config, fingerprints, accelerator.num_processes, precision_of(accelerator))
    elif (output_dir / "config.yaml").exists():
        raise ValueError(
            f"{config.output_dir!r} holds a run already: continue it (--resume), choose another --output-dir, or "
            "remove it."
        )
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    if resume:
        for name in ("best", "last"):
            recover_folder(output_dir / name)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    facts = environment(accelerator, splits) | {"starts": describe_starts(config)}
    write_whole(output_dir / "environment.json", json.dumps(facts, indent=2))
    write_whole(output_dir / "config.yaml", config_text(config))  # last: with it, there is a run to resume


def keep_records(accelerator: Accelerator, output_dir: Path, count: int) -> None:
    """Cut metrics.jsonl to the records that the checkpoint knows; what came after it will be done again."""
    if accelerator.is_main_process:
        path = output_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)[:count] if path.exists() else []
        path.write_text("".join(lines))


def write_record(accelerator: Accelerator, output_dir: Path, record: dict, state: RunState) -> None:
    """Append a line to metrics.jsonl and hand it to the trackers, on the main process."""
    if not accelerator.is_main_process:
        return
    path = output_dir / "metrics.jsonl"
    try:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise disk_full(error, path) or error from error
    state.records += 1
    accelerator.log({key: value for key, value in record.items() if isinstance(value, int | float)}, step=state.step)
