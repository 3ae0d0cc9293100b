"""Every command of docs/finetune.md runs, in its order, on a stranger's folder."""

import csv
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from modeling_pir.cli.main import main as pir
from tests.support.paths import ROOT
from tests.support.tiny import SCENES, captions_of, draw_scene

PAGE = (ROOT / "docs" / "finetune.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def own_folder(tmp_path):
    """60 pictures, some of them odd, and a table as Excel writes it."""
    folder = tmp_path / "MY_FOLDER"
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="", encoding="cp1252") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["File", "Caption"])
        for number in range(60):
            scene = list(SCENES)[number % 4]
            image = draw_scene(scene, 1 + number % 9).rotate(number)
            mode = ("RGB", "L", "P", "RGBA")[number % 4]
            image.convert(mode).save(folder / "images" / f"{number + 1:03d}.png")
            writer.writerows((f"{number + 1:03d}.png", text) for text in captions_of(scene, 1 + number % 9)[:2])
    Image.new("RGB", (8, 8)).save(folder / "images" / "001.jpg")  # of the page's own example
    return folder


@pytest.mark.slow
def test_every_command_of_the_page_runs(own_folder, tmp_path, monkeypatch, capsys):
    places = {
        "MY_FOLDER": str(own_folder), "runs/": f"{tmp_path}/runs/", "my.index": f"{tmp_path}/my.index"
    }  # fmt: skip
    monkeypatch.chdir(ROOT)
    for line in COMMANDS:
        for name, place in places.items():
            line = line.replace(name, place)
        program, *arguments = shlex.split(line)
        if "finetune.yaml" in line:
            arguments += ["--set", "epochs=1", "--set", "batch_size=16"]
        if program == "pir":
            pir(arguments)
        else:
            result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
            if "--resume" in line:  # which the page says for a run that was stopped; this one is finished
                assert result.returncode == 1 and "is finished (report.md): there is nothing to resume" in result.stderr
                continue
            assert result.returncode == 0, f"{line}\n{result.stderr[-3000:]}"
            noise = [word for word in ("%%", "UNEXPECTED", "[RANK 0]", "Traceback") if word in result.stderr]
            assert not noise, f"{line}: {noise}"
    assert (tmp_path / "runs" / "mine" / "report.md").is_file()
    assert (tmp_path / "runs" / "compared" / "report.md").is_file()
    assert ".png" in capsys.readouterr().out
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for name, place in places.items():
        snippet = snippet.replace(name, place)
    exec(snippet, {})


def test_the_page_names_no_file_that_is_not_there():
    for name in re.findall(r"`?((?:training|tests|hub_configs)/[\w./-]+)`?", PAGE):
        assert (ROOT / name).exists(), name
    assert len(COMMANDS) == 5
