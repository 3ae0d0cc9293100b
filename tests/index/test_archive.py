"""An archive that changes: labels come later, files move, disks are not there, scenes are to be cut otherwise."""

import json
import logging
import os
import re

import numpy as np
import pytest
from PIL import Image

from modeling_pir.cli.main import main
from modeling_pir.index.archive.dates import iso_date
from modeling_pir.index.archive.labels import read_labels
from modeling_pir.index.embed_files import ChipOptions
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.encoder import PIREncoder

pytest.importorskip("lancedb")


@pytest.fixture
def archive(tmp_path, tiny_images):
    """A folder with two images, and a folder below with two more."""
    folder = tmp_path / "archive"
    (folder / "disk").mkdir(parents=True)
    for name, image in zip(("a", "b", "disk/c", "disk/d"), tiny_images, strict=True):
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture
def no_embedding(monkeypatch):
    """From its call on, whatever is embedded is an error."""
    return lambda: monkeypatch.setattr(PIREncoder, "embed_images", None)


def labels_file(folder, *entries):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def rows_of(index):
    return {row["path"]: row for rows, _ in PIRIndex.open(index.path).store.rows() for row in rows}


def test_labels_that_come_change_or_go_later_are_taken_over_without_embedding(index, archive, no_embedding):
    index.add(archive)
    no_embedding()
    labels_file(
        archive, {"file_name": "a.png", "scene": "harbor", "date": "4711"}, {"file_name": "disk/c.png", "cloud": 3}
    )
    assert index.add(archive).relabelled == 2
    assert [hit.path for hit in index.search(np.ones(16), where="scene = 'harbor'")] == [str(archive / "a.png")]
    (hit,) = index.search(np.ones(16), where="cloud < 4")
    assert hit.path == str(archive / "disk" / "c.png") and hit.labels == {"cloud": 3.0}
    report = index.add(archive / "disk")  # the file of labels lies above it
    assert (report.relabelled, report.unchanged) == (0, 2)
    labels_file(archive, {"file_name": "a.png", "sensor": "NAIP"})
    assert index.add(archive).relabelled == 2
    row = rows_of(index)[str(archive / "a.png")]
    assert (row["scene"], row["date"], row["sensor"]) == (None, None, "NAIP")
    assert index.add(archive).unchanged == 4


def test_value_that_does_not_fit_its_column_is_reported(index, archive):
    labels_file(archive, {"file_name": "a.png", "cloud": 3}, {"file_name": "b.png", "cloud": "many"})
    ((path, sentence),) = index.add(archive).errors
    assert path == str(archive / "b.png") and "cloud of" in sentence and "is 'many', but a number elsewhere" in sentence
    assert len(index) == 4


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"file_name": "a.png", "scene": "h\xc3\xa4fen"}\r\n',
        '{"file_name": "a.png", "scene": "häfen", "captions": ["one\u2028two"]}\n'.encode(),
        '{"file_name": "a.png", "scene": "häfen"}'.encode("cp1252"),
        '{"file_name": "a.png", "scene": "häfen"}'.encode("utf-16"),
        '{"file_name": "a.png", "scene": "häfen", "x": "\x85\x1c"}\n\n'.replace("\x1c", "\\u001c").encode(),
    ],
)
def test_label_files_as_editors_and_datasets_write_them(tmp_path, content, caplog):
    (tmp_path / "metadata.jsonl").write_bytes(content)
    labels, errors = read_labels(tmp_path / "metadata.jsonl")
    assert not errors and labels[str(tmp_path / "a.png")]["scene"] == "häfen"
    assert ("is not UTF-8" in caplog.text) == (b'h\xe4fen"' in content) or caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "scene": "7"}\r{"file_name": "b/é.png", "clouds": 0.5}\r'),
        ("metadata.jsonl", '{"file_name": "a.png", "scene": 7.0}\n{"file_name": "b\\\\e\u0301.png", "clouds": 0.5}\n'),
        ("metadata.csv", "file_name,scene,clouds\n./a.png,7,\nb/é.png,,0.5\n"),
        ("metadata.csv", 'clouds;file_name;scene\r\n;"a.png";7\r\n0.5;b\\é.png;\r\n'),
    ],
)
def test_labels_reach_their_files_however_lines_and_names_are_written(tmp_path, name, text):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/é.png").touch()
    (tmp_path / name).write_bytes(text.encode())
    labels, errors = read_labels(tmp_path / name)
    assert not errors and set(labels) == {str(tmp_path / "a.png"), str(tmp_path / "b/é.png")}
    assert (labels[str(tmp_path / "a.png")]["scene"], labels[str(tmp_path / "b/é.png")]["clouds"]) == ("7", 0.5)


def test_lines_of_one_file_add_up_and_what_is_left_out_is_listed(tmp_path):
    entries = [
        {"file_name": "a.png", "scene": "x", "caption": "one"},
        {"file_name": "a.png", "date": "2019", "caption": "two"},
        {"file_name": "a.png", "scene": "y"},
        {"scene": "z"},
        {"file_name": "b.png", "sensor": ["S2"]},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    labels, errors = read_labels(tmp_path / "metadata.jsonl")
    own = labels[str(tmp_path / "a.png")]
    assert (own["scene"], own["date"], own["caption"]) == ("x", "2019", "two")
    said = (
        "Line 3 .* scene is 'y', but 'x'",
        "Line 4 .* names no file: write",
        "Line 5 .* sensor is ..S2..: write one",
    )
    for (_, sentence), expected in zip(errors, said, strict=True):
        assert re.match(expected, sentence)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,scene\na.png,x\n", "Line 1 .* has no column file_name: name it so"),
        ("file_name,scene\na.png,x, y\n", "Line 2 .* has more cells than the head: put"),
    ],
)
def test_a_table_of_labels_that_cannot_be_read_is_listed(tmp_path, text, message):
    (tmp_path / "metadata.csv").write_text(text)
    ((_, sentence),) = read_labels(tmp_path / "metadata.csv")[1]
    assert re.match(message, sentence)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("20190904", "2019-09-04"),
        ("2019/9/4", "2019-09-04"),
        ("2019:09:04 10:20:00", "2019-09-04T10:20:00"),
        ("2019-09-04T10:20:00+02:00", "2019-09-04T08:20:00Z"),
        ("20190904T102000Z", "2019-09-04T10:20:00Z"),
        ("2019-09", "2019-09"),
        (" 2019 ", "2019"),
        ("04/09/2019", None),
        ("2019-13-01", None),
        ("Sep 4, 2019", None),
        ("soon", None),
        ("", None),
    ],
)
def test_dates_are_iso_or_refused(text, iso):
    if iso is None:
        with pytest.raises(ValueError, match="is not a date: write it as 2019-09-04"):
            iso_date(text)
    else:
        assert iso_date(text) == iso


def test_date_that_is_none_is_reported_with_its_line(index, archive):
    labels_file(archive, {"file_name": "b.png"}, {"file_name": "a.png", "scene": "harbor", "date": "04/09/2019"})
    ((path, sentence),) = index.add(archive).errors
    assert path.endswith("metadata.jsonl") and "Line 2" in sentence and "'04/09/2019' is not a date" in sentence
    assert rows_of(index)[str(archive / "a.png")]["scene"] == "harbor"


def test_moved_archive_is_the_same_archive(index, archive, no_embedding):
    index.add(archive)
    ids = {row["id"] for row in rows_of(index).values()}
    moved = archive.rename(archive.with_name("elsewhere"))
    no_embedding()
    assert all(hit.is_missing for hit in index.search(np.ones(16)))
    report = index.add(moved)
    assert (report.added, report.unchanged, len(index)) == (0, 4, 4)
    hits = index.search(np.ones(16))
    assert {hit.path for hit in hits} == {str(path) for path in moved.rglob("*.png")}
    assert {hit.id for hit in hits} == ids and not any(hit.is_missing for hit in hits)
    again = moved.rename(moved.with_name("once more"))
    assert (index.add(again / "disk").unchanged, len(index)) == (2, 4)  # a part of it tells where all of it is


def test_files_that_move_within_are_recognised(index, archive, no_embedding):
    index.add(archive)
    (archive / "new").mkdir()
    (archive / "a.png").rename(archive / "new" / "renamed.png")
    (archive / "disk" / "c.png").rename(archive / "c.png")
    (archive / "copy.png").write_bytes((archive / "b.png").read_bytes())  # b is still there
    os.remove(archive / "copy.png")
    no_embedding()
    report = index.update(archive)
    assert (report.moved, report.added, report.deleted, len(index)) == (2, 0, 0, 4)
    assert index.update(archive).unchanged == 4


def test_index_is_handed_over_with_a_root(index, archive, tmp_path):
    index.add(archive)
    archive.rename(tmp_path / "theirs")
    given = PIRIndex.open(index.path, root=tmp_path / "theirs")
    assert {hit.path for hit in given.search(np.ones(16))} == {
        str(path) for path in (tmp_path / "theirs").rglob("*.png")
    }
    assert given.export(tmp_path / "all.geojson") == 4


@pytest.mark.parametrize("what", ["empty folder", "no folder", "no source", "dead link"])
def test_rows_of_a_disk_that_is_not_mounted_are_kept(index, archive, tmp_path, what):
    if what == "dead link":
        (archive / "disk").rename(tmp_path / "disk")
        (archive / "disk").symlink_to(tmp_path / "disk")
    index.add(archive)
    if what == "dead link":
        (tmp_path / "disk").rename(tmp_path / "away")
    for path in archive.rglob("*.png") if what == "no source" else (archive / "disk").glob("*.png"):
        path.unlink()
    if what in ("no folder", "no source"):
        (archive / "disk").rmdir()
    if what != "no source":
        (archive / "b.png").unlink()
    report = index.update(archive)
    assert len(index) == (4 if what == "no source" else 3)
    assert any("--force deletes their rows" in sentence for _, sentence in report.errors)
    index.update(archive, force=True)
    assert len(index) == {"no source": 0}.get(what, 1)


def test_other_options_of_chips_cut_anew_and_are_remembered(index, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    values = np.random.default_rng(0).integers(1, 255, (3, 64, 96), dtype=np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6)}
    for name in ("one", "two"):
        with rasterio.open(scenes / f"{name}.tif", "w", "GTiff", 96, 64, 3, dtype="uint8", **place) as file:
            file.write(values if name == "one" else values[:, ::-1])
    assert index.add(scenes, chips=ChipOptions(chip_size=64, overlap=0)).added == 4
    assert index.add(scenes).unchanged == 2
    assert index.add(scenes, chips=ChipOptions(chip_size=32, overlap=0, bands=(3, 2, 1))).added == len(index) == 12
    assert index.add(scenes).unchanged == 2
    (scenes / "two.tif").rename(scenes / "2.tif")  # its name may tell its date: embedded again, as before
    assert index.update(scenes).added == 6 and len(index) == 12
    assert {hit.bands for hit in index.search(np.ones(16), k=99)} == {(3, 2, 1)}


def test_commands_of_a_changed_archive(archive, tmp_path, tiny_model, tiny_processor, capsys):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    command = ["index", str(archive), "--index", str(tmp_path / "index"), "--json"]
    assert main([*command, "--model", str(tmp_path / "model")]) == 0
    for path in (archive / "disk").glob("*.png"):
        path.unlink()
    assert main([*command, "--delete-missing"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["deleted"] == 0 and "is empty, as where a disk is not mounted" in result["errors"][0][1]
    assert main([*command, "--delete-missing", "--force"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["deleted"], result["rows"]) == (2, 2)
    Image.new("RGB", (9, 9)).save(archive / "new.png")
    assert main(["index", str(archive), "--index", str(tmp_path / "index"), "--root", str(tmp_path)]) == 0
