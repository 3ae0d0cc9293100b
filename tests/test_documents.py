"""What README, docs, recipes and messages name exists: commands, options, files; and README's code runs."""

import argparse
import doctest
import re
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

import modeling_pir
from modeling_pir.cli.main import build_parser
from tests.support.paths import ROOT

MAX_README_LINES = 150
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MODULE = re.compile(r"-m (training(?:\.\w+)+|modeling_pir(?:\.\w+)+)")
COMMAND = re.compile(r"(?:^|[`(\"'] ?|&& |    |\$ )pir ([a-z]+)(?= )", re.MULTILINE)
FILE = re.compile(r"`((?:modeling_pir|training|tests|docs|hub_configs)/[\w./-]+)`")


def texts():
    """Every tracked text of the project, but the changelog, which tells of what was."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    suffixes = (".md", ".py", ".yaml", ".yml", ".sh", ".toml", ".ipynb")
    names = [name for name in listed.stdout.splitlines() if name.endswith(suffixes) or name == ".ci/run"]
    if not names:
        pytest.skip("not a checkout: there is no list of files")
    for name in names:
        if name not in ("CHANGELOG.md", "tests/test_documents.py") and (ROOT / name).exists():
            yield name, (ROOT / name).read_text()


def test_every_module_that_is_run_exists():
    missing = {
        f"{name}: {module}"
        for name, text in texts()
        for module in MODULE.findall(text)
        if not (ROOT / (module.replace(".", "/") + ".py")).is_file()
    }
    assert not missing


def subcommands():
    """Name to parser of each `pir` command."""
    actions = build_parser()._actions
    return next(action for action in actions if isinstance(action, argparse._SubParsersAction)).choices


def test_every_pir_command_exists():
    known = subcommands()
    missing = {f"{name}: pir {command}" for name, text in texts() for command in COMMAND.findall(text)} - {
        f"{name}: pir {command}" for name, _ in texts() for command in known
    }
    assert not missing


def test_every_option_of_a_pir_command_exists():
    wrong = []
    for name, text in texts():
        if not name.endswith(".md"):
            continue
        for line in re.findall(r"^\s*(?:\$ )?pir [a-z]+ .*$|`pir [a-z]+ [^`]*`", text, re.MULTILINE):
            command, _, rest = line.strip("`$ ").partition("#")[0].removeprefix("pir ").partition(" ")
            parser = subcommands().get(command)
            known = {option for action in parser._actions for option in action.option_strings} if parser else set()
            unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", "", rest)
            wrong += [
                f"{name}: pir {command} {option}"
                for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", f" {unquoted}")
                if known and option not in known
            ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_readme_is_short_enough_to_be_read():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_the_quick_start_prints_what_readme_shows(capsys, monkeypatch):
    text = (ROOT / "README.md").read_text()
    code, output = re.search(r"```python\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    shown = [float(number) for number in re.findall(r"\d\.\d+", output)]
    printed = capsys.readouterr().out
    assert [float(number) for number in re.findall(r"\d\.\d+", printed)] == pytest.approx(shown, abs=0.011)
    assert re.sub(r"\d\.\d+", "", printed) == re.sub(r"\d\.\d+", "", output)


def test_the_examples_of_the_exported_names_print_what_they_show(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # In place of 360 sentences, which take seconds to embed.
    place = "modeling_pir.index.pir_index.bank_embeds"
    monkeypatch.setattr(place, lambda encoder, _: np.eye(2, encoder.dim, dtype=np.float32))
    image = Image.new("RGB", (64, 64), "green")
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "a.png")
    given = {"image": image, "path": tmp_path / "index", "folder": tmp_path / "images"}
    names = [name for name in modeling_pir.__all__ if ">>>" in (getattr(modeling_pir, name).__doc__ or "")]
    assert {"PIRConfig", "PIRModel", "PIRProcessor", "PIRIndex", "Query", "load_encoder"} <= set(names)
    runner = doctest.DocTestRunner(verbose=False)
    for name in names:
        text = getattr(modeling_pir, name).__doc__.replace("```", "\n")
        test = doctest.DocTestParser().get_doctest(text, dict(given), name, name, 0)
        with torch.device("meta" if name == "PIRConfig" else "cpu"):  # of the paper's size
            runner.run(test)
    assert runner.failures == 0
