"""The image side that `pir index` exports for a large archive on a CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pir.cli import index as index_command
from modeling_pir.cli.main import main
from modeling_pir.convert import export_image as module
from modeling_pir.convert.export_image import export_image
from modeling_pir.hub.identity import weights_fingerprint
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.encoder import PIREncoder, image_program, load_encoder


@pytest.fixture
def folder(model_folder, tmp_path, monkeypatch):
    """A model folder, in an environment in which its image side may be exported."""
    monkeypatch.delenv("PIR_IMAGE_ENCODER")
    monkeypatch.setenv("PIR_CACHE", str(tmp_path / "cache"))
    return model_folder


@pytest.fixture
def archive(tmp_path, tiny_images):
    (tmp_path / "archive").mkdir()
    for number, image in enumerate(tiny_images):
        image.save(tmp_path / "archive" / f"{number}.png")
    return tmp_path / "archive"


@pytest.mark.slow  # an export takes ten seconds
def test_large_archive_is_embedded_by_the_exported_side_as_by_torch(folder, archive, monkeypatch, tmp_path):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(index_command, "WORTH_AN_EXPORT", 4)
    expected = load_encoder(str(folder))
    assert expected.vision_session is None
    used, encode = [], PIREncoder.encode_images
    spy = lambda self, images: used.append(self.vision_session is not None) or encode(self, images)  # noqa: E731
    monkeypatch.setattr(PIREncoder, "encode_images", spy)
    assert main(["index", str(archive), "--index", str(tmp_path / "index"), "--model", str(folder)]) == 0
    assert used == [True]
    monkeypatch.setattr(PIREncoder, "encode_images", encode)
    found = load_encoder(str(folder))
    assert found.vision_session is not None  # the next process takes it, too
    ((rows, vectors),) = PIRIndex.open(tmp_path / "index").store.rows()
    images = [Image.open(row["path"]).convert("RGB") for row in rows]
    torch_vectors = expected.embed_images(images)
    np.testing.assert_allclose(vectors, torch_vectors.numpy(), atol=1e-5)


def test_small_archive_is_not_worth_an_export(folder, archive, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "export_image", lambda encoder: pytest.fail("exported"))
    assert main(["index", str(archive), "--index", str(tmp_path / "index"), "--model", str(folder)]) == 0


def test_export_that_fails_is_told_and_torch_embeds(folder, archive, monkeypatch, tmp_path, capsys):
    def fail(encoder):
        raise ValueError("The image side of this model cannot be exported (KeyError: x).")

    monkeypatch.setattr(module, "export_image", fail)
    monkeypatch.setattr(index_command, "WORTH_AN_EXPORT", 4)
    assert main(["index", str(archive), "--index", str(tmp_path / "index"), "--model", str(folder)]) == 0
    assert "embedded with torch, which is slower: The image side of this model cannot be" in capsys.readouterr().err
    assert len(PIRIndex.open(tmp_path / "index")) == 4


def test_an_export_that_differs_does_not_appear(folder, tiny_model, tiny_processor, monkeypatch):
    pytest.importorskip("onnxscript")

    class Program:
        model = type("Model", (), {"metadata_props": {}})()

        def save(self, path):
            path.write_bytes(b"program")

    class Session:
        def run(self, names, inputs):
            return [np.ones((len(inputs["pixel_values"]), 16), dtype=np.float32)]

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program())
    monkeypatch.setattr(module, "open_image_program", lambda *_: Session())
    encoder = PIREncoder(tiny_model, tiny_processor)
    with pytest.raises(ValueError, match="exported image side differs from the model by"):
        export_image(encoder)
    assert not image_program(weights_fingerprint(tiny_model)).exists() and encoder.vision_session is None


def test_damaged_program_is_named(folder, tiny_model):
    pytest.importorskip("onnxruntime")
    program = image_program(weights_fingerprint(tiny_model))
    program.parent.mkdir(parents=True)
    program.write_bytes(b"no program")
    with pytest.raises(ValueError, match=r"vision_model.onnx is damaged .*: remove it"):
        load_encoder(str(folder))


def test_scenes_count_by_their_size(tmp_path):
    (tmp_path / "a.tif").write_bytes(bytes(10 * index_command.CHIP_BYTES))
    assert index_command.num_images([str(tmp_path / "a.tif"), "b.jpg", "c.png", "gone.tif"]) == 12
