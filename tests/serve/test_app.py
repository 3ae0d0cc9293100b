"""The HTTP API: what it answers, and what it refuses."""

import contextlib
import csv
import io
import json
import re
import socket
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from modeling_pir import load_encoder
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.serve import access
from modeling_pir.serve.access import Access
from modeling_pir.serve.app import STATIC, build_app
from modeling_pir.serve.archive import Archive
from modeling_pir.serve.launch import launch, take_port
from tests.support.tiny_encoders import KINDS, save_encoder

LOCAL = "http://127.0.0.1:7860"


def client_of(index, allowed=Access(), **options):  # noqa: B008
    app = build_app(Archive(index, **options), allowed)
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)


@pytest.fixture
def client(index):
    return client_of(index)


def ids(answer):
    return [hit["id"] for hit in answer.json()["hits"]]


def png(width, height):
    """A PNG file of one colour that is small, however many pixels it has."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_archive_says_what_it_holds(client, folder):
    found = client.get("/api/archive").json()
    assert (found["images"], found["files"], found["placed"]) == (4, 4, 3)
    assert found["scenes"] == [{"name": "airport", "count": 2}, {"name": "o'hare", "count": 2}]
    assert found["sensors"] == [{"name": "NAIP", "count": 3}] and found["dates"] == ["2010-05-01", "2013-05-04"]
    assert sorted(count for *_, count in found["places"]) == [1, 1, 1]
    assert [180.0, -17.5] in [[abs(x), y] for x, y, _ in found["places"]]  # in the middle across the antimeridian
    assert len({hit["id"] for hit in found["sample"]}) == 4 and found["examples"]
    assert found["name"] == "inner"


def test_search_answers_as_the_index_does(client, index):
    expected = [hit.id for hit in index.search("a green square", k=3)]
    assert ids(client.post("/api/search", json={"text": "a green square", "k": 3})) == expected
    assert ids(client.get("/api/search", params={"text": "a green square", "k": 3})) == expected


def test_sentence_is_embedded_once_for_the_search_and_its_doubts(index, monkeypatch):
    client = client_of(index)
    asked, embed = [], index.encoder.embed_texts
    monkeypatch.setattr(index.encoder, "embed_texts", lambda texts: asked.append(texts) or embed(texts))
    monkeypatch.setattr("modeling_pir.index.pir_index.MIN_ROWS_OF_CHANCE", 1)
    client.post("/api/search", json={"text": "a green square"})
    assert asked == [["a green square"]]


def test_exported_text_side_embeds_sentences_where_it_is_used(index, monkeypatch):
    vectors = np.eye(16, dtype=np.float32)
    index.text_encoder = SimpleNamespace(embed_texts=lambda texts: vectors[: len(texts)])
    monkeypatch.setattr(index.encoder, "embed_texts", None)  # a call would fail
    expected = [hit.id for hit in index.search(vectors[0], k=4)]
    assert ids(client_of(index).post("/api/search", json={"text": "a", "k": 4})) == expected


def test_filters_leave_what_they_name(client):
    def paths(**fields):
        answer = client.post("/api/search", json={"text": "a", **fields}).json()
        assert answer["total"] == len(answer["hits"])
        return {hit["path"] for hit in answer["hits"]}

    every = paths()
    assert len(every) == 4 and paths(scene=["airport", "o'hare"]) == every and len(paths(scene=["o'hare"])) == 2
    assert len(paths(after="2011", before="2012")) == 2 and len(paths(sensor=["NAIP"])) == 3
    assert len(paths(box="179,-20,-179,0")) == 1 and paths(scene=["x' OR 'a'='a"]) == set()


def test_columns_that_labels_brought_can_be_filtered(tmp_path, tiny_images, tiny_model, tiny_processor):
    folder = tmp_path / "labelled"
    folder.mkdir()
    lines = []
    for number, country in enumerate(["Fiji", "Chad", "Fiji"]):
        tiny_images[number].save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "country": country, "clouds": 0.5}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    index = PIRIndex.create(tmp_path / "labelled.index", tiny_model, tiny_processor, engine="exact")
    index.add(folder)
    client = client_of(index)
    assert client.get("/api/archive").json()["others"] == {
        "country": [{"name": "Fiji", "count": 2}, {"name": "Chad", "count": 1}]
    }
    found = client.get("/api/search", params={"text": "a", "only": ["country=Fiji"]}).json()
    assert found["total"] == 2 and {hit["path"] for hit in found["hits"]} == {"0.png", "2.png"}
    assert all(hit["labels"] == {"country": "Fiji", "clouds": 0.5} for hit in found["hits"])
    for wrong in ("clouds=0.5", "continent=Asia", "country", "1=1"):
        answer = client.post("/api/search", json={"text": "a", "only": [wrong]})
        assert answer.status_code == 400 and "is not COLUMN=VALUE with a column of text" in answer.json()["error"]


def test_an_archive_that_moved_is_shown_from_where_it_is_now(tmp_path, tiny_images, tiny_model, tiny_processor):
    folder = tmp_path / "here"
    folder.mkdir()
    tiny_images[0].save(folder / "0.png")
    PIRIndex.create(tmp_path / "moved.index", tiny_model, tiny_processor, engine="exact").add(folder)
    folder.rename(tmp_path / "there")
    for root, status in ((None, 400), (tmp_path / "there", 200)):
        client = client_of(PIRIndex.open(tmp_path / "moved.index", tiny_model, tiny_processor, root=root))
        (row,) = ids(client.post("/api/search", json={"text": "a"}))
        assert client.get(f"/api/rows/{row}/small.jpg").status_code == status


def test_like_finds_what_is_near_a_row_and_leaves_the_row_out(client, index):
    first = index.search("a green square", k=1)[0].id
    vectors = {row["id"]: vector for rows, found in index.store.rows() for row, vector in zip(rows, found, strict=True)}
    others = sorted(set(vectors) - {first}, key=lambda row: -float(vectors[row] @ vectors[first]))
    assert ids(client.post("/api/search", json={"like": [first]})) == others
    assert first not in ids(client.post("/api/search", json={"text": "a green square", "unlike": [first]}))


def test_picture_is_searched_with_and_kept_in_memory(client, tiny_images, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    buffer = io.BytesIO()
    tiny_images[2].save(buffer, "PNG")
    name = client.post("/api/pictures", content=buffer.getvalue()).json()["picture"]
    best = client.post("/api/search", json={"picture": name}).json()["hits"][0]
    assert best["similarity"] == pytest.approx(1, abs=1e-3)
    assert client.get(f"/api/pictures/{name}").headers["content-type"] == "image/jpeg"
    assert not list((tmp_path / "temporary").iterdir())


def test_hits_are_the_same_in_every_format(client):
    pq = pytest.importorskip("pyarrow.parquet")
    question = {"text": "a green square", "k": 3}
    hits = client.post("/api/search", json=question).json()["hits"]

    def saved(name):
        answer = client.post(f"/api/search?format={name}", json=question)
        assert answer.headers["content-disposition"] == f'attachment; filename="hits.{name}"'
        return answer.content

    features = [feature["properties"] for feature in json.loads(saved("geojson"))["features"]]
    rows = list(csv.DictReader(io.StringIO(saved("csv").decode())))
    table = pq.read_table(io.BytesIO(saved("parquet"))).to_pylist()
    for name in ("id", "path", "date", "scene"):
        expected = [hit[name] for hit in hits]
        for found in (features, rows, table):
            assert [row[name] for row in found] == expected
    assert [float(row["similarity"]) for row in rows] == pytest.approx([hit["similarity"] for hit in hits], abs=1e-4)


def test_pictures_of_rows(client, index, tiny_images):
    hit = index.search("a", k=1)[0]
    small = Image.open(io.BytesIO(client.get(f"/api/rows/{hit.id}/small.jpg").content))
    assert small.size == Image.open(hit.path).size
    download = client.get(f"/api/rows/{hit.id}/image.png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(download.content))), np.asarray(Image.open(hit.path)))
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[A-Za-z0-9%._-]+\.png", download.headers["content-disposition"])
    Path(hit.path).unlink()
    answer = client_of(index).get(f"/api/rows/{hit.id}/small.jpg")
    assert answer.status_code == 400 and "No such file" in answer.json()["error"]


def test_belief_says_which_patches_count(client, index):
    found = client.get(f"/api/rows/{index.search('a', k=1)[0].id}/belief").json()
    assert sum(map(sum, found["kept"])) == found["num_kept"] < found["num_patches"] == 64


@pytest.mark.parametrize("kind", KINDS)
def test_another_encoder_is_served_and_shows_why_an_image_fits(tmp_path, folder, tiny_tokenizer, kind):
    encoder = load_encoder(save_encoder(kind, tmp_path / "model", tiny_tokenizer))
    index = PIRIndex.create(tmp_path / "index", encoder, engine="exact")
    index.add(folder)
    client = client_of(index)
    assert client.get("/api/archive").json()["has_belief"] is False
    row = ids(client.get("/api/search?text=a+forest"))[0]
    found = client.get(f"/api/rows/{row}/occlusion?text=a+forest").json()
    loss, kept = np.array(found["loss"]), np.array(found["kept"])
    assert loss.shape == kept.shape == (8, 8) and 0 < kept.sum() < 64
    assert loss[kept == 1].min() > loss[kept == 0].max() and kept[np.unravel_index(loss.argmax(), (8, 8))]
    assert "There is no sentence" in client.get(f"/api/rows/{row}/occlusion?text=+").json()["error"]
    assert "no belief map" in client.get(f"/api/rows/{row}/belief").json()["error"]


def test_sentences_are_ranked_for_a_row(client, index):
    row = index.search("a", k=1)[0].id
    ranked = client.post("/api/rank", json={"row": row, "sentences": ["a green square", "the harbor"]}).json()
    assert [item["rank"] for item in ranked] == [1, 2] and ranked[0]["similarity"] >= ranked[1]["similarity"]


GONE = "0" * 32


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/api/search", {}, 400, "nothing to search for: write a sentence, or choose an image"),
        ("/api/search", {"text": "x" * 100_000}, 422, "100,000 characters, and at most 1,000 are read"),
        ("/api/search", {"text": "a", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("/api/search", {"text": "a", "where": "1"}, 422, "where: Extra inputs are not permitted"),
        ("/api/search", {"text": "a", "box": "1,2"}, 400, "'1,2' is not a box"),
        ("/api/search", {"text": "a", "after": "May"}, 400, "'May' is not a date"),
        ("/api/search", {"like": ["' OR 1"]}, 422, "is not the id of a row"),
        ("/api/search", {"like": [GONE]}, 400, "The index has no row"),
        ("/api/search", {"picture": "x"}, 400, "The picture is no longer available: choose it again"),
        ("/api/rank", {"row": GONE, "sentences": ["a"]}, 404, "not in the index any more"),
        ("/api/rank", {"sentences": ["a"]}, 400, "either a picture or a row"),
        ("/api/rank", {"row": GONE, "sentences": ["a"] * 20_000}, 422, "at most 100 items"),
    ],
)
def test_refusal_is_one_sentence(client, path, body, status, sentence):
    answer = client.post(path, json=body)
    assert answer.status_code == status and sentence in answer.json()["error"] and len(answer.json()["error"]) < 250


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a text that is called .jpg", "The picture is not a readable image"),
        (b"", "The picture is not a readable image"),
        (png(20_000, 10_000), "more than the 40,000,000 that are read here|decompression bomb"),
        (png(64, 64)[:-30], "The picture cannot be read"),
    ],
    ids=["text", "empty", "200 megapixels", "cut off"],
)
def test_picture_that_cannot_be_read_is_refused(client, content, sentence):
    answer = client.post("/api/pictures", content=content)
    assert answer.status_code == 400 and re.search(sentence, answer.json()["error"])


def test_body_that_is_too_large_is_refused_with_and_without_its_length(client, monkeypatch):
    monkeypatch.setattr(access, "MAX_PICTURE_BYTES", 1000)
    for content in (bytes(2000), iter([bytes(600), bytes(600)])):
        answer = client.post("/api/pictures", content=content)
        assert answer.status_code == 413 and "larger than 0.001 MB" in answer.json()["error"]


def test_paths_are_told_only_below_the_folder_of_the_archive(index, folder):
    def everything(**options):
        client = client_of(index, **options)
        question = {"text": "a"}
        texts = [client.get("/api/archive").text, client.post("/api/search", json=question).text]
        texts += [client.post(f"/api/search?format={name}", json=question).text for name in ("geojson", "csv")]
        return "".join(texts)

    assert str(folder.parent) not in everything()
    assert str(folder) in everything(show_paths=True)


def test_token_is_wanted_once_and_then_kept_by_the_browser(index):
    client = client_of(index, Access("secret"))
    for path in ("/", "/api/archive", "/js/main.js", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 401, path
    assert "wants its token" in client.get("/api/archive?token=wrong").json()["error"]
    assert client.get("/api/archive", headers={"authorization": "Bearer secret"}).status_code == 200
    client.cookies.clear()
    opened = client.get("/?text=a&token=secret", follow_redirects=False)
    assert opened.status_code == 303 and opened.headers["location"] == "/?text=a"
    assert "HttpOnly" in opened.headers["set-cookie"] and "SameSite=strict" in opened.headers["set-cookie"]
    assert client.get("/api/archive").status_code == 200


@pytest.mark.parametrize(
    ("host", "has_token", "others"),
    [("127.0.0.1", False, 400), ("localhost", False, 400), ("0.0.0.0", True, 401), ("10.0.0.7", True, 400)],
)
def test_only_the_loopback_interface_needs_no_token(index, host, has_token, others):
    allowed = Access.for_address(host)
    assert (allowed.token is not None) == has_token
    if has_token:
        assert len(allowed.token) >= 16 and allowed.token != Access.for_address(host).token
    answer = client_of(index, allowed).get("/api/archive", headers={"host": "elsewhere.example"})
    assert answer.status_code == others


def test_page_of_another_place_cannot_ask(client):
    answer = client.post("/api/search", json={"text": "a"}, headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 403 and "hits" not in answer.text
    assert client.post("/api/search", json={"text": "a"}, headers={"origin": LOCAL}).status_code == 200


def test_browser_is_told_to_load_nothing_from_elsewhere(client):
    for path in ("/", "/docs", "/api/archive"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy
    assert "unsafe-inline" not in client.get("/").headers["content-security-policy"]


def test_no_file_of_the_page_names_another_machine(client):
    allowed = (
        "http://www.w3.org/",
        "https://leafletjs.com",
        "https://bugs.chromium.org",
        "https://bugzilla.mozilla.org",
    )
    for path in STATIC.rglob("*.*"):
        if path.suffix in (".html", ".css", ".js", ".svg", ".json"):
            found = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[\w/.]*", path.read_text())
            assert all(address.startswith(allowed) for address in found), (path.name, found)
            assert client.get(f"/{path.relative_to(STATIC)}").status_code == 200
    page = client.get("/docs").text
    assert "https://" not in page and client.get(re.search(r'src="([^"]+)"', page)[1]).status_code == 200


def test_fault_of_the_server_is_told_without_its_inside(client, monkeypatch, caplog):
    monkeypatch.setattr(Archive, "search", lambda *_: 1 / 0)
    answer = client.post("/api/search", json={"text": "a"})
    assert answer.status_code == 500 and answer.json() == {"error": "The server failed at this; its log says why."}
    assert "ZeroDivisionError" in caplog.text


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_first_packet():
    with contextlib.closing(take_port("127.0.0.1", 0)) as taken:
        assert taken.proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY on such connections only


def test_the_address_is_printed_when_connections_are_taken(index, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    with contextlib.closing(take_port("127.0.0.1", 0)) as taken:
        connections = []
        monkeypatch.setattr(
            "builtins.print", lambda *_, **__: connections.append(socket.create_connection(taken.getsockname()))
        )
        launch(index, taken)
    assert len(connections) == 1
    connections[0].close()
