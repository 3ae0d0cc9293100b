"""The progress of a run, which a checkpoint stores beside the weights."""

from dataclasses import dataclass
from typing import Any


@dataclass
class RunState:
    """The progress of a run.

    Attributes:
        epoch: epochs that are done.
        step: updates that are done.
        step_in_epoch: of them those of the epoch that is not done yet.
        records: lines of metrics.jsonl.
        best: the validation record of the epoch whose model is in best/; None before the first.
        prior: what `train_on_scenes` measured; None where the prior was not trained on scenes.
        seconds: since the start of the run, over all its sessions.
        seconds_waiting: of them waiting for batches.
        seconds_in_steps: of them in steps.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    records: int = 0
    best: dict[str, Any] | None = None
    prior: dict[str, float] | None = None
    seconds: float = 0.0
    seconds_waiting: float = 0.0
    seconds_in_steps: float = 0.0
