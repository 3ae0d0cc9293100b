"""The record of a run: facts, the one test evaluation, the pictures and the report."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from modeling_pir import PIRConfig, PIRModel
from modeling_pir.cli.main import build_parser
from training.config import TrainConfig
from training.data.loader import split_facts
from training.evaluation import test_result
from training.evaluation.metrics import METRICS, retrieval_metrics
from training.evaluation.object_keeping import object_keeping
from training.evaluation.split_embeddings import evaluate_split
from training.report import pictures, run_report
from training.report.run_report import finish_run
from training.run.checkpoint import CHECKPOINTS
from training.run.environment import environment, git_state, peak_memory
from training.run.state import RunState

BOXES = [[[0.0, 0.0, 0.5, 0.5]], [], [[0.2, 0.2, 0.9, 0.9]], [[0.0, 0.5, 1.0, 1.0]]]
PRIOR = {"scene_accuracy": 87.5, "scene_loss": 0.25, "seconds": 33.0}


@pytest.fixture
def rows(tiny_images, tiny_captions):
    """Four images with five captions each, three of them with boxes."""
    features = {"image": ImageFeature(), "captions": List(Value("string")), "boxes": List(List(Value("float64")))}
    columns = {"image": tiny_images, "captions": tiny_captions, "boxes": BOXES}
    columns |= {"filename": [f"{index}.png" for index in range(4)], "scene": ["a", "b", "c", "d"]}
    strings = {"filename": Value("string"), "scene": Value("string")}
    return Dataset.from_dict(columns, features=Features(features | strings))


@pytest.fixture
def splits(rows):
    return {"train": rows, "validation": rows, "test": rows}


BEST = {"epoch": 1, "step": 8, "split": "validation"} | {name: 50.0 + number for number, name in enumerate(METRICS)}


def state_of(prior, seconds):
    """The end of a run that waited for its loader for a tenth of its steps."""
    return RunState(best=BEST, prior=prior, seconds=seconds, seconds_waiting=1.0, seconds_in_steps=9.0)


@pytest.fixture
def run(tmp_path, splits, tiny_model, tiny_processor):
    """A run folder as `train` leaves it to `finish_run`."""
    return write_run(tmp_path / "runs" / "tiny", splits, tiny_model, tiny_processor)


def write_run(folder, splits, model, processor):
    config = TrainConfig(output_dir=str(folder), epochs=3, instruction_epochs=4, evaluation_batch_size=3)
    for part in (model, processor):
        part.save_pretrained(folder / "best")
    steps = [{"step": step, "epoch": 0, "loss": 3.0 - step, "learning_rate": 0.1} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*steps, BEST]))
    (folder / "environment.json").write_text(json.dumps(environment(Accelerator(), splits)))
    return config


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave the pictures out: rendering is what takes time in this file."""
    monkeypatch.setattr(run_report, "draw_pictures", lambda *arguments: None)


@pytest.fixture
def only_belief_is_drawn(monkeypatch):
    for name in ("curves_picture", "retrieval_gallery"):
        monkeypatch.setattr(pictures, name, lambda *arguments, **options: None)


def table_row(report, name):
    """The numbers of the report's row that starts with `name`."""
    line = next(line for line in report.splitlines() if line.startswith(f"| {name}"))
    return [float(cell) for cell in line.split("|")[2:-1]]


def test_environment_says_where_and_on_what(splits):
    facts = json.loads(json.dumps(environment(Accelerator(), splits)))
    assert torch.__version__.startswith(facts["packages"]["torch"])
    assert facts["torch_threads"] == torch.get_num_threads()
    assert (facts["processes"], facts["precision"]) == (1, "float32")
    assert facts["splits"]["test"]["images"] == 4
    assert {"started", "commit", "uncommitted_changes", "device", "python"} <= set(facts)


def test_commit_and_changes_are_those_of_the_checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) == {"commit": None, "uncommitted_changes": None}
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path)["uncommitted_changes"]


def test_split_facts_count_captions_that_another_image_shares(rows):
    captions = [["a", "a", "b"], ["b", "c"], ["d"], ["e", "c"]]
    facts = split_facts(rows.remove_columns("captions").add_column("captions", captions))
    assert {name: facts[name] for name in ("images", "captions", "distinct_captions", "shared_captions")} == {
        "images": 4,
        "captions": 8,
        "distinct_captions": 5,
        "shared_captions": 4,  # b and c, of two images each; a is of one
    }


def test_fingerprint_follows_captions_and_order(rows):
    fingerprints = {split_facts(rows.select(order))["fingerprint"] for order in ([0, 1], [1, 0], [0, 2])}
    assert len(fingerprints) == 3
    assert split_facts(rows)["fingerprint"] == split_facts(rows.select([0, 1, 2, 3]))["fingerprint"]


def test_peak_memory_is_that_of_a_process_with_torch():
    assert 0.05 < peak_memory() < 64


@pytest.mark.usefixtures("no_pictures")
def test_test_split_is_read_once_and_with_the_saved_weights(run, splits, tiny_model, tiny_processor, monkeypatch):
    reads, embed_split = [], test_result.embed_split

    def counted(model, processor, rows, *arguments):
        reads.append(rows)
        return embed_split(model, processor, rows, *arguments)

    monkeypatch.setattr(test_result, "embed_split", counted)
    checkpoint = Path(run.output_dir) / CHECKPOINTS / "step_000000002"
    checkpoint.mkdir(parents=True)
    test = finish_run(run, splits, state_of(None, 60.0))
    assert not checkpoint.exists()  # three times as large as the model, and nothing resumes from it any more
    assert reads == [splits["test"]]
    expected = evaluate_split(tiny_model, tiny_processor, splits["test"], 3)
    assert {name: test[name] for name in METRICS} == pytest.approx(expected)
    assert test["epoch"] == BEST["epoch"]
    assert test["chance"]["t2i_R@1"] == pytest.approx(25)


@pytest.mark.usefixtures("no_pictures")
def test_report_has_the_numbers_of_test_json(run, splits):
    finish_run(run, splits, state_of(PRIOR, 90.0))
    folder = run_report.Path(run.output_dir)
    report, test = (folder / "report.md").read_text(), json.loads((folder / "test.json").read_text())
    assert table_row(report, "**test**") == [round(test[name], 2) for name in METRICS]
    assert table_row(report, "test, chance") == [round(test["chance"][name], 2) for name in METRICS]
    assert table_row(report, "validation, epoch 2") == [BEST[name] for name in METRICS]
    assert "87.5 % right on validation" in report
    assert "1.5 minutes" in report and "waiting for the loader: 10.0% of the time of the steps" in report
    assert f"{test['peak_memory_gib']:.2f} GiB" in report
    assert f"kept {test['objects']['keep_ratio']:.2f} times as often" in report
    assert "The images are synthetic" in report  # data: sample
    assert "word for word" not in report  # no caption is shared


def test_a_fine_tuned_run_has_before_and_after_in_one_table(
    run, splits, tiny_config, tiny_processor, no_pictures, tmp_path
):
    torch.manual_seed(7)
    start = PIRModel(tiny_config).eval()
    for part in (start, tiny_processor):
        part.save_pretrained(tmp_path / "start")
    run.init_from = str(tmp_path / "start")
    test = finish_run(run, splits, state_of(None, 1.0))
    expected = evaluate_split(start, tiny_processor, splits["test"], 3)
    assert test["before"] == pytest.approx(expected) and test["before"]["mR"] != test["mR"]
    report = (tmp_path / "runs" / "tiny" / "report.md").read_text()
    cells = " | ".join(f"{test['before'][name]:.2f}" for name in METRICS)
    assert f"| test, before fine-tuning | {cells} |" in report


def test_report_shows_pictures_that_exist_and_loads_the_model_as_it_says(run, splits):
    finish_run(run, splits, state_of(None, 90.0))
    folder = run_report.Path(run.output_dir)
    report = (folder / "report.md").read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", report)
    assert pictures == ["curves.png", "gallery.png", "belief.png"]
    assert all(Image.open(folder / name).width > 500 for name in pictures)
    names = {}
    exec(re.search(r"```python\n(.*?)```", report, re.DOTALL).group(1), names)
    assert isinstance(names["model"], PIRModel)
    commands = [shlex.split(line)[1:] for line in report.splitlines() if line.startswith("pir ")]
    assert [build_parser().parse_args(words).command for words in commands] == ["index", "search", "serve"]


@pytest.mark.usefixtures("no_pictures")
def test_report_names_shared_captions(run, splits, rows):
    captions = [["a bridge", "x"], ["a bridge", "y"], ["z"], ["w"]]
    splits["test"] = rows.remove_columns("captions").add_column("captions", captions)
    facts = environment(Accelerator(), splits)
    (run_report.Path(run.output_dir) / "environment.json").write_text(json.dumps(facts))
    finish_run(run, splits, state_of(None, 90.0))
    report = (run_report.Path(run.output_dir) / "report.md").read_text()
    assert "6 captions (2 of them are also, word for word, captions of another image)" in report


@pytest.mark.usefixtures("only_belief_is_drawn")
def test_belief_picture_shows_images_with_boxes_and_the_measure(run, splits, tiny_model, tiny_processor, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        pictures, "belief_picture", lambda _model, _processor, *arguments: drawn.update(enumerate(arguments))
    )
    finish_run(run, splits, state_of(None, 90.0))
    images, titles, path, boxes, caption = drawn.values()
    order = [[captions[0] for captions in splits["test"]["captions"]].index(title) for title in titles]
    assert sorted(order) == [0, 2, 3]  # image 1 has no boxes
    assert boxes == [BOXES[index] for index in order]
    assert [image.tobytes() for image in images] == [splits["test"][index]["image"].tobytes() for index in order]
    assert path.name == "belief.png"
    assert "not chosen by result" in caption and "times as often as patches at large" in caption


@pytest.mark.usefixtures("only_belief_is_drawn")
def test_a_model_without_instruction_gets_a_report_without_belief(tmp_path, splits, tiny_config, tiny_processor):
    model = PIRModel(PIRConfig(**tiny_config.to_dict() | {"num_instruction_layers": 0}))
    run = write_run(tmp_path / "plain", splits, model, tiny_processor)
    test = finish_run(run, splits, state_of(None, 90.0))
    report = (tmp_path / "plain" / "report.md").read_text()
    assert "objects" not in test and "belief.png" not in report
    assert not (tmp_path / "plain" / "belief.png").exists()
    assert "## Instruction encoder\n\nNone." in report


def test_rows_without_boxes_have_no_object_measure(run, splits, monkeypatch):
    handed_on = []
    monkeypatch.setattr(run_report, "draw_pictures", lambda *arguments: handed_on.append(arguments[-1]))
    splits["test"] = splits["test"].remove_columns("boxes")
    assert "objects" not in finish_run(run, splits, state_of(None, 90.0))
    assert handed_on == [None]


def test_object_measure_redraws_the_instruction_encoder_alone(rows, tiny_model, tiny_processor):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    objects = object_keeping(tiny_model, tiny_processor, rows, batch_size=2)
    assert objects["images"] == 3
    assert objects["kept_share"] * objects["ceiling"] == pytest.approx(1)
    assert 39 / 64 <= objects["kept_share"] <= 40 / 64
    assert len(set(objects["random_keep_ratios"])) > 1
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    again = object_keeping(tiny_model, tiny_processor, rows, batch_size=3)
    assert again["random_keep_ratios"] == pytest.approx(objects["random_keep_ratios"])


@pytest.mark.parametrize(
    ("fields", "prior", "sentence"),
    [
        ({}, None, "Start: random weights. Frozen in the joint training."),
        ({"instruction_epochs": 4}, PRIOR, "Start: random weights. Then trained for 4 epochs"),
        ({"init_instruction": "aid.pth"}, None, "Start: loaded from aid.pth. Frozen"),
        ({"init_from": "org/pir"}, None, "Start: as it is in org/pir. Frozen"),
        ({"backbones": {"vision": "v", "text": "t", "instruction": "r"}}, None, "Start: loaded from r. Frozen"),
    ],
)
def test_the_prior_is_described_as_it_came_about(fields, prior, sentence, tiny_model):
    assert run_report.describe_prior(TrainConfig(**fields), tiny_model, prior).startswith(sentence)


def test_metric_names_are_those_of_the_metrics():
    assert set(METRICS) == set(retrieval_metrics(torch.eye(2), torch.arange(2)))
