"""Train settings over several seeds and report which differences exceed chance.

    python -m training.sweep --config training/configs/sample.yaml --seeds 0 1 2 --vary model.num_cycles=0,2
    python -m training.sweep --config training/configs/rsicd_mini.yaml --data FOLDER --seeds 0 1 2 \
        --vary instruction_epochs=0,6 --output-dir runs/prior
    python -m training.sweep --config training/configs/ablation_ucm.yaml --rows training/recipes/ablation_rows.yaml \
        --data FOLDER --seeds 0 1 2 --jobs 2 --output-dir runs/ablation_ucm

Settings are the combinations of `--vary`, or the named rows of a file, each of which may change several fields: `+
LCA: {model.num_cycles: 2}`, with field names as in `--set`. Every run is a run folder of training.train. Finished
runs (with test.json) are skipped and interrupted ones resume from their last checkpoint, so repeat the command after
a crash or with more seeds. It writes sweep.json, sweep.md and sweep.png.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from modeling_pir.errors import one_sentence
from training.config import load_config, parse_assignments, save_config
from training.model.starts import check_parts, check_starts
from training.report.pictures import seeds_picture
from training.report.sweep_report import SweepRun, check_statistics, summarise, write_report


def expand(
    path: str | Path,
    seeds: list[int],
    vary: list[str],
    overrides: dict[str, Any],
    output_dir: Path,
    rows: dict[str, dict[str, Any]] | None = None,
) -> list[SweepRun]:
    """All runs of a sweep: every setting with every seed.

    Args:
        path: the configuration's YAML file.
        seeds: of the runs.
        vary: such as ["model.num_cycles=0,2", "epochs=5,10"]; values are read as YAML. Every combination is a setting.
        overrides: fields that are the same in all runs.
        output_dir: of the sweep; a run is in SETTING/seed_SEED below it.
        rows: settings by name, each with the fields it changes, in place of `vary`.

    Returns:
        The runs, setting after setting, each configuration checked.

    Raises:
        ValueError: a field that does not exist or is given twice, no value, or a seed given twice.
    """
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"A seed is given twice ({seeds}): two runs of one seed are the same run.")
    if rows is not None and vary:
        raise ValueError("--rows and --vary both say what the settings are: give one of them.")
    taken = {*overrides, "seed", "output_dir"}
    for setting, fields in (rows or {}).items():
        if twice := sorted(taken & set(fields)):
            raise ValueError(f"Row {setting!r}: {twice[0]} is set already; give each field once, seeds with --seeds.")
    settings = _combinations(vary, taken) if rows is None else rows
    runs = []
    for setting, fields in settings.items():
        for seed in seeds:
            folder = output_dir / _as_folder(setting) / f"seed_{seed}"
            values = overrides | fields | {"seed": seed, "output_dir": str(folder)}
            runs.append(SweepRun(setting, load_config(path, values)))
    if len({run.folder for run in runs}) < len(runs):
        raise ValueError(f"Two rows share a folder: {', '.join(settings)} have to differ in letters or digits.")
    return runs


def _combinations(vary: list[str], taken: set[str]) -> dict[str, dict[str, Any]]:
    """Every combination of the varied fields, by a name that says which."""
    values_of = {}
    for argument in vary:
        name, separator, values = argument.partition("=")
        choices = yaml.safe_load(f"[{values}]")
        if not separator or not choices:
            raise ValueError(f"--vary takes field=value,value, but got {argument!r}.")
        if name in values_of or name in taken:
            raise ValueError(f"--vary {name}: this field is set already; give each field once, seeds with --seeds.")
        values_of[name] = choices
    settings = {}
    for choice in itertools.product(*values_of.values()):
        varied = dict(zip(values_of, choice, strict=True))
        settings[", ".join(f"{name}={_as_text(value)}" for name, value in varied.items()) or "as configured"] = varied
    return settings


def read_rows(path: str | Path) -> dict[str, dict[str, Any]]:
    """Settings by name.

    Args:
        path: a YAML mapping of names to mappings of fields.

    Returns:
        The rows, in the file's order; the first is what the others are compared with.

    Raises:
        ValueError: there is no such file, or it is something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {str(path)!r} with the rows of the sweep.")
    rows = yaml.safe_load(Path(path).read_text())
    if not isinstance(rows, dict) or not rows or not all(isinstance(fields, dict) for fields in rows.values()):
        raise ValueError(f"{str(path)!r} has to map names of rows to fields, such as `baseline: {{epochs: 3}}`.")
    return {str(name): fields for name, fields in rows.items()}


def _as_text(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _as_folder(setting: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "=._-" else "_" for letter in setting)


def is_finished(run: SweepRun) -> bool:
    """Whether a run's test result is there.

    Args:
        run: of [`expand`].

    Returns:
        False for a run that was cut off or never begun.

    Raises:
        ValueError: a finished run of another configuration; the fields that differ are named.
    """
    if not (run.folder / "test.json").is_file():
        return False
    found, wanted = dataclasses.asdict(load_config(run.folder / "config.yaml")), dataclasses.asdict(run.config)
    differing = [name for name in wanted if wanted[name] != found[name] and name != "output_dir"]
    if differing:
        changes = ", ".join(f"{name} {found[name]!r}, now {wanted[name]!r}" for name in differing)
        raise ValueError(
            f"{str(run.folder)!r} holds a finished run of another configuration ({changes}): give another --output-dir."
        )
    return True


def check_run(run: SweepRun) -> None:
    """Refuse a run that would fail at its start, now and not when its turn comes.

    Args:
        run: of [`expand`].

    Raises:
        ValueError: settings that contradict each other, or a tower that is not there; with the name of the row.
    """
    try:
        check_starts(run.config)
        check_parts(run.config)
    except ValueError as error:
        raise ValueError(f"{run.setting!r}: {error}") from error


def run_training(run: SweepRun, jobs: int = 1) -> None:
    """Train, or go on, in a process of its own, so that each run starts from the same state and frees its memory.

    Args:
        run: to train.
        jobs: runs at a time, each of which gets its share of the processor's cores.

    Raises:
        ValueError: the training failed; what it said is on the terminal.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    settings = run.folder.parent / f"{run.folder.name}.yaml"
    save_config(run.config, settings)
    command = [sys.executable, "-m", "training.train", "--config", str(settings)]
    if (run.folder / "environment.json").is_file():  # it was begun
        command.append("--resume")
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    code = subprocess.run(command, cwd=Path(__file__).parents[1], env=os.environ | threads, check=False).returncode
    if code:
        raise ValueError(
            f"The run {str(run.folder)!r} failed (exit code {code}): fix the cause and repeat the command."
        )


def sweep(runs: list[SweepRun], output_dir: Path, jobs: int = 1) -> dict[str, Any]:
    """Run what is not finished, then write sweep.json, sweep.md and sweep.png.

    Args:
        runs: of [`expand`].
        output_dir: of the sweep.
        jobs: runs at a time; on a CPU two small models of one thread each are done sooner than one after the other.

    Returns:
        What is in sweep.json.
    """
    check_statistics()  # now, and not after the last run
    open_runs = [run for run in runs if not is_finished(run)]
    for run in open_runs:
        check_run(run)
    logging.info("%d runs, %d of them finished already.", len(runs), len(runs) - len(open_runs))

    def start(number: int, run: SweepRun) -> None:
        logging.info("Run %d of %d: %s, seed %d", number, len(open_runs), run.setting, run.config.seed)
        run_training(run, jobs)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(start, number, run) for number, run in enumerate(open_runs, start=1)]
        try:
            for future in futures:
                future.result()
        except BaseException:  # Ctrl-C, too
            pool.shutdown(cancel_futures=True)  # those that run are let finish
            raise
    summary = summarise(runs)
    (output_dir / "sweep.json").write_text(json.dumps(summary, indent=2))
    (output_dir / "sweep.md").write_text(write_report(summary, output_dir.name), encoding="utf-8")
    marks = {
        split: {setting: facts[split]["mR"]["values"] for setting, facts in summary["settings"].items()}
        for split in ("validation", "test")
    }
    seeds_picture(marks, output_dir / "sweep.png", f"{output_dir.name}: one mark per seed", "mR, percent")
    return summary


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m training.sweep",
        description="Train settings over several seeds and compare them.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="YAML file of TrainConfig")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="each setting is trained with each seed")
    parser.add_argument(
        "--vary", action="append", default=[], metavar="FIELD=A,B", help="values of a field; repeat to combine"
    )
    parser.add_argument("--rows", type=Path, help="YAML file of named settings, instead of --vary")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field that is the same in all runs"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel (default: 1)")
    parser.add_argument("--data", help="data source, as in training.train")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/sweep"), help="(default: %(default)s)")
    values = parser.parse_args(arguments)
    if values.jobs < 1:
        parser.error(f"--jobs is {values.jobs}, but it has to be at least 1.")
    return values


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args(arguments)
    with one_sentence():
        overrides = parse_assignments(args.set) | ({"data": args.data} if args.data else {})
        rows = read_rows(args.rows) if args.rows else None
        runs = expand(args.config, args.seeds, args.vary, overrides, args.output_dir, rows)
        sweep(runs, args.output_dir, args.jobs)
    print((args.output_dir / "sweep.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
