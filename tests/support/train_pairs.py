"""Trains every pair of tests.support.towers in one process of a launcher, one run after the other: DATA FOLDER."""

import sys
from pathlib import Path

from accelerate import PartialState

from tests.support.towers import PAIRS, run_config
from training import train as train_module


def main() -> None:
    """Train into FOLDER/number for each pair."""
    train_module.finish_run = lambda *_: None
    data, folder = map(Path, sys.argv[1:])
    for number, (vision, text) in enumerate(PAIRS):
        train_module.train(run_config(vision, text, data, folder / str(number)))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
