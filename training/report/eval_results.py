"""Write a run's test metrics to `.eval_results/`, which the Hub shows on model pages and leaderboards."""

from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from training.evaluation.metrics import METRICS
from training.report.model_card import Wishes, describe_data
from training.run.folder import Run

TASKS = {"t2i": "{data}T2IRetrieval", "i2t": "{data}I2TRetrieval"}  # as `training.evaluation.mteb_tasks` names them


def write_eval_results(run: Run, wishes: Wishes, folder: Path) -> None:
    """Write the recalls of a data set that is on the Hub, as `.eval_results/DATA.yaml`; nothing for another one.

    Args:
        run: a checked run.
        wishes: of the publisher.
        folder: what will be uploaded.
    """
    data = describe_data(run.config, wishes)
    if data["hub_id"] is None:
        return
    entries = []
    for key in METRICS:
        direction, _, recall = key.partition("_")
        if direction in TASKS:
            notes = f"{recall} in percent on the test split; training.evaluate of modeling-pir"
            task = TASKS[direction].format(data=data["name"].replace("-", ""))
            entries.append(EvalResultEntry(data["hub_id"], task, round(run.test[key], 2), notes=notes))
    path = folder / ".eval_results" / f"{data['hub_id'].split('/')[-1]}.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
