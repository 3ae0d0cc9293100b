"""What both kinds of index have to do alike."""

import os
import shutil

import numpy as np
import pytest

from modeling_pir.cli.main import main
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.index.rows import make_row
from modeling_pir.index.stores.lance_store import LanceStore
from modeling_pir.index.stores.sqlite_store import ExactStore

pytest.importorskip("lancedb")

SCENES = ["harbor", "Harbor", None, "air_port", "50 %"]
REFUSED = [
    'scene = "harbor"',
    "date > 2019",
    "scene = 3",
    "width = '3'",
    "scene IN ('a', 3)",
    "scene GLOB 'h*'",
    "scene",
    "1",
    "scene = 'x' --",
    "nothing = 1",
]
FILTERS = {
    "scene = 'harbor'": [0],
    "scene LIKE 'h%'": [0],
    "scene NOT LIKE 'h%'": [1, 3, 4],
    r"scene LIKE 'air\_port'": [3],
    r"scene LIKE '%\%'": [4],
    "lower(scene) = 'harbor'": [0, 1],
    "scene IS NULL OR width > 3": [2, 4],
    "scene NOT IN ('harbor', 'x')": [1, 3, 4],
    "width BETWEEN 1 AND 2": [1, 2],
    "minx > -1.5 AND minx <= 1e0": [0, 1],
    "`scene` = 'harbor' AND NOT width = 1": [0],
}


@pytest.fixture(params=[ExactStore, LanceStore])
def store(request, tmp_path):
    """An empty store of either kind."""
    return request.param.create(str(tmp_path / "index"), {"dim": 4, "weights": ""})


def fill(store, paths=("/a", "/b", "/c", "/d", "/e")):
    rows = [make_row(path, (0, 0, 1, 1), scene=scene) for path, scene in zip(paths, SCENES, strict=True)]
    for number, row in enumerate(rows):
        row |= {"width": number, "minx": -float(number)}
    store.append(rows, np.eye(5, 4, dtype=np.float32))
    return rows


@pytest.mark.parametrize(("where", "kept"), FILTERS.items())
def test_filter_means_the_same_on_both_stores(store, where, kept):
    fill(store)
    found = [row["path"] for rows, _ in store.rows(where) for row in rows]
    assert sorted(found) == ["/abcde"[0] + "abcde"[place] for place in kept] and store.count(where) == len(kept)


@pytest.mark.parametrize("where", REFUSED)
def test_filter_that_could_mean_two_things_is_refused(store, where):
    fill(store)
    with pytest.raises(ValueError, match="cannot be understood"):
        store.count(where)


def test_paths_below_the_root_move_with_it(store, tmp_path):
    store.set_root("/old/archive")
    rows = fill(store, ("/old/archive/a", "/old/archive/sub/b", "/old/archive2/c", "in memory", "./d"))
    stored = {row["path"]: row["id"] for part, _ in type(store)(store.path).rows() for row in part}
    assert stored.keys() == {row["path"] for row in rows} - {"./d"} | {"/old/archive/d"}
    store.set_root("/new")
    again = type(store)(store.path)
    assert again.files().keys() == {"/new/a", "/new/sub/b", "/old/archive2/c", "in memory", "/new/d"}
    moved = {row["path"]: row["id"] for part, _ in again.rows() for row in part}
    assert moved["/new/a"] == stored["/old/archive/a"]  # the row is the same one
    again.replace(["/new/a"], [make_row("/new/a", (0, 0, 1, 1))], np.ones((1, 4), dtype=np.float32))
    assert {path for path, _ in again.values(["path", "id"])} == moved.keys()
    assert again.count() == 5 and again.delete_files(["/new/sub/b"]) == 1


def test_index_that_lies_beside_its_archive_finds_it_again(store, tmp_path):
    (tmp_path / "archive").mkdir()
    store.set_root(str(tmp_path / "archive"))
    del store
    other = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.move(tmp_path, other)
    kind = LanceStore if (other / "index").is_dir() else ExactStore
    assert kind(str(other / "index")).root == str(other / "archive")


def test_columns_that_labels_bring_can_be_filtered(store):
    fill(store)
    store.add_columns({"cloud": float, "site": str})
    row = make_row("/new", (0, 0, 1, 1), cloud=12.5, site="Köln")
    store.append([row], np.ones((1, 4), dtype=np.float32))
    (found,) = [row for rows, _ in type(store)(store.path).rows("cloud > 12 AND site = 'Köln'") for row in rows]
    assert (found["cloud"], found["site"]) == (12.5, "Köln")
    with pytest.raises(ValueError, match="cloud is compared with 'x'"):
        store.count("cloud = 'x'")


def test_what_is_remembered_is_there_at_the_next_opening(store):
    store.write_state(a=1, chips={"chip_size": 112})
    store.write_state(a=2)
    assert type(store)(store.path).state == {"a": 2, "chips": {"chip_size": 112}}


def test_any_number_of_hits_may_be_asked_for(store):
    fill(store)
    for where in (None, "width > 1"):
        assert len(store.nearest(np.ones(4, dtype=np.float32) / 2, 10**12, where)) == (5 if where is None else 3)


def test_exact_index_on_a_disk_that_cannot_be_written_is_searched(tmp_path, monkeypatch):
    fill(ExactStore.create(str(tmp_path / "index"), {"dim": 4, "weights": ""}))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    before = set(tmp_path.iterdir())
    assert len(ExactStore(str(tmp_path / "index")).nearest(np.ones(4, dtype=np.float32) / 2, 9)) == 5
    assert set(tmp_path.iterdir()) == before


def test_damaged_file_is_told_in_one_sentence(tmp_path):
    fill(ExactStore.create(str(tmp_path / "index"), {"dim": 4, "weights": ""}))
    content, generator = (tmp_path / "index").read_bytes(), np.random.default_rng(0)
    told = 0
    for number in range(120):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 40):
            damaged[place] = generator.integers(0, 256)
        path = tmp_path / f"{number}"
        path.write_bytes(damaged[: generator.integers(1, len(content))] if number % 4 == 0 else damaged)
        try:
            store = ExactStore(str(path))
            store.files()
            store.nearest(np.ones(4, dtype=np.float32), 3)
            list(store.rows("scene = 'harbor'"))
        except (ValueError, OSError) as error:
            told += 1
            assert str(path) in str(error)
    assert told > 30


def damaged(content, generator):
    """A file that is cut, empty, or has other bytes."""
    if generator.random() < 0.4:
        return content[: generator.integers(len(content)) if generator.random() < 0.7 else 0]
    changed = bytearray(content)
    for place in generator.integers(0, len(content), 40):
        changed[place] = generator.integers(0, 256)
    return bytes(changed)


@pytest.mark.slow
def test_damaged_table_is_told_in_one_sentence_by_every_command(tmp_path, monkeypatch, capfd):
    for name, value in {"MIN_INDEX_ROWS": 5, "PARTITION_ROWS": 4, "EXACT_ROWS": 0, "CANDIDATES": 0}.items():
        monkeypatch.setattr(f"modeling_pir.index.stores.lance_store.{name}", value)
    store = LanceStore.create(str(tmp_path / "index"), {"dim": 8, "weights": ""})
    vectors = np.eye(8, dtype=np.float32)[np.arange(300) % 8]
    scenes = [("harbor", "airport")[number % 2] for number in range(300)]
    store.append([make_row(f"/{row}", (0, 0, 1, 1), scene=scene) for row, scene in enumerate(scenes)], vectors)
    store.maintain()
    assert store.is_approximate
    files = sorted(path.relative_to(tmp_path / "index") for path in (tmp_path / "index").rglob("*") if path.is_file())
    generator, told = np.random.default_rng(0), 0
    for number, name in enumerate(generator.permutation(np.array(files, dtype=object))[:25]):
        copy = str(tmp_path / f"copy{number}")
        shutil.copytree(tmp_path / "index", copy)
        (tmp_path / copy / name).write_bytes(damaged((tmp_path / copy / name).read_bytes(), generator))
        try:
            index = PIRIndex.open(copy)
            index.search(vectors[0], k=3)
            index.search(vectors[0], k=3, where="scene = 'harbor'")
        except OSError as error:
            assert str(error).startswith(copy) and "\n" not in str(error) and ".rs:" not in str(error)
        commands = (["check"], ["export-rows", str(tmp_path / "rows.parquet")], ["delete", "scene = 'harbor'"])
        for command in commands:
            code = main([*command, "--index", copy])
            out, err = capfd.readouterr()  # of the process: Rust itself prints where a worker of Lance panicked
            lines = [line for line in err.splitlines() if line]
            told_by_rust = bool(lines) and "lancedb-tokio-worker" in lines[0]
            assert code == 0 or (not out and lines[-1].startswith(f"pir {command[0]}: {copy}"))
            assert code == 0 or len(lines) == 1 or (told_by_rust and "Traceback" not in err)
            told += code == 2
    assert told > 5


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_damaged_index_is_told_by_index_search_and_serve(
    tmp_path, tiny_model, tiny_processor, tiny_images, model_folder, engine, monkeypatch, capfd
):
    served = []
    monkeypatch.setattr("modeling_pir.serve.launch.launch", lambda index, *_: served.append(len(index)))
    (archive := tmp_path / "archive").mkdir()
    for number, image in enumerate(tiny_images):
        image.save(archive / f"{number}.png")
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)
    index.add(archive)
    if engine == "exact":
        index.store.close()  # which writes what SQLite keeps in a file beside it
    files = (
        [tmp_path / "index"]
        if engine == "exact"
        else sorted(path for path in tmp_path.glob("index/**/*.*") if path.is_file() and path.stat().st_size)
    )
    generator, told = np.random.default_rng(0), 0
    for number in range(8):
        copy, name = tmp_path / f"copy{number}", files[number % len(files)].relative_to(tmp_path / "index")
        (shutil.copytree if engine == "lance" else shutil.copy)(tmp_path / "index", copy)
        (copy / name).write_bytes(damaged((copy / name).read_bytes(), generator))
        model = ("--model", str(model_folder))
        for command in (["search", "a forest"], ["serve", "--port", "0", *model], ["index", str(archive), *model]):
            code = main([*command, "--index", str(copy)])
            err = capfd.readouterr().err
            lines = [line for line in err.splitlines() if line.startswith(f"pir {command[0]}: ")]
            assert "Traceback" not in err and (code == 0 or (len(lines) == 1 and str(copy) in lines[0])), (name, err)
            told += code == 2
    assert told > 5 and set(served) <= {4}


def test_filter_is_not_blamed_for_damaged_files(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pir.index.stores.lance_store.MIN_INDEX_ROWS", 5)
    store = LanceStore.create(str(tmp_path / "index"), {"dim": 8, "weights": ""})
    rows = [make_row(f"/{row}", (0, 0, 1, 1), scene="harbor") for row in range(300)]
    store.append(rows, np.eye(8, dtype=np.float32)[np.arange(300) % 8])
    store.maintain()
    told = 0
    for path in (tmp_path / "index" / "images.lance" / "_indices").rglob("*.lance"):
        content = path.read_bytes()
        path.write_bytes(content[:-24] + (1 << 47).to_bytes(8, "little") + content[-16:])  # where its footer points
        try:
            assert LanceStore(str(tmp_path / "index")).count("scene = 'harbor'") == 300
        except OSError as error:
            told += "restore them or rebuild it" in str(error)
        path.write_bytes(content)
    assert told


def test_filter_that_divides_by_zero_is_refused(tmp_path):
    store = LanceStore.create(str(tmp_path / "index"), {"dim": 4, "weights": ""})
    fill(store)
    with pytest.raises(ValueError, match="cannot be understood .it divides by zero"):
        store.count("height / width > 0")


def test_many_small_runs_train_again_and_leave_few_parts(tmp_path, monkeypatch):
    for name, value in {
        "MIN_INDEX_ROWS": 1000,
        "PARTITION_ROWS": 256,
        "MAX_UNINDEXED": 100,
        "MAX_FRAGMENTS": 4,
    }.items():
        monkeypatch.setattr(f"modeling_pir.index.stores.lance_store.{name}", value)
    trained = []
    train = LanceStore._train
    monkeypatch.setattr(
        LanceStore, "_train", lambda store, num_rows: trained.append(num_rows) or train(store, num_rows)
    )
    LanceStore.create(str(tmp_path / "index"), {"dim": 16, "weights": ""})
    vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = [0, *range(1000, 2000, 50)]
    for start, end in zip(starts, [*starts[1:], 2000], strict=True):  # after the first, each adds 5 % or less
        store = LanceStore(str(tmp_path / "index"))
        store.append([make_row(f"/{number}", (0, 0, 1, 1)) for number in range(start, end)], vectors[start:end])
        store.maintain()
    assert trained == [1000, 1250, 1550, 1900] and store._index_stats().num_indices <= 8
    assert store.table.stats()["fragment_stats"]["num_fragments"] <= 6
    found = [row["path"] for row, _ in store.nearest(vectors[-1], 50)]  # codes of 16 bits find it among many only
    assert found[0] == "/1999"


def test_recall_stays_high_as_the_vector_index_is_trained_extended_and_merged(tmp_path, monkeypatch):
    for name, value in {"MIN_INDEX_ROWS": 1000, "PARTITION_ROWS": 512, "MAX_UNINDEXED": 100}.items():
        monkeypatch.setattr(f"modeling_pir.index.stores.lance_store.{name}", value)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 64))[generator.integers(0, 40, 4660)] + generator.normal(size=(4660, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    store = LanceStore.create(str(tmp_path / "index"), {"dim": 64, "weights": ""})
    for start, end in ((0, 4000), (4000, 4600)):  # the second is less than is trained anew for
        store.append([make_row(f"/{number}", (0, 0, 1, 1)) for number in range(start, end)], vectors[start:end])
        store.maintain()
        assert store.is_approximate and store._index_stats().num_unindexed_rows == 0
        found, right = (
            [{row["path"] for row, _ in store.nearest(vector, 10, exact=exact)} for vector in vectors[4600:]]
            for exact in (False, True)
        )
        assert np.mean([len(one & other) / 10 for one, other in zip(found, right, strict=True)]) >= 0.99
