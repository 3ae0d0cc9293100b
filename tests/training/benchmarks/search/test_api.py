"""What a request costs is printed beside its parts."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from modeling_pir import load_encoder
from modeling_pir.index.stores.lance_store import LanceStore
from training.benchmarks.search import api
from training.benchmarks.search.table import fill

pytest.importorskip("lancedb")


@pytest.fixture
def vectors(tiny_model):
    """Sixty unit vectors of the tiny model's dimension."""
    found = np.random.default_rng(0).normal(size=(60, tiny_model.config.projection_dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_command_prints_a_row_for_the_request_and_each_part(model_folder, vectors, tmp_path, monkeypatch, capsys):
    save_file({"image_embeds": vectors}, tmp_path / "e.safetensors")
    asked = []
    monkeypatch.setattr(api, "ask_server", lambda *arguments: asked.append(arguments) or [1.5])
    api.main(f"--embeddings {tmp_path / 'e.safetensors'} --model {model_folder} --rows 200 --questions 4 --k 3".split())
    assert asked[0][1:] == (str(model_folder), api.sentences(4), 3)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0].split(maxsplit=2) == ["1.5", "1.5", "request to pir serve"] and len(lines) == 5
    assert all(float(number) > 0 for line in lines for number in line.split()[:2])


@pytest.mark.slow
def test_the_server_is_asked_as_a_process_of_its_own(model_folder, vectors, tmp_path):
    store = LanceStore.create(str(tmp_path / "index"), load_encoder(str(model_folder)).describe())
    fill(store, vectors, 50)
    assert len(api.ask_server(tmp_path / "index", str(model_folder), api.sentences(4), 2)) == 4


def test_what_cannot_be_measured_is_one_sentence(model_folder, tmp_path):
    save_file({"image_embeds": np.ones((2, 3), np.float32)}, tmp_path / "e.safetensors")
    options = ["--embeddings", str(tmp_path / "e.safetensors"), "--model", str(model_folder)]
    for wrong, sentence in (([], "has vectors of 3 values"), (["--questions", "99"], "99 questions cannot be asked")):
        with pytest.raises(SystemExit, match=sentence):
            api.main([*options, *wrong])
