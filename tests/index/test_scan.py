"""Which files are looked at: of an archive that holds pipes, links, folders that may not be listed."""

import os

from modeling_pir.index.archive.scan import scan_files
from modeling_pir.index.stores.columns import FileState


def scan(*sources, known=None):
    return scan_files(list(map(str, sources)), known or {}, exclude="/no/index")


def test_pipes_and_devices_are_listed_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "metadata.jsonl")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nowhere")
    (tmp_path / "good.png").write_bytes(b"x")
    found = scan(tmp_path)
    assert found.new == [str(tmp_path / "good.png")]
    sentences = dict(found.unreadable)
    assert "is a pipe, a socket or a device" in sentences[str(tmp_path / "pipe.jpg")]
    assert "is a pipe, a socket or a device" in sentences[str(tmp_path / "endless.png")]
    assert "cannot be read (No such file" in sentences[str(tmp_path / "gone.tif")]


def test_linked_folder_is_looked_through_once(tmp_path):
    archive, outside = tmp_path / "archive", tmp_path / "outside"
    for folder in (archive / "b", outside):
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"x")
    (archive / "a_link").symlink_to(archive / "b")  # comes first, but the folder keeps its own name
    (archive / "c_link").symlink_to(outside)
    (outside / "loop").symlink_to(archive)
    found = scan(archive)
    assert found.new == [str(archive / "b" / "1.png"), str(archive / "c_link" / "1.png")]
    assert found.skipped == [str(archive / "a_link"), str(archive / "c_link" / "loop")]


def test_links_that_lead_out_of_the_archive_are_followed_and_named(tmp_path):
    archive, outside = tmp_path / "archive", tmp_path / "archive2"
    for folder in (archive, outside):
        folder.mkdir()
        (folder / "1.png").write_bytes(b"x")
    (archive / "inside.png").symlink_to(archive / "1.png")
    (archive / "file.png").symlink_to(outside / "1.png")
    (archive / "folder").symlink_to(outside)
    (tmp_path / "way").symlink_to(archive)
    for way in (archive, tmp_path / "way"):  # the archive itself may be named by a link
        found = scan(way)
        assert len(found.new) == 4 and found.outside == [str(way / "file.png"), str(way / "folder")]
    assert scan(archive, outside).outside == []


def test_folder_that_cannot_be_listed_is_reported_and_its_files_are_not_gone(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "1.png").write_bytes(b"x")
    (tmp_path / "shut").mkdir()
    real = os.scandir

    def scandir(path):  # what a user without rights gets; this test may run as root, who may list all
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    state = FileState(1, 1.0, "")
    found = scan(tmp_path, known={str(tmp_path / "shut" / "1.png"): state, str(tmp_path / "2.png"): state})
    assert found.new == [str(tmp_path / "open" / "1.png")] and found.gone == [str(tmp_path / "2.png")]
    ((path, sentence),) = found.unreadable
    assert path == str(tmp_path / "shut") and "shut cannot be read (Permission denied)" in sentence


def test_known_file_of_the_same_size_and_time_is_unchanged(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(b"x")
    state = FileState(1, path.stat().st_mtime, "")
    found = scan(tmp_path, known={str(path): state})
    assert found.num_unchanged == 1 and not found.new and not found.gone
