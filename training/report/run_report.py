"""The report of a run: report.md and its pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

from datasets import Dataset

from modeling_pir import PIRModel
from training.config import TrainConfig
from training.evaluation.metrics import METRICS
from training.evaluation.object_keeping import describe_objects
from training.evaluation.test_result import load_best, measure_test
from training.model.feature_cache import with_features
from training.model.provenance import describe_prior, public_name
from training.report.pictures import draw_pictures
from training.run.checkpoint import CHECKPOINTS
from training.run.environment import mixed_precision_of, peak_memory
from training.run.state import RunState


def finish_run(
    config: TrainConfig,
    splits: dict[str, Dataset],
    state: RunState,
) -> dict[str, Any]:
    """Evaluate the best model on test, once, and write test.json, the pictures and report.md into the run folder.

    Then the checkpoint goes, three times as large as the model: with its report a run is finished and not resumed.

    Args:
        config: of the run; its folder holds environment.json, metrics.jsonl and best/.
        splits: name to rows.
        state: of the run, whose `best` is the record of the model in best/.

    Returns:
        What is in test.json.
    """
    best, prior = state.best, state.prior
    folder = Path(config.output_dir)
    model, processor = load_best(config)
    reader = processor
    if config.feature_cache is not None:
        reader = with_features(model.requires_grad_(False), processor, config, mixed_precision_of(folder))
    test, embeddings = measure_test(config, splits["test"], best["epoch"], model, reader)
    test["instruction"] = describe_prior(config, model, prior)
    waiting, stepping = state.seconds_waiting, state.seconds_in_steps
    loader_wait = waiting / (waiting + stepping) if stepping else None  # an old checkpoint, resumed after its last step
    test |= {"seconds_of_run": state.seconds, "loader_wait": loader_wait, "peak_memory_gib": peak_memory()}
    (folder / "test.json").write_text(json.dumps(test, indent=2))  # before the pictures, which may fail
    draw_pictures(folder, model, processor, splits, embeddings, test.get("objects"))
    (folder / "report.md").write_text(write_report(config, model, best, test, prior))
    if (folder / CHECKPOINTS).exists():
        shutil.rmtree(folder / CHECKPOINTS)
    return test


def write_report(
    config: TrainConfig, model: PIRModel, best: dict[str, Any], test: dict[str, Any], prior: dict[str, float] | None
) -> str:
    """The report of a run as Markdown.

    Args:
        config: of the run, whose folder holds environment.json.
        model: the best one.
        best: its validation record.
        test: what goes into test.json.
        prior: see `finish_run`.

    Returns:
        The text; every number of its table is one of `best` or `test`, rounded to two decimals.
    """
    facts = json.loads((Path(config.output_dir) / "environment.json").read_text())
    sections = [
        f"# Run {Path(config.output_dir).name}",
        _training_section(config, model, facts),
        "## Result",
        _result_table(best, test),
        _protocol_section(config, best, facts["splits"]["test"], _interval_words(test)),
        "## Instruction encoder",
        test["instruction"],
    ]
    if "objects" in test:
        sections.append(describe_objects(test["objects"]))
    sections += ["## Pictures", "![training curves](curves.png)", "![retrieval gallery](gallery.png)"]
    if model.config.has_instruction:
        sections.append("![belief maps](belief.png)")
    sections += ["## Where and how long", _environment_section(test, facts), "## Use it", _usage_section(config)]
    return "\n\n".join(sections) + "\n"


def _training_section(config: TrainConfig, model: PIRModel, facts: dict[str, Any]) -> str:
    split = facts["splits"]["train"]
    millions = (model.num_parameters() / 1e6, model.num_parameters(only_trainable=True) / 1e6)
    start = config.init_from or (", ".join(config.backbones.values()) if config.backbones else "random weights")
    if config.init_vision is not None:
        start += f", the vision tower from {public_name(config.init_vision)}"
    source = f"`{config.data}`" + (f", splits of `{config.split_list}`" if config.split_list else "")
    source += f", revision `{config.data_revision}`" if config.data_revision else ""
    lines = [
        f"PIR with {millions[0]:.1f} M parameters ({millions[1]:.1f} M trained), from {start}.",
        f"Data: {source}; {_count_words(split)}.",
        f"{config.epochs} epochs in batches of {config.batch_size}, AdamW at a peak learning rate "
        f"of {config.learning_rate:g}, {config.schedule} schedule, seed {config.seed}; all settings are in "
        "[config.yaml](config.yaml).",
    ]
    if config.data == "sample":
        lines.append(
            "The images are synthetic: the numbers show that the model learns, not how it performs on real images."
        )
    return "\n".join(lines)


def _count_words(split: dict[str, Any]) -> str:
    if "captions" in split:
        return f"{split['images']} training images with {split['captions']} captions"
    return f"{split['images'] or 'an unknown number of'} training images, streamed"


def _result_table(best: dict[str, Any], test: dict[str, Any]) -> str:
    header = " | ".join(name.replace("i2t_", "image to text ").replace("t2i_", "text to image ") for name in METRICS)
    rows = {f"validation, epoch {best['epoch'] + 1}": best, "**test**": test}
    if "before" in test:
        rows["test, before fine-tuning"] = test["before"]
    rows["test, chance"] = test["chance"]
    lines = [f"| percent | {header} |", "|---" + "|---:" * len(METRICS) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{row[key]:.2f}" for key in METRICS) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def _protocol_section(config: TrainConfig, best: dict[str, Any], split: dict[str, Any], interval: str) -> str:
    shared = split["shared_captions"]
    also = f" ({shared} of them are also, word for word, captions of another image)" if shared else ""
    return (
        f"Epoch {best['epoch'] + 1} of {config.epochs} had the highest validation mR of the evaluated epochs (every "
        f"{config.evaluate_every}) and was kept; the test split was evaluated once, with that model, after training. "
        f"One seed ({config.seed}): the spread over seeds is unknown.\n\n"
        f"Test has {split['images']} images with {split['captions']} captions{also}. Only the image that a caption was "
        "written for counts as right; an image counts as found by the first of its captions. Ties are ranked against "
        "the model. mR is the mean of the six recalls." + (f" {interval}" if interval else "")
    )


def _interval_words(test: dict[str, Any]) -> str:
    if "mR_interval" not in test:  # of an older run
        return ""
    low, high = test["mR_interval"]
    return f"The 95 % interval of mR, by bootstrap over the test images, is {low:.1f} to {high:.1f}."


def _environment_section(test: dict[str, Any], facts: dict[str, Any]) -> str:
    changed = " with uncommitted changes" if facts["uncommitted_changes"] else ""
    memory = "not measured on this system" if test["peak_memory_gib"] is None else f"{test['peak_memory_gib']:.2f} GiB"
    waiting = "not measured" if test["loader_wait"] is None else f"{test['loader_wait']:.1%} of the time of the steps"
    processes = f"processes: {facts['processes']}, threads: {facts['torch_threads']}"
    packages = ", ".join(f"{name} {value}" for name, value in facts["packages"].items() if value is not None)
    return "\n".join(
        [
            f"- {facts['device']}; {processes}; {facts['precision']}",
            f"- started {facts['started']}, {test['seconds_of_run'] / 60:.1f} minutes to the end of training",
            f"- waiting for the loader: {waiting}",
            f"- peak memory of the main process, evaluation and pictures included: {memory}",
            f"- commit {facts['commit'] or 'unknown'}{changed}",
            f"- Python {facts['python']}, {packages}",
        ]
    )


def _usage_section(config: TrainConfig) -> str:
    folder = Path(config.output_dir) / "best"
    return f"""```python
from modeling_pir import PIRModel, PIRProcessor

model = PIRModel.from_pretrained("{folder}")
processor = PIRProcessor.from_pretrained("{folder}")
```

```
python -m training.evaluate --model {folder} --data {config.data} --split test
pir index IMAGES --index my.index --model {folder}
pir search "a sentence" --index my.index
pir serve --index my.index
```"""
