"""The built distributions, wheel and sdist, embed images and texts with the package's own requirements alone."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import importlib.util
from PIL import Image
from modeling_pir.cli.main import main
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.inference.embed import embed_images, embed_texts

assert importlib.util.find_spec("pandas") is None and importlib.util.find_spec("lancedb") is None
model, processor = load_pretrained({model!r})
images = embed_images(model, processor, [Image.new("RGB", (64, 64), "green")])
texts = embed_texts(model, processor, ["a green forest"])
assert images.shape == texts.shape == (1, model.config.projection_dim)
print("embedded by", importlib.util.find_spec("modeling_pir").origin)
"""


def requirements_of(names):
    """Distributions that some need, with what those need in turn, extras left out."""
    found, left = set(), list(names)
    while left:
        name = re.match(r"[\w.-]+", left.pop()).group().lower().replace("_", "-")
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another system or version of Python
            continue
        if name not in found:
            found.add(name)
            left += [line for line in distribution.requires or [] if "extra ==" not in line]
    return found


def link_distributions(names, folder):
    """A folder like site-packages that holds those distributions alone."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(distribution.locate_file(top)).resolve())


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    own = importlib.metadata.requires("modeling-pir")
    link_distributions(requirements_of(line for line in own if "extra ==" not in line), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_fresh_environment_needs_the_requirements_alone(
    kind, distributions, environment, tmp_path, tiny_model, tiny_processor
):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(tmp_path / "own"), str(distributions[kind])], check=True)
    assert not (tmp_path / "own" / "training").exists()
    paths = f"import sys; sys.path[:0] = [{str(tmp_path / 'own')!r}, {str(environment)!r}]\n"
    command = [sys.executable, "-I", "-S", "-c", paths + PROGRAM.format(model=str(tmp_path / "model"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "own") in done.stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "sweep"])
def test_a_command_of_training_names_the_extra_that_it_needs(command):
    bare = [sys.executable, "-S", "-m", f"training.{command}", "--help"]  # -S: without installed packages
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(bare, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: The commands in training/ need accelerate, datasets, matplotlib, yaml: "
        "pip install 'modeling-pir[train]'."
    ]
