"""Damaged model folders through every command: one sentence, no traceback, and never another model than was saved."""

import shutil

import numpy as np
import pytest
import torch

from modeling_pir.cli import main as pir
from modeling_pir.hub.pretrained import CHECKSUMS, load_pretrained, write_checksums
from modeling_pir.inference.encoder import load_encoder
from tests.support.fake_run import write_run
from training import evaluate, push_to_hub

pytest.importorskip("lancedb")
rasterio = pytest.importorskip("rasterio")
NUM_MUTANTS = 300
COMMANDS_EACH = 2  # of ten, drawn for each model: all on all would take a quarter of an hour
KINDS = ("a bit", "a gap", "the end", "zeros", "a line twice")


def mutate(content, kind, generator):
    """A damaged copy of a file's bytes, as broken disks, copies and editors leave them."""
    content = bytearray(content)
    place = int(torch.randint(len(content), (), generator=generator))
    size = 1 + int(torch.randint(50, (), generator=generator))
    if kind == "a bit":
        content[place] ^= 1 << size % 8
    elif kind == "a gap":
        del content[place : place + size]
    elif kind == "the end":
        del content[place:]
    elif kind == "zeros":
        content[place : place + size] = bytes(len(content[place : place + size]))
    else:
        content[place:place] = content[max(place - size, 0) : place]
    return bytes(content)


@pytest.fixture
def world(tiny_model, tiny_processor, tiny_dataset, tmp_path):
    """A run whose best/ is sound, an index of that model, images and a scene."""
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data=str(tiny_dataset))
    write_checksums(run / "best")
    images = tiny_dataset / "test"
    assert pir(["index", str(images), "--index", str(tmp_path / "index"), "--model", str(run / "best")]) == 0
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6)}
    values = np.random.default_rng(0).integers(1, 255, (3, 64, 96), dtype=np.uint8)
    scene = {"driver": "GTiff", "count": 3, "height": 64, "width": 96, "dtype": "uint8", **place}
    with rasterio.open(tmp_path / "scene.tif", "w", **scene) as file:
        file.write(values)
    return tmp_path


def commands(world, run):
    """Every command that takes a model, on that of a run."""
    model, images, out = run / "best", world / "tiny_dataset" / "test", world / "out"
    picture = next(images.glob("*.png"))
    index = ("--index", world / "index")
    lines = {
        "index": ("index", images, "--index", world / "new", "--model", model),
        "search": ("search", "a forest", *index, "--model", model),
        "embed": ("embed", images, "--output", out, "--model", model),
        "classify": ("classify", picture, "--labels", "forest,port", "--model", model),
        "localize": ("localize", world / "scene.tif", "a forest", "--output", out, "--model", model),
        "export": ("export", model, out),
        "serve": ("serve", *index, "--port", 0, "--model", model),
        "demo": ("demo", images, "--port", 0, "--model", model),
    }
    calls = {name: (pir, line) for name, line in lines.items()}
    calls["evaluate"] = evaluate.main, ("--model", model, "--data", world / "tiny_dataset")
    calls["push_to_hub"] = push_to_hub.main, ("--model", run, "--repo", "me/model", "--output-dir", out)
    return calls


def refusal(call, line, capsys):
    """What a command says when it refuses; None where it does its work. Any other exception ends the test."""
    try:
        code = call(list(map(str, line)))
    except SystemExit as end:
        return str(end.code)
    finally:
        said = capsys.readouterr().err
    return said if code else None


def is_sound(loaded, model):
    state = model.state_dict()
    return all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


@pytest.mark.slow
def test_three_hundred_damaged_models_are_refused_whatever_the_command(world, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("modeling_pir.serve.launch.launch", lambda *_: pytest.fail("a damaged model was served"))
    generator = torch.Generator().manual_seed(0)
    names = sorted(file.name for file in (world / "run" / "best").iterdir())
    refused = dict.fromkeys(commands(world, world / "run"), 0)
    for number in range(NUM_MUTANTS):
        run = world / "mutant"
        shutil.copytree(world / "run", run)
        file = run / "best" / names[number % len(names)]
        kind = KINDS[number // len(names) % len(KINDS)]
        file.write_bytes(mutate(file.read_bytes(), kind, generator))
        try:
            assert is_sound(load_pretrained(run / "best")[0], tiny_model), (file.name, kind)
            assert file.name == CHECKSUMS or file.read_bytes() == (world / "run" / "best" / file.name).read_bytes()
        except ValueError as error:
            assert "\n" not in str(error)
            calls = list(commands(world, run).items())
            for place in torch.randperm(len(calls), generator=generator)[:COMMANDS_EACH].tolist():
                name, (call, line) = calls[place]
                said = refusal(call, line, capsys)
                assert said and "Traceback" not in said, (file.name, kind, name, said)
                refused[name] += 1
        shutil.rmtree(run)
    assert min(refused.values()) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_damaged_text_file_of_a_model_without_checksums_gives_no_traceback(world, name):
    generator = torch.Generator().manual_seed(1)
    folder = world / "run" / "best"
    (folder / CHECKSUMS).unlink()
    sound = (folder / name).read_bytes()
    num_refused = 0
    for number in range(60):
        (folder / name).write_bytes(mutate(sound, KINDS[number % len(KINDS)], generator))
        try:
            load_encoder(str(folder))
        except ValueError as error:
            num_refused += 1
            assert "\n" not in str(error), str(error)
    assert num_refused > 20
