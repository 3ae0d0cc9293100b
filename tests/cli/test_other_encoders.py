"""CLIP, SigLIP and a VisionTextDualEncoder in the commands that take a model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_pir import PIRIndex, load_encoder
from modeling_pir.cli.main import main
from tests.support.tiny_encoders import KINDS, save_encoder

pytest.importorskip("lancedb")
rasterio = pytest.importorskip("rasterio")


@pytest.fixture
def run(capsys):
    def run_pir(*arguments):
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run_pir


@pytest.mark.parametrize("kind", KINDS)
def test_another_encoder_is_indexed_searched_localized_and_classifies(tmp_path, run, tiny_tokenizer, tiny_images, kind):
    model = save_encoder(kind, tmp_path / "model", tiny_tokenizer)
    archive, index = tmp_path / "archive", tmp_path / "index"
    archive.mkdir()
    for number, image in enumerate(tiny_images):
        image.save(archive / f"{number}.png")
    assert run("index", archive, "--index", index, "--model", model)[1]["added"] == 4
    opened = PIRIndex.open(index)
    assert (opened.metadata["model_id"], opened.metadata["family"]) == (model, "transformers")
    encoder = load_encoder(model)
    opened.attach(encoder)
    similarity = encoder.embed_images(tiny_images) @ encoder.embed_texts(["a forest"])[0]
    code, found = run("search", "a forest", "--index", index)  # which loads the encoder that made the index
    by_path = {hit["path"].rpartition("/")[2]: hit["similarity"] for hit in found["hits"]}
    assert code == 0 and by_path == pytest.approx(
        {f"{row}.png": float(one) for row, one in enumerate(similarity)}, abs=1e-5
    )
    assert run("search", "--image", archive / "2.png", "--index", index)[1]["hits"][0]["path"].endswith("2.png")
    _, classified = run("classify", archive / "0.png", "--labels", "forest,airport", "--model", model)
    assert sum(classified[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    values = np.random.default_rng(0).integers(1, 255, (3, 64, 96), dtype=np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6)}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=64, width=96, dtype="uint8", **place
    ) as file:
        file.write(values)
    options = ("--model", model, "--output", tmp_path / "maps", "--chip-size", 32, "--places", 2)
    assert len(run("localize", tmp_path / "a.tif", "a forest", *options)[1]["places"]) == 2


def test_an_index_of_another_encoder_is_refused(tmp_path, run, tiny_tokenizer, tiny_images):
    clip = save_encoder("CLIP", tmp_path / "clip", tiny_tokenizer)
    other = save_encoder("VisionTextDualEncoder", tmp_path / "other", tiny_tokenizer)
    tiny_images[0].save(tmp_path / "a.png")
    run("index", tmp_path / "a.png", "--index", tmp_path / "index", "--model", clip)
    code, out = run("search", "a", "--index", tmp_path / "index", "--model", other)
    assert code == 2 and f"was made by {clip}" in out["error"] and f"not by {other}" in out["error"]


def test_a_file_of_weights_is_told_to_be_converted(tmp_path, run):
    (tmp_path / "RemoteCLIP.pt").write_bytes(b"weights")
    code, out = run("index", tmp_path, "--index", tmp_path / "index", "--model", tmp_path / "RemoteCLIP.pt")
    assert code == 2 and f"pir convert {tmp_path / 'RemoteCLIP.pt'} FOLDER" in out["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_the_configuration_has_no_place_for_are_refused_by_name(tmp_path, tiny_tokenizer, kind):
    folder = Path(save_encoder(kind, tmp_path / "model", tiny_tokenizer))
    state = load_file(folder / "model.safetensors")
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(3)}, folder / "model.safetensors")
    load_encoder(str(folder))  # as old versions of transformers saved it
    extra = {"vision_model.encoder.layers.9.weight": torch.zeros(2), "rest": torch.zeros(1)}
    save_file(state | extra, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"2 unexpected \(rest, vision_model.encoder.layers.9.weight\)"):
        load_encoder(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["ModelForObjectDetection"]}))
    with pytest.raises(ValueError, match=r"1 unexpected \(vision_model.encoder.layers.9.weight\)"):  # rest is its head
        load_encoder(str(folder))
