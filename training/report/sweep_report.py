"""Means, spreads and differences of finished runs."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.errors import need
from training.config import TrainConfig
from training.data.sources import load_image_captions
from training.evaluation.bootstrap import QueryTable, bootstrap_weights, mean_table, paired_difference, query_table
from training.evaluation.metrics import METRICS
from training.evaluation.ranks import QueryRanks, rank_queries
from training.evaluation.split_embeddings import embed_split
from training.model.feature_cache import with_features
from training.report.tables import markdown_table
from training.run.environment import mixed_precision_of

STUDENT_NEEDS = "The intervals of a sweep, by Student's t, need"
RANKS = "test_ranks.npz"  # in a run folder: where the right answers are, for comparisons query by query


@dataclass
class SweepRun:
    """One run of a sweep.

    Attributes:
        setting: such as "model.num_cycles=0", "as configured" where nothing is varied.
        config: of the run.
    """

    setting: str
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output_dir)


def split_ranks(run: SweepRun) -> QueryRanks:
    """Where the right answers of a finished run are on test; computed from best/ the first time, then kept.

    Args:
        run: finished.

    Returns:
        The ranks.
    """
    path = run.folder / RANKS
    if not path.is_file():
        config = run.config
        rows = load_image_captions(config.data, "test", config.split_list, config.data_revision, config.skip_bad_images)
        model = PIRModel.from_pretrained(run.folder / "best").to(PartialState().device)
        processor = PIRProcessor.from_pretrained(run.folder / "best")
        if config.feature_cache is not None:
            precision = mixed_precision_of(run.folder)
            processor = with_features(model.requires_grad_(False), processor, config, precision)
        ranks = rank_queries(embed_split(model, processor, rows, config.evaluation_batch_size))
        np.savez_compressed(path, **{name: values.numpy() for name, values in vars(ranks).items()})
    with np.load(path) as saved:
        return QueryRanks(**{name: torch.from_numpy(saved[name]) for name in saved.files})


def read_metrics(run: SweepRun) -> dict[str, dict[str, float]]:
    """Validation metrics of the epoch that was kept, and test metrics, percent.

    Args:
        run: finished.

    Returns:
        `validation` and `test`, each with the seven metrics.
    """
    test = json.loads((run.folder / "test.json").read_text())
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    best = next(line for line in records if line.get("split") == "validation" and line["epoch"] == test["epoch"])
    return {"validation": {name: best[name] for name in METRICS}, "test": {name: test[name] for name in METRICS}}


def mean_and_spread(values: list[float]) -> dict[str, Any]:
    """The values, their mean and sample standard deviation; None for the latter where there is one value."""
    return {
        "values": values,
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def check_statistics() -> None:
    """Refuse to start a sweep whose differences could not be told at its end.

    Raises:
        ImportError: scipy is missing.
    """
    need("scipy.stats", "eval", STUDENT_NEEDS)


def seed_difference(first: list[float], second: list[float]) -> dict[str, Any]:
    """Second minus first, seed by seed.

    Args:
        first: a metric of one setting, by seed.
        second: the same of another, in the same order of seeds.

    Returns:
        `differences`, their `mean` and `sd`, and the 95 % `interval` of the mean by Student's t, None with one seed.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    spread = mean_and_spread(differences)
    interval = None
    if spread["sd"] is not None:
        half = (
            need("scipy.stats", "eval", STUDENT_NEEDS).t.ppf(0.975, len(differences) - 1)
            * spread["sd"]
            / math.sqrt(len(differences))
        )
        interval = [spread["mean"] - half, spread["mean"] + half]
    return {"differences": differences, "mean": spread["mean"], "sd": spread["sd"], "interval": interval}


def summarise(runs: list[SweepRun]) -> dict[str, Any]:
    """Means, spreads and differences of finished runs.

    Args:
        runs: of [`expand`].

    Returns:
        `settings` (by setting: seeds, and `values`, `mean` and `sd` of each metric on validation and test) and
        `differences` of every setting from the first, over `queries` (paired bootstrap of the mean over seeds) and over
        `seeds`.
    """
    by_setting: dict[str, list[SweepRun]] = {}
    for run in runs:
        by_setting.setdefault(run.setting, []).append(run)
    settings, values, tables = {}, {}, {}
    for setting, group in by_setting.items():
        metrics = [read_metrics(run) for run in group]
        settings[setting] = {"seeds": [run.config.seed for run in group]} | {
            split: {name: mean_and_spread([of_run[split][name] for of_run in metrics]) for name in METRICS}
            for split in ("validation", "test")
        }
        values[setting] = [of_run["test"]["mR"] for of_run in metrics]
        tables[setting] = mean_table([query_table(split_ranks(run)) for run in group])
    first, *others = by_setting
    weights = bootstrap_weights(_num_images(tables[first]))
    differences = {
        other: {
            "queries": paired_difference(tables[first], tables[other], weights),
            "seeds": seed_difference(values[first], values[other]),
        }
        for other in others
    }
    return {"first": first, "settings": settings, "differences": differences}


def _num_images(table: QueryTable) -> int:
    return len(next(iter(table.sums.values())))


def write_report(summary: dict[str, Any], name: str) -> str:
    """The summary as Markdown.

    Args:
        summary: of [`summarise`].
        name: of the sweep.

    Returns:
        The text.
    """
    rows = []
    for setting, facts in summary["settings"].items():
        cells = [_spread(facts["validation"]["mR"]), *(_spread(facts["test"][metric]) for metric in METRICS)]
        rows.append([setting, str(len(facts["seeds"])), *cells])
    header = ["setting", "seeds", "validation mR", *(f"test {metric}" for metric in METRICS)]
    seeds = ", ".join(map(str, next(iter(summary["settings"].values()))["seeds"]))
    sections = [
        f"# Sweep {name}",
        f"Mean ± standard deviation over the seeds {seeds}, percent. Each run keeps the epoch with the best validation "
        "mR and is tested with it.",
        markdown_table(header, rows),
    ]
    if summary["differences"]:
        rows = []
        for other, difference in summary["differences"].items():
            queries, over_seeds = difference["queries"], difference["seeds"]
            each = ", ".join(f"{value:+.2f}" for value in over_seeds["differences"])
            cells = [f"{queries['difference']:+.2f}", _signed(queries["interval"]), f"{queries['p']:.3f}", each]
            rows.append([other, *cells, _signed(over_seeds["interval"])])
        header = ["against the first", "test mR", "95 %, queries", "p, queries", "by seed", "95 %, seeds"]
        sections += [
            f"## Differences from {summary['first']}",
            markdown_table(header, rows),
            "*Queries*: the test images are resampled, the same for both settings, and each query's hits are averaged "
            "over seeds: would it hold on other test images? *Seeds*: Student's t on the differences of like seeds: "
            "would it hold for other seeds? A difference is to be believed where both intervals leave out 0; with "
            "several settings, some will by chance.",
        ]
    return "\n\n".join(sections) + "\n"


def _spread(value: dict[str, float | None]) -> str:
    return f"{value['mean']:.2f}" + (f" ± {value['sd']:.2f}" if value["sd"] is not None else "")


def _signed(interval: list[float] | None) -> str:
    return "one seed" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
