"""The model that comes with the clone: it loads from it, knows scenes, and its card's numbers can be had again."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.inference.embed import embed_texts
from tests.support.paths import ROOT
from training.evaluation.metrics import METRICS
from training.run.folder import load_run

FOLDER = ROOT / "hub_configs" / "pir-small-rsicd"
DATA = os.environ.get("PIR_DATA_DIR")


def test_it_loads_from_the_clone_in_float32_and_is_small():
    model = PIRModel.from_pretrained(FOLDER)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.num_parameters() < 30e6
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 45e6


def test_its_metrics_are_of_its_weights_and_committed_code():
    run = load_run(FOLDER)  # refuses others
    assert re.fullmatch("[0-9a-f]{40}", run.environment["commit"])


def test_its_card_says_what_its_metrics_file_says():
    test = json.loads((FOLDER / "metrics.json").read_text())
    row = next(line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| **this model**"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [f"{test[key]:.2f}" for key in METRICS]


def test_no_image_of_the_data_and_no_folder_of_a_machine_is_in_it():
    assert {file.name for file in FOLDER.glob("*.png")} <= {"curves.png"}
    texts = [file.read_text() for file in FOLDER.iterdir() if file.suffix in (".json", ".yaml", ".md")]
    assert not [path for text in texts for path in re.findall(r'(?<=["\s:])/(?:home|root|work|tmp|mnt)/\S*', text)]


def test_sentences_of_one_scene_are_closer_than_those_of_two():
    model, processor = PIRModel.from_pretrained(FOLDER), PIRProcessor.from_pretrained(FOLDER)
    pairs = {
        "airport": ("many planes are parked beside a terminal", "several airplanes stand on the apron of an airport"),
        "forest": ("a dense forest of dark green trees", "many green trees in the woods"),
        "stadium": ("a football field inside of a large stadium", "a stadium with rows of seats around a playground"),
        "harbor": ("many boats are in the port", "ships are docked neatly at the harbor"),
    }
    first, second = (embed_texts(model, processor, [pair[side] for pair in pairs.values()]) for side in (0, 1))
    assert (first @ second.T).argmax(dim=1).tolist() == list(range(len(pairs)))


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="PIR_DATA_DIR is not set")
def test_its_cards_numbers_come_out_again(tmp_path):
    command = [sys.executable, "-m", "training.evaluate", "--model", FOLDER, "--data", f"{DATA}/rsicd"]
    command += ["--split-list", "rsicd", "--split", "test", "--output-dir", tmp_path / "evaluation"]
    subprocess.run(command, cwd=ROOT, check=True)
    (split,) = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["data"].values()
    (measured,) = split["models"].values()
    published = json.loads((FOLDER / "metrics.json").read_text())
    assert measured["recall"] == pytest.approx({key: published[key] for key in METRICS}, abs=0.02)
