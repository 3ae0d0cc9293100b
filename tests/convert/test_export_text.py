"""The text side of any dual encoder without torch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from modeling_pir.convert.export_text import export_text
from modeling_pir.inference.encoder import PIREncoder, load_encoder
from modeling_pir.inference.onnx_text import OnnxTextEncoder
from tests.support.tiny_encoders import KINDS, save_encoder

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # an export takes ten seconds
SCRIPT = """
import sys
from modeling_pir.cli.main import main
main(sys.argv[1:])
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""
TEXTS = ["a", "two green squares, near the Forest", "square " * 90, "机场"]


@pytest.fixture
def exported(tmp_path, tiny_model, tiny_processor):
    encoder = PIREncoder(tiny_model, tiny_processor)
    export_text(encoder, tmp_path / "text", np.eye(16, dtype=np.float32))
    return encoder, OnnxTextEncoder(tmp_path / "text")


def test_pir_embeds_texts_as_in_torch_and_reads_them_alike(exported):
    encoder, found = exported
    for text in TEXTS:
        np.testing.assert_allclose(found.embed_texts([text]), encoder.embed_texts([text]).numpy(), atol=1e-5)
    assert found.bank.shape == (16, 16)
    assert found.reading.max_tokens == encoder.reading.max_tokens
    assert found.reading.tokenizer.encode(TEXTS[2]).ids == encoder.reading.tokenizer.encode(TEXTS[2]).ids


@pytest.mark.parametrize("kind", KINDS)
def test_other_encoders_embed_texts_as_in_torch(tmp_path, tiny_tokenizer, kind):
    encoder = load_encoder(save_encoder(kind, tmp_path / "model", tiny_tokenizer))
    assert export_text(encoder, tmp_path / "text", np.zeros((0, 12))) < 1e-5
    found = OnnxTextEncoder(tmp_path / "text")
    for text in TEXTS:
        np.testing.assert_allclose(found.embed_texts([text]), encoder.embed_texts([text]).numpy(), atol=1e-5)


def test_a_search_by_words_needs_neither_torch_nor_transformers(tmp_path, tiny_model, tiny_processor, tiny_images):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "archive").mkdir()
    for number, image in enumerate(tiny_images):
        image.save(tmp_path / "archive" / f"{number}.png")
    environment = os.environ | {"PIR_CACHE": str(tmp_path / "cache"), "PIR_TEXT_ENCODER": "onnx"}
    index = str(tmp_path / "index")
    pir = [sys.executable, "-c", SCRIPT]
    made = subprocess.run(
        [*pir, "index", str(tmp_path / "archive"), "--index", index, "--model", str(tmp_path / "model")],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert "searches by words start without torch" in made.stdout, made.stderr
    search = [*pir, "search", "a forest", "--index", index, "--json"]
    fast = subprocess.run(search, capture_output=True, text=True, env=environment)
    slow = subprocess.run(search, capture_output=True, text=True, env=environment | {"PIR_TEXT_ENCODER": "torch"})
    assert fast.stdout.splitlines()[-1] == "[]" and slow.stdout.splitlines()[-1] == "['torch', 'transformers']"
    hits = [json.loads(done.stdout.splitlines()[0])["hits"] for done in (fast, slow)]
    assert [hit["id"] for hit in hits[0]] == [hit["id"] for hit in hits[1]]
    np.testing.assert_allclose(*([hit["similarity"] for hit in part] for part in hits), atol=1e-4)
