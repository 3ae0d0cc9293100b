"""Several writers, and writers that die: no row twice, no row lost, no path spoilt."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from modeling_pir.cli.main import main
from modeling_pir.hub.lock import writer_lock
from modeling_pir.index import pir_index
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.index.rows import make_row
from modeling_pir.index.stores.lance_store import LanceStore
from modeling_pir.index.stores.sqlite_store import ExactStore
from modeling_pir.inference.encoder import PIREncoder
from tests.support.embeddings import clustered

pytest.importorskip("lancedb")

HOLDER = """
import sys, time
from modeling_pir.hub.lock import holding, writer_lock
with holding(writer_lock(sys.argv[1]), 0):
    print("held", flush=True)
    time.sleep(60)
"""


def paths_of(index):
    return [row["path"] for rows, _ in PIRIndex.open(index.path).store.rows() for row in rows]


def test_two_writers_of_one_folder_write_each_file_once(index, archive, tiny_model, tiny_processor):
    second = PIRIndex.open(index.path, tiny_model, tiny_processor)
    start, reports = threading.Barrier(2), []

    def write(writer):
        start.wait()
        reports.append(writer.add(archive, batch_size=1))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in (index, second)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted((report.added, report.unchanged) for report in reports) == [(0, 4), (4, 0)]
    paths = paths_of(index)
    assert len(paths) == len(set(paths)) == 4


def test_who_waits_too_long_is_told_for_whom_and_a_dead_owner_holds_nothing(index, archive, monkeypatch, caplog):
    monkeypatch.setattr(pir_index, "WAIT_SECONDS", 0.1)
    with subprocess.Popen([sys.executable, "-c", HOLDER, index.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"Process {holder.pid} on .* is still writing, and holds"):
            index.add(archive)
        assert f"Process {holder.pid}" in caplog.text
        assert len(PIRIndex.open(index.path).search(np.ones(16))) == 0  # readers do not wait
        holder.kill()
    assert index.add(archive).added == 4


def test_doubled_index_is_healed_by_the_next_run(tmp_path, archive, tiny_model, tiny_processor):
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine="lance")
    index.add(archive)
    index.store.table.add(index.store.table.to_arrow())
    assert len(index) == 8
    assert index.add(archive).unchanged == 4
    assert len(index) == len(set(paths_of(index))) == 4


def test_same_image_twice_in_one_add_is_one_row(index, tiny_images):
    one, other, last = tiny_images[:3]
    index.add([(one, {}), (one, {}), (other, {"path": "b"}), (last, {"path": "b"})], batch_size=2)
    assert len(index) == 2
    assert index.search(last, k=1)[0].similarity == pytest.approx(1, abs=1e-5)


def test_same_file_named_twice_is_one_row(index, archive):
    assert index.add([archive, archive / "forest.png", archive / ".." / "archive"]).added == len(index) == 4


@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_creation_that_breaks_off_leaves_the_path_free(tmp_path, tiny_model, tiny_processor, monkeypatch, engine):
    store = {"lance": LanceStore, "exact": ExactStore}[engine]
    create = store.create

    def dying(path, metadata):
        create(path, metadata)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "create", dying)
        with pytest.raises(KeyboardInterrupt):
            PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)
        assert not (tmp_path / "index").exists()
        patch.setattr("modeling_pir.index.stores.files._remove", lambda partial: None)  # as if killed
        with pytest.raises(KeyboardInterrupt):
            PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)
    assert (tmp_path / ".index.partial").exists() and not (tmp_path / "index").exists()
    assert len(PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)) == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"index", "index-wal", "index-shm", ".index.lock"}


def test_who_comes_second_at_a_new_index_opens_it(tmp_path, archive, tiny_model, tiny_processor, monkeypatch, capsys):
    def load(args, index=None):
        PIRIndex.create(args.index, tiny_model, tiny_processor)  # another process, while this one loads the model
        return PIREncoder(tiny_model, tiny_processor)

    monkeypatch.setattr("modeling_pir.cli.index.load_model", load)
    assert main(["index", str(archive), "--index", str(tmp_path / "index"), "--json"]) == 0
    assert '"added": 4' in capsys.readouterr().out


def test_lock_of_a_table_lies_in_its_folder(tmp_path):
    (tmp_path / "table").mkdir()
    assert writer_lock(tmp_path / "table").lock_file == str(tmp_path / "table" / ".lock")
    assert writer_lock(tmp_path / "file").lock_file == str(tmp_path / ".file.lock")


def test_readers_see_whole_commits_while_a_writer_adds(index):
    paths, failures, done = 25, [], threading.Event()
    vectors = clustered(paths * 20, dim=16)[0]

    def read():
        reader = PIRIndex.open(index.path)
        try:
            while not done.is_set():
                hits = reader.search(vectors[0], k=1000)
                counts = {path: [hit.path for hit in hits].count(path) for path in {hit.path for hit in hits}}
                assert set(counts.values()) <= {20}, counts  # all rows of a file or none
                assert sorted(counts) == sorted(f"/{number:02}" for number in range(len(counts)))
                assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
        except Exception as error:  # the thread's failure is the test's
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(paths):
        rows = [make_row(f"/{number:02}", (0, part, 1, 1)) for part in range(20)]
        index.store.append(rows, vectors[20 * number : 20 * number + 20])
        index.store.maintain()
    done.set()
    for reader in readers:
        reader.join()
    assert not failures and len(index) == 20 * paths
