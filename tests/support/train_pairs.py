"""Trains the pairs of tests.support.towers within one launch, one run after the other: DATA FOLDER."""

import sys
from pathlib import Path

from accelerate import Accelerator, PartialState

from tests.support.towers import PAIRS, run_config
from training import train as train_module


def main() -> None:
    """Train into FOLDER/number for each pair."""
    train_module.finish_run = lambda *_: None
    Accelerator.end_training = lambda _: None  # it would end the process group that the next run needs
    data, folder = map(Path, sys.argv[1:])
    for number, (vision, text) in enumerate(PAIRS):
        train_module.train(run_config(vision, text, data, folder / str(number)))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
