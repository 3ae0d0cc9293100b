"""Drill: `pir index` killed at any moment, from its first milliseconds on, and run again."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from modeling_pir.index.pir_index import PIRIndex
from tests.support.paths import ROOT

pytest.importorskip("lancedb")

# What `pir index` does after its imports, which take seconds in which there is nothing to harm.
INDEXER = """
import importlib.util, sys
from modeling_pir.cli import index, main
from modeling_pir.convert import export_text
from modeling_pir.index import commits
from modeling_pir.inference.encoder import load_encoder
index.export_text_side = lambda made: None
commits.COMMIT_SECONDS = 0.05
if sys.argv[1] == "exact":
    importlib.util.find_spec = lambda name: None
else:
    import lancedb
encoder = load_encoder(sys.argv[4])
index.load_model = lambda args, made=None: encoder
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(["index", sys.argv[2], "--index", sys.argv[3], "--batch-size", "4", "--json"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_ten_kills_from_the_first_millisecond_on_leave_every_file_once(tmp_path, tiny_model, tiny_processor, engine):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "archive").mkdir()
    generator = np.random.default_rng(0)
    for number in range(400):
        pixels = generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "archive" / f"{number:03}.png")
    paths = [str(tmp_path / name) for name in ("archive", "index", "model")]
    command = [sys.executable, "-c", INDEXER, engine, *paths]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    for wait in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8):
        with subprocess.Popen(command, **run) as indexer:
            assert indexer.stdout.readline() == "ready\n"
            indexer.stdin.write("\n")
            indexer.stdin.flush()
            time.sleep(wait)
            indexer.kill()
        if (tmp_path / "index").exists():
            found = [row["path"] for rows, _ in PIRIndex.open(tmp_path / "index").store.rows() for row in rows]
            assert len(found) == len(set(found))
    done = subprocess.run(command, input="\n", capture_output=True, text=True, env=environment, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == result["added"] + result["unchanged"] == 400 and not result["errors"]
    index = PIRIndex.open(tmp_path / "index")
    assert index.store.kind == engine and len(index.store.files()) == 400


WRITER = """
import sys
from pathlib import Path
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.index import PIRIndex

index = PIRIndex.open(sys.argv[1], *load_pretrained(sys.argv[2]))
files = sorted(Path(sys.argv[3]).iterdir())
print("ready", flush=True)
for start in range(0, len(files), 4):
    index.add(files[start : start + 4])
    print(start + 4, flush=True)  # acknowledged
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_ten_kills_lose_no_acknowledged_row(tmp_path, tiny_model, tiny_processor, tiny_images, engine):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    archive = tmp_path / "archive"
    archive.mkdir()
    generator = np.random.default_rng(0)
    num_images = 2000  # more than ten killed writers can embed on a fast machine
    for number in range(num_images):
        Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(archive / f"{number:04}.png")
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)
    command = [sys.executable, "-c", WRITER, index.path, str(tmp_path / "model"), str(archive)]
    for number in range(10):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            if number >= 5:  # however slow the machine is, these have written something
                assert writer.stdout.readline().strip().isdigit()
            timer = threading.Timer(float(generator.uniform(0.02, 0.6)), writer.kill)
            timer.start()
            acknowledged = [int(line) for line in writer.stdout if line.strip().isdigit()]
            timer.cancel()
        paths = [row["path"] for rows, _ in PIRIndex.open(index.path).store.rows() for row in rows]
        assert len(paths) == len(set(paths)) >= max(acknowledged, default=0)
        assert {str(archive / f"{number:04}.png") for number in range(max(acknowledged, default=0))} <= set(paths)
    assert 0 < len(index) < num_images
    report = index.add(archive)
    assert report.added + report.unchanged == num_images == len(index) and report.added > 0
    assert len({hit.path for hit in index.search("a", k=num_images)}) == num_images
