import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pir import PIRModel
from modeling_pir.cli.main import build_parser, main
from modeling_pir.convert.convert_pir_checkpoint_to_hf import Flags
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.encoder import PIREncoder, load_encoder
from modeling_pir.serve.launch import take_port

pytest.importorskip("lancedb")

COMMANDS = (
    "index",
    "delete",
    "export-rows",
    "check",
    "search",
    "embed",
    "localize",
    "classify",
    "serve",
    "demo",
    "convert",
    "export",
)


@pytest.fixture
def archive(tmp_path, tiny_images):
    """Four images, and two files that are none."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number, image in enumerate(tiny_images):
        image.save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def indexed(run, archive, model_folder, tmp_path):
    """The path of an index of the archive."""
    path = tmp_path / "index"
    assert run("index", archive, "--index", path, "--model", model_folder)[0] == 1  # one broken file
    return path


def test_index_lists_what_it_could_not_read(run, archive, model_folder, tmp_path):
    code, out, err = run("index", archive, "--index", tmp_path / "index", "--model", model_folder)
    assert code == 1
    assert "4 rows (lance index), 4 added" in out
    assert "1 files are no images, or links to what is there, and were passed over:\n" in out and "notes.txt" in out
    assert "1 files could not be indexed:\n" in out and "broken.jpg is not a readable image" in out
    assert "embedding" in err  # the progress bar


def test_second_run_does_not_load_the_model(run, archive, indexed, monkeypatch):
    (archive / "broken.jpg").unlink()
    monkeypatch.setattr("modeling_pir.hub.pretrained.load_pretrained", None)  # a call would fail
    code, out, _ = run("index", archive, "--index", indexed)
    assert code == 0 and "0 added, 4 files unchanged" in out


def test_an_older_script_of_an_editable_install_finds_the_command():
    from modeling_pir.cli import main as named_by_the_folder

    assert named_by_the_folder is main


def test_second_run_imports_neither_torch_nor_transformers(archive, indexed, model_folder):
    """Their import takes longer than to look at ten thousand files."""
    (archive / "broken.jpg").unlink()
    script = """
import sys
from modeling_pir.cli.main import main
code = main(sys.argv[1:])
print({"torch", "transformers"} & set(sys.modules), code)
"""
    options = ["index", str(archive), "--index", str(indexed), "--model", str(model_folder)]
    done = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set() 0" and "4 files unchanged" in done.stdout


def test_another_revision_is_looked_at_even_if_no_file_has_changed(run, archive, indexed, model_folder, monkeypatch):
    (archive / "broken.jpg").unlink()
    loaded = []

    def load(args, index):
        loaded.append(args.revision)
        return load_encoder(str(args.model))

    monkeypatch.setattr("modeling_pir.cli.index.load_model", load)
    run("index", archive, "--index", indexed, "--model", model_folder, "--revision", "other")
    assert loaded == ["other"]


def test_index_in_json(run, archive, indexed, tiny_images):
    tiny_images[0].rotate(90).save(archive / "0.png")
    (archive / "1.png").unlink()
    code, out, err = run("index", archive, "--index", indexed, "--delete-missing", "--json")
    result = json.loads(out)
    assert code == 1 and "embedding" not in err
    assert [result[key] for key in ("rows", "added", "unchanged", "deleted")] == [3, 1, 2, 1]
    assert [Path(path).name for path, _ in result["errors"]] == ["broken.jpg"]


def test_rows_are_checked_exported_and_deleted(run, indexed, tmp_path):
    assert "recall@10 against exact search: 1.000" in run("check", "--index", indexed, "--queries", "3")[1]
    code, out, _ = run("export-rows", tmp_path / "all.geojson", "--index", indexed, "--where", "path LIKE '%/0.png'")
    assert code == 0 and "1 rows written to" in out
    assert len(json.loads((tmp_path / "all.geojson").read_text())["features"]) == 1
    assert "3 rows (lance index), 1 deleted" in run("delete", "path LIKE '%/0.png'", "--index", indexed)[1]


def test_row_of_a_vanished_file_is_marked(run, indexed, archive):
    (archive / "0.png").unlink()
    lines = run("search", "a", "--index", indexed)[1].splitlines()[1:]
    assert [line.split("/")[-1] for line in lines if "missing" in line] == ["0.png (missing)"]


def test_archive_that_is_elsewhere_is_named_by_its_root(run, indexed, archive, tmp_path):
    theirs = archive.rename(tmp_path / "theirs")
    hits = json.loads(run("search", "a", "--index", indexed, "--root", theirs, "--json")[1])["hits"]
    assert {Path(hit["path"]).parent for hit in hits} == {theirs} and not any(hit["is_missing"] for hit in hits)


def test_version_is_told(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("pir 0.")


def test_index_without_lancedb_is_a_sqlite_file(run, archive, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    command = ("index", archive, "--index", tmp_path / "new", "--model", model_folder, "--json")
    assert run(*command)[0] == 1 and (tmp_path / "new").is_file()  # one broken file
    assert json.loads(run(*command)[1])["unchanged"] == 4


def test_vectors_of_another_index_become_one_without_embedding(run, indexed, archive, tmp_path, monkeypatch):
    assert run("export-rows", tmp_path / "all.parquet", "--index", indexed)[0] == 0
    monkeypatch.setattr("modeling_pir.index.embed_files.embed_files", None)  # a call would fail
    code, out, _ = run("index", "--from", tmp_path / "all.parquet", "--index", tmp_path / "other")
    assert code == 0 and "4 rows (lance index), 4 added" in out
    found = [
        json.loads(run("search", "a", "--index", path, "--json")[1])["hits"] for path in (indexed, tmp_path / "other")
    ]
    assert [hit["id"] for hit in found[0]] == [hit["id"] for hit in found[1]]


def test_folder_of_images_is_embedded_into_a_file_that_becomes_an_index(run, archive, model_folder, tmp_path):
    (archive / "metadata.jsonl").write_text('{"file_name": "0.png", "scene": "airport"}\n')
    command = ("embed", archive, "--output", tmp_path / "out", "--model", model_folder)
    code, out, _ = run(*command)
    assert code == 1 and "images.parquet: 4 rows" in out and "broken.jpg is not a readable image" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["images.parquet"]
    assert "exists already" in run(*command)[1]
    assert run("index", "--from", tmp_path / "out" / "images.parquet", "--index", tmp_path / "other")[0] == 0
    hits = json.loads(run("search", "a", "--index", tmp_path / "other", "--scene", "airport", "--json")[1])["hits"]
    assert [hit["path"] for hit in hits] == [str(archive / "0.png")]


def test_folder_without_images_and_parquet_is_refused(run, tmp_path, model_folder):
    (tmp_path / "empty").mkdir()
    code, _, errors = run("embed", tmp_path / "empty", "--output", tmp_path / "out", "--model", model_folder)
    assert code == 2 and "contains neither images nor Parquet files" in errors


def test_catalogue_is_a_source_and_a_collection_an_export(run, archive, model_folder, tmp_path):
    pystac = pytest.importorskip("pystac")
    item = pystac.Item("one", None, None, datetime(2019, 9, 4), {})
    item.add_asset("image", pystac.Asset(str(archive / "0.png"), media_type="image/png"))
    bad = pystac.Item("bad", None, None, datetime(2019, 9, 4), {})
    catalogue = pystac.Catalog("archive", "an archive")
    catalogue.add_items([item, bad])
    catalogue.normalize_and_save(str(tmp_path / "stac"), pystac.CatalogType.SELF_CONTAINED)
    options = ("--index", tmp_path / "index", "--model", model_folder)
    code, out, _ = run("index", tmp_path / "stac" / "catalog.json", *options)
    assert code == 1 and "1 rows (lance index), 1 added" in out
    assert "The STAC Item bad has no asset that is an image" in out
    assert run("export-rows", tmp_path / "out" / "collection.json", "--index", tmp_path / "index")[0] == 0
    (found,) = pystac.Collection.from_file(str(tmp_path / "out" / "collection.json")).get_items()
    assert found.datetime.year == 2019 and found.assets["image"].get_absolute_href() == str(archive / "0.png")


def test_search_prints_the_ranking_of_the_index(run, indexed, tiny_model, tiny_processor):
    expected = PIRIndex.open(indexed, tiny_model, tiny_processor).search("a forest", k=3)
    code, out, _ = run("search", "a forest", "--index", indexed, "-k", 3)
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split() == [
        "rank",
        "similarity",
        "relevance",
        "id",
        "window",
        "path",
    ]  # columns with nothing in them are left out
    for rank, (line, hit) in enumerate(zip(lines, expected, strict=True), start=1):
        values = [f"{hit.similarity:.3f}", f"{hit.relevance:+.1f}", hit.id[:8], "0,0,48,40", hit.path]
        assert line.split() == [str(rank), *values]
    hits = json.loads(run("search", "a forest", "--index", indexed, "-k", 3, "--json")[1])["hits"]
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]


def test_search_says_what_is_doubtful_and_takes_questions_of_several_parts(run, archive, indexed):
    code, _, err = run("search", "机场", "--index", indexed)
    assert code == 0 and "does not know 机场" in err
    liked = archive / "2.png"
    found = json.loads(run("search", "--like", liked, "--not", "a forest", "--index", indexed, "--json")[1])
    assert len(found["hits"]) == 3 and str(liked) not in [hit["path"] for hit in found["hits"]]
    each = json.loads(run("search", "a forest", "a harbor", "--each", "--index", indexed, "--json")[1])
    assert each["query"] == "a forest a harbor" and len(each["hits"]) == 4


def test_search_by_image_finds_the_image(run, archive, indexed):
    _, out, _ = run("search", "--image", archive / "2.png", "--index", indexed, "--json")
    best = json.loads(out)["hits"][0]
    assert Path(best["path"]).name == "2.png" and best["similarity"] == pytest.approx(1, abs=1e-5)


def test_search_draws_a_sheet_and_writes_a_map(run, archive, indexed, tmp_path):
    (archive / "3.png").unlink()  # a tile says so
    options = (
        "--picture",
        tmp_path / "sheet.png",
        "--save",
        tmp_path / "hits.geojson",
        "--save",
        tmp_path / "hits.csv",
    )
    assert run("search", "a", "--index", indexed, *options)[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (258, 4 * 224, 3)
    assert all(sheet[:220, column : column + 224].std() > 5 for column in range(0, 896, 224))  # no tile is empty
    assert len((tmp_path / "hits.csv").read_text().splitlines()) == 5
    features = json.loads((tmp_path / "hits.geojson").read_text())["features"]
    assert [feature["properties"]["rank"] for feature in features] == [1, 2, 3, 4]


def test_search_filters_by_options_and_sql(run, tiny_images, tiny_model, tiny_processor, model_folder, tmp_path):
    index = PIRIndex.create(tmp_path / "filled", PIREncoder(tiny_model, tiny_processor, str(model_folder)))
    fields = [
        {"path": "old", "scene": "airport", "date": "2012-05-01", "bounds": (10, 50, 11, 51)},
        {"path": "new", "scene": "airport", "date": "2020-05-01", "bounds": (10, 50, 11, 51)},
        {"path": "far", "scene": "forest", "date": "2020-05-02", "bounds": (100, 50, 101, 51)},
    ]
    index.add(zip(tiny_images, fields, strict=False))

    def found(*options):
        code, out, _ = run("search", "a", "--index", index.path, "--json", "--group", "none", *options)
        assert code == 0
        return sorted(hit["path"] for hit in json.loads(out)["hits"])

    assert found("--scene", "airport", "--after", "2019") == ["new"]
    assert found("--before", "2012-05") == ["old"]
    assert found("--box=9,49,12,52") == ["new", "old"]
    assert found("--where", "date > '2019' OR scene = 'x'", "--scene", "forest") == ["far"]
    assert found("--scene", "desert") == []
    assert found("--exclude", "o*", "--exclude", "far") == ["new"]
    assert found("--group", "place") in (["far", "new"], ["far", "old"])
    assert run("search", "a", "--index", index.path, "--scene", "desert")[1] == "nothing found\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", " ", "--index", "INDEX"], "query is empty"),
        (["search", "--index", "INDEX"], "query is empty"),
        (["search", "a", "--index", "INDEX", "--like", "abcd", "--unlike", "abcd"], "as both relevant and wrong"),
        (["search", "--index", "INDEX", "--like", "abcd"], "has no row 'abcd'"),
        (["search", "a", "--index", "INDEX", "--area", "/no.geojson"], "/no.geojson cannot be read"),
        (["search", "a", "--index", "INDEX", "--picture", "/no/sheet.png"], "/no/sheet.png cannot be written"),
        (
            ["search", "a", "--index", "INDEX", "--save", "hits.shp"],
            "suffix '.shp': name one of .geojson, .csv, .parquet",
        ),
        (["index", "--index", "INDEX", "--from", "no.parquet"], "no.parquet is not a readable Parquet file"),
        (["search", "a", "--index", "INDEX", "--image-weight", "2"], "image_weight is 2.0"),
        (["search", "a", "--index", "INDEX", "-k", "0"], "k is 0"),
        (["search", "a", "--index", "INDEX", "--where", "date >>"], "cannot be understood"),
        (["search", "a", "--index", "INDEX", "--box", "1,2"], "is not a box"),
        (["search", "a", "--index", "/no/index"], "/no/index is not an index: make one with pir index"),
        (["search", "--index", "INDEX", "--image", "/no.png"], "/no.png cannot be read"),
        (["index", "/nowhere", "--index", "NEW", "--model", "MODEL"], "/nowhere does not exist"),
        (["index", "ARCHIVE", "--index", "NEW"], "add --model"),
        (["index", "ARCHIVE", "--index", "NEW", "--model", "/no/model"], "/no/model cannot be loaded"),
        (["index", "ARCHIVE", "--index", "ARCHIVE", "--model", "MODEL"], "is not an index"),
        (["index", "--index", "INDEX"], "nothing to index"),
        (["index", "a.png", "b.png", "--index", "INDEX", "--delete-missing"], "exactly one SOURCE"),
        (["export-rows", "all.csv", "--index", "INDEX"], "suffix '.csv'"),
        (["embed", "/nowhere", "--output", "NEW", "--model", "MODEL"], "no .parquet file at /nowhere"),
        (["classify", "0.png", "--labels", "one", "--model", "MODEL"], "names 1 labels"),
        (["classify", "0.png", "--labels", "a,b", "--template", "x", "--model", "MODEL"], "has no {}"),
        (["localize", "/no.tif", "a", "--output", "maps", "--model", "MODEL"], "/no.tif does not exist"),
    ],
)
def test_bad_input_gets_one_sentence(run, archive, indexed, model_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("modeling_pir.cli.options.SHIPPED_MODEL", tmp_path / "no checkout")
    paths = {"INDEX": indexed, "MODEL": model_folder, "ARCHIVE": archive, "NEW": tmp_path / "new"}
    code, out, err = run(*(paths.get(argument, argument) for argument in arguments))
    lines = [line for line in err.splitlines() if line.startswith("pir ")]  # beside transformers' progress bars
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith(f"pir {arguments[0]}: ") and message in lines[0]
    assert not (tmp_path / "new").exists()


def test_a_closed_output_is_no_error(indexed, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of `pir ... >&-`
    assert main(["search", "airport", "--index", str(indexed)]) == 0


def test_error_in_json(run):
    code, out, _ = run("search", "a", "--index", "/no/index", "--json")
    assert code == 2 and "is not an index" in json.loads(out)["error"]


def test_index_of_another_model_is_refused_with_the_command(
    run, archive, indexed, tiny_config, tiny_processor, tmp_path
):
    torch.manual_seed(1)
    PIRModel(tiny_config).save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")
    for command in (["index", archive], ["search", "a"]):
        code, _, err = run(*command, "--index", indexed, "--model", tmp_path / "other")
        assert code == 2
        assert f"make a new index with: pir index FOLDER --index NEW_INDEX --model {tmp_path / 'other'}" in err


def test_interrupted_index_keeps_what_it_wrote(run, archive, model_folder, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_pir.inference.encoder.Encoder.embed_images", interrupted)
    code, _, err = run("index", archive, "--index", tmp_path / "index", "--model", model_folder)
    assert code == 130 and "run the command again for the rest" in err
    monkeypatch.undo()
    assert "4 added" in run("index", archive, "--index", tmp_path / "index")[1]


def test_classify_gives_probabilities(run, archive, model_folder):
    images = [archive / "0.png", archive / "1.png"]
    code, out, _ = run(
        "classify", *images, "--labels", "airport, forest,airport,harbor", "--model", model_folder, "--json"
    )
    results = json.loads(out)
    assert code == 0 and [Path(result["image"]).name for result in results] == ["0.png", "1.png"]
    for result in results:
        values = list(result["probabilities"].values())
        assert sorted(result["probabilities"]) == ["airport", "forest", "harbor"]
        assert sum(values) == pytest.approx(1) and values == sorted(values, reverse=True)
    text = run("classify", images[0], "--labels", "airport,forest", "--model", model_folder)[1]
    assert text.splitlines()[0].split() == ["image", "label", "probability"] and len(text.splitlines()) == 3


def test_classify_goes_on_after_a_file_that_cannot_be_read(run, archive, model_folder):
    images = [archive / "0.png", archive / "broken.jpg", archive / "1.png"]
    arguments = ("--labels", "airport,forest", "--model", model_folder)
    code, out, err = run("classify", *images, *arguments, "--json")
    good, other, bad = json.loads(out)
    assert code == 1 and [Path(one["image"]).name for one in (good, other, bad)] == ["0.png", "1.png", "broken.jpg"]
    assert (
        set(good) == {"image", "probabilities"}
        and "is not a readable image" in bad["error"]
        and "broken.jpg is not a readable image" in err
    )
    assert run("classify", archive / "broken.jpg", *arguments)[0] == 2


def test_classify_agrees_with_the_model(run, archive, model_folder, tiny_model, tiny_processor):
    labels = ["airport", "forest", "harbor"]
    image = Image.open(archive / "0.png").convert("RGB")
    inputs = tiny_processor(
        images=[image], text=[f"an aerial image of {label}" for label in labels], return_tensors="pt"
    )
    expected = tiny_model(**inputs).logits_per_image.softmax(dim=-1)[0].tolist()
    _, out, _ = run("classify", archive / "0.png", "--labels", ",".join(labels), "--model", model_folder, "--json")
    probabilities = json.loads(out)[0]["probabilities"]
    np.testing.assert_allclose([probabilities[label] for label in labels], expected, atol=1e-5)


def test_embed_writes_a_file_per_shard_once(run, tiny_parquet_dataset, model_folder, tmp_path):
    options = (tiny_parquet_dataset, "--output", tmp_path / "out", "--model", model_folder)
    assert "12 rows embedded, 3 shards, of which 0 existed already" in run("embed", *options)[1]
    assert "0 rows embedded, 3 shards, of which 3 existed already" in run("embed", *options)[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


def test_localize_lists_places_and_writes_a_map(run, model_folder, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("matplotlib")
    values = np.random.default_rng(0).integers(1, 255, (3, 64, 96), dtype=np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6)}
    shape = {"driver": "GTiff", "count": 3, "height": 64, "width": 96, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scene.tif", "w", **shape, **place) as file:
        file.write(values)
    options = ("--model", model_folder, "--output", tmp_path / "maps", "--chip-size", 32, "--places", 2)
    code, out, _ = run("localize", tmp_path / "scene.tif", "a forest", *options)
    assert code == 0 and "15 chips compared; written: " in out and out.startswith("rank  similarity  window")
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"scene.heat.png", "scene.heat.tif"}


@pytest.fixture
def served(monkeypatch):
    """What was handed to the server, which does not start."""
    found = []
    monkeypatch.setattr(
        "modeling_pir.serve.launch.launch",
        lambda index, taken, *rest: found.append((len(index), index.path, index.encoder, taken.getsockname(), *rest)),
    )
    return found


def test_serve_hands_index_model_and_port_to_the_server(run, indexed, served, monkeypatch):
    used = []
    monkeypatch.setattr(PIRIndex, "use_text_encoder", lambda index: used.append(index.encoder is not None))
    assert run("serve", "--index", indexed, "--port", 0, "--token", "secret", "--show-paths")[0] == 0
    (num_rows, path, model, (host, port), access, show_paths), *_ = served
    assert (num_rows, path, host, access.token, show_paths) == (4, str(indexed), "127.0.0.1", "secret", True)
    assert model is not None and port > 0 and used == [True]


def test_serve_is_told_where_the_archive_is_now(run, indexed, archive, monkeypatch):
    found = []
    monkeypatch.setattr(
        "modeling_pir.serve.launch.launch",
        lambda index, *_: found.extend(row["path"] for rows, _ in index.store.rows() for row in rows),
    )
    archive.rename(archive.with_name("there"))
    assert run("serve", "--index", indexed, "--port", 0, "--root", archive.with_name("there"))[0] == 0
    assert found and all(Path(path).is_relative_to(archive.with_name("there")) for path in found)


def test_demo_indexes_a_folder_with_the_model_of_the_checkout(run, archive, model_folder, monkeypatch, served):
    monkeypatch.setattr("modeling_pir.cli.options.SHIPPED_MODEL", Path(model_folder))
    code, out, errors = run("demo", archive, "--port", 0)
    assert code == 0 and "No --model given: using" in errors
    assert "4 rows" in out and "broken.jpg is not a readable image" in out
    (num_rows, path, *_, name), *_ = served
    assert num_rows == 4 and name == "archive" and not Path(path).exists()


def test_port_that_is_taken_is_said_before_the_model_is_loaded(run, indexed, archive, monkeypatch):
    monkeypatch.setattr("modeling_pir.cli.serve.load_model", None)  # a call would fail
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for command in (("serve", "--index", indexed), ("demo", archive)):
            code, _, errors = run(*command, "--port", port)
            assert code == 2 and f"127.0.0.1 port {port} cannot be used (Address already in use)" in errors
    code, _, errors = run("serve", "--index", indexed, "--port", 99_999)
    assert code == 2 and "name another one with --port" in errors


def test_reader_that_has_seen_enough_ends_a_command_without_a_word(indexed):
    reading, writing = os.pipe()
    os.close(reading)
    script = "import sys; from modeling_pir.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "export-rows", "rows.geojson", "--index", str(indexed)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=indexed.parent, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_missing_web_server_names_the_extra(run, indexed, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, errors = run("serve", "--index", indexed)
    assert code == 2 and "pip install 'modeling-pir[serve]'" in errors


def test_without_a_model_and_a_checkout_it_says_which_option_is_missing(run, archive, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pir.cli.options.SHIPPED_MODEL", tmp_path / "nothing")
    code, _, errors = run("demo", archive, "--port", 0)
    assert code == 2 and "No model is named: add --model" in errors


def test_convert_hands_over_its_options(run, monkeypatch):
    seen = []
    converter = "modeling_pir.convert.convert_pir_checkpoint_to_hf.convert"
    monkeypatch.setattr(converter, lambda *arguments: seen.extend(arguments) or ["done"])
    monkeypatch.setattr("modeling_pir.convert.open_clip.holds_open_clip", lambda path: False)
    code, out, _ = run("convert", "model.pth", "folder", "--verify", "--heads", "4", "--tokenizer", "words")
    assert code == 0 and out.startswith("done\nfolder loads with")
    assert seen == ["model.pth", "folder", "words", Flags(heads=4), True]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(run, capsys, command):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    example = capsys.readouterr().out.split("example:\n")[1].strip()
    assert stop.value.code == 0 and example.startswith(f"pir {command} ")
    assert build_parser().parse_args(shlex.split(example)[1:]).command == command


def test_examples_of_the_help_run_as_they_are_printed(
    tmp_path, monkeypatch, capsys, archive, model_folder, tiny_parquet_dataset, served
):
    """All but `convert` and `export`, which take minutes and have tests of their own."""
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.chdir(tmp_path)
    (archive / "broken.jpg").unlink()
    shutil.copytree(archive, "images")
    shutil.copy("images/0.png", "photo.jpg")
    shutil.copytree(tiny_parquet_dataset, "parquet")
    shutil.copytree(model_folder, "org/pir-rsicd")
    monkeypatch.setattr("modeling_pir.cli.options.SHIPPED_MODEL", tmp_path / "model")
    # The port that is printed may be taken, by a page that somebody has open.
    monkeypatch.setattr("modeling_pir.serve.launch.take_port", lambda host, port: take_port(host, 0))
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6)}
    with rasterio.open("scene.tif", "w", "GTiff", 300, 240, 3, dtype="uint8", **place) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (3, 240, 300), dtype=np.uint8))
    for command in (
        "index",
        "search",
        "check",
        "export-rows",
        "embed",
        "localize",
        "classify",
        "serve",
        "demo",
        "delete",
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        example = capsys.readouterr().out.split("example:\n")[1].strip()
        assert main(shlex.split(example)[1:]) == 0, (example, capsys.readouterr())
    written = {path.name for path in tmp_path.iterdir()}
    assert {"archive.lance", "found.png", "found.geojson", "all.parquet", "embeddings", "maps"} <= written
    assert len(served) == 2


@pytest.mark.slow
def test_second_run_on_the_official_images_takes_seconds(tmp_path, model_folder):
    """A process as a user starts it, with 10,921 images that are there already."""
    archive = tmp_path / "many"
    archive.mkdir()
    generator = np.random.default_rng(0)
    for number in range(10_921):
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(archive / f"{number}.png")
    command = [sys.executable, "-c", "import sys; from modeling_pir.cli.main import main; sys.exit(main())", "index"]
    command += [str(archive), "--index", str(tmp_path / "index"), "--model", str(model_folder), "--json"]
    subprocess.run(command, check=True, capture_output=True)
    started, cpu_started = time.monotonic(), os.times()
    result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    used = os.times()
    cpu = used.children_user + used.children_system - cpu_started.children_user - cpu_started.children_system
    print(f"second run: {time.monotonic() - started:.1f} s, {cpu:.1f} s of processor time")
    assert (result["added"], result["unchanged"]) == (0, 10_921)
    assert cpu < 5
