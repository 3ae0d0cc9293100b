"""What stands beside the packages runs: the fine-tuning script, the notebook; and the house rules stay short."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from modeling_pir.hub.publish import write_hub_folder
from tests.support.paths import ROOT

SCRIPT = ROOT / "examples" / "finetune.py"
NOTEBOOK = json.loads((ROOT / "examples" / "tour.ipynb").read_text())


@pytest.fixture
def published(tmp_path, tiny_model, tiny_processor):
    """A tiny model as it would lie on the Hub, with its code."""
    for folder in ("model", "published"):
        (tmp_path / folder).mkdir()
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    write_hub_folder(tmp_path / "model", tmp_path / "published")
    return tmp_path / "published"


def test_the_script_names_every_package_that_it_and_the_shipped_model_import():
    header = SCRIPT.read_text().split("# ///")[1].removeprefix(" script")
    metadata = tomllib.loads("\n".join(line.removeprefix("# ") for line in header.splitlines()))
    named = {requirement.split(">=")[0] for requirement in metadata["dependencies"]}
    assert named >= {"datasets", "transformers", "accelerate", "torch", "torchvision", "timm"}
    assert "modeling_pir" not in SCRIPT.read_text() and "from training" not in SCRIPT.read_text()


@pytest.mark.slow
def test_the_script_fine_tunes_a_published_model_without_this_package(published, tiny_dataset, tmp_path):
    command = [sys.executable, "-P", str(SCRIPT), "--model", str(published), "--data", str(tiny_dataset)]
    command += ["--output-dir", str(tmp_path / "out"), "--epochs", "2", "--batch-size", "2"]
    hidden = "import sys; sys.modules['modeling_pir'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = ((folder / "model.safetensors").read_bytes() for folder in (published, tmp_path / "out"))
    assert before != after and (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.slow
def test_the_notebook_of_ten_cells_runs_top_to_bottom(monkeypatch, capsys):
    assert len(NOTEBOOK["cells"]) == 10
    assert not any(cell.get("outputs") for cell in NOTEBOOK["cells"])
    monkeypatch.chdir(ROOT)
    names = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    printed = capsys.readouterr().out
    assert "the same vector: True" in printed and "airport" in printed


def test_the_house_rules_fit_on_a_page():
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) <= 60
