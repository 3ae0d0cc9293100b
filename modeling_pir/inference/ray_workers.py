"""Run the model on many machines with Ray."""

import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

from ..errors import need
from .encoder import Encoder, load_encoder

MIN_LOCAL_CPUS = 4  # that Ray is told of: with fewer, workers that hold them all can starve its own tasks
Work = Callable[[Encoder, object], object]


def import_ray() -> ModuleType:
    """The ray package with its data part, or which extra brings it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    need("ray.data", "ray", "--engine ray needs")
    return need("ray", "ray", "--engine ray needs")


class _Worker:
    """A process of Ray that has loaded the model and does pickled work with it.

    Args:
        description: of the model.
    """

    def __init__(self, description: Mapping[str, object]) -> None:
        self.encoder = load_encoder(description["model_id"], description["revision"])
        if self.encoder.describe()["weights"] != description["weights"]:
            raise ValueError(f"{description['model_id']} has other weights on this node: copy the same ones to all.")

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        work, item = pickle.loads(row["task"])
        return {"result": pickle.dumps(work(self.encoder, item))}


def run_on_ray(
    work: Work,
    items: Sequence[object],
    description: Mapping[str, object],
    address: str | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> Iterator[object]:
    """Do work with the model for each item, on Ray Data; an item whose node is lost is done again elsewhere.

    Args:
        work: function of an encoder and an item, which can be pickled.
        items: what it is called with.
        description: of the model: its id or folder, which every node can load.
        address: of a cluster, "auto" for the one this machine belongs to; None starts Ray on this machine alone.
        num_workers: processes with a model each; None takes one per GPU, or one per four processors.
        progress: whether Ray shows its progress.

    Yields:
        Results in the order in which they are done.

    Raises:
        ValueError: a model without a name.
        ImportError: Ray is missing.
        RuntimeError: Ray has given up.
    """
    if not description["model_id"]:
        raise ValueError("The model has no id or folder that other nodes could load it from: save it, and load it.")
    if not items:
        return
    ray = import_ray()
    if not ray.is_initialized():
        local = {"include_dashboard": False, "num_cpus": max(MIN_LOCAL_CPUS, os.cpu_count() or 1)}
        with warnings.catch_warnings():  # lancedb's, of any process that is started after its import
            warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
            ray.init(address=address, log_to_driver=False, **({} if address else local))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = progress
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    num_workers = num_workers or num_gpus or max(1, int(ray.cluster_resources()["CPU"]) // 4)
    tasks = [{"task": pickle.dumps((work, item))} for item in items]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        _Worker,
        fn_constructor_args=(dict(description),),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers, initial_size=num_workers),
        num_cpus=1,
        num_gpus=1 if num_gpus else 0,
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row["result"])
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"Ray has given up ({failure_reason(str(error))}): what was written is kept, run the command again."
        ) from error


def failure_reason(report: str) -> str:
    """What the work itself raised, of Ray's report on a failed task.

    Args:
        report: tracebacks, the first one that of the work and the following ones Ray's own, which tell nothing.

    Returns:
        The first exception with its message; the last line where there is none.
    """
    raised = re.search(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", report, flags=re.MULTILINE)
    return f"{raised[1]}: {raised[2].strip()}" if raised else report.strip().splitlines()[-1]
