"""Questions of several parts to an index, on both stores."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pir import PIRIndex, Query
from modeling_pir.inference.encoder import Encoder

pytest.importorskip("lancedb")
WORDS = ("red", "green", "blue", "grey")
COLORS = {"red": (9, 1, 1), "green": (1, 9, 1), "blue": (1, 1, 9), "grey": (5, 5, 5)}


class ColorEncoder(Encoder):
    """An image's embedding is its mean colour, a sentence's the sum of the colours that it names."""

    family = "test"

    def __init__(self, logit_scale=None):
        model = torch.nn.Linear(1, 1)
        model.device = torch.device("cpu")
        if logit_scale is not None:
            model.logit_scale = torch.nn.Parameter(torch.tensor(logit_scale))
        super().__init__(model, None, "colors")

    def encode_images(self, images):
        return torch.tensor(np.array([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images]))

    def encode_texts(self, texts):
        named = [[COLORS[word] for word in text.split() if word in COLORS] or [(1, 1, 1)] for text in texts]
        return torch.tensor([np.sum(colors, axis=0).tolist() for colors in named], dtype=torch.float32)


def square(west, south, side=1):
    ring = [[west, south], [west + side, south], [west + side, south + side], [west, south + side], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.fixture(params=["lance", "exact"])
def index(request, tmp_path):
    """One image of each colour in a row from west to east, and a second red one over the first, of another year."""
    index = PIRIndex.create(tmp_path / "index", ColorEncoder(), engine=request.param)
    images = []
    for number, word in enumerate((*WORDS, "red")):
        west = 10.0 * (number % len(WORDS))
        year = 2010 + 10 * (number // len(WORDS))
        color = tuple(20 * value for value in COLORS[word])
        place = {"footprint": square(west, 50), "bounds": (west, 50, west + 1, 51)}
        images.append((Image.new("RGB", (8, 8), color), {"path": f"/{year}/{word}.png", "date": str(year), **place}))
    index.add(images)
    return index


def found(index, query, **options):
    return [hit.path for hit in index.search(query, **options)]


def test_sentences_are_taken_together_or_each(index):
    assert found(index, Query(["red", "green"], combine="each"), k=3)[:3] != found(index, Query(["red", "green"]), k=3)
    assert set(found(index, Query(["green", "blue"], combine="each"), k=2)) == {"/2010/green.png", "/2010/blue.png"}
    assert len(found(index, Query(["red", "green"], combine="each"), k=9)) == 5  # each row once


def test_hits_of_several_sentences_are_ordered_by_relevance(index):
    relevance = [hit.relevance for hit in index.search(Query(["grey", "red", "blue"], combine="each"), k=9)]
    assert relevance == sorted(relevance, reverse=True)


def test_what_is_not_to_be_seen_goes_to_the_end(index):
    assert found(index, "red blue", k=9)[-1] == "/2010/green.png"
    assert found(index, Query("red blue", without="blue"), k=9)[-1] == "/2010/blue.png"


def test_a_sentence_and_an_image_are_weighed(index):
    blue = Image.new("RGB", (4, 4), "blue")
    first = [found(index, Query("green", images=[blue], image_weight=weight), k=1)[0] for weight in (0.1, 0.9)]
    assert first == ["/2010/green.png", "/2010/blue.png"]


def test_a_row_as_query_is_left_out_itself(index):
    (first, *_) = index.search("green")
    for name in (first.id, first.id[:8], first.path):
        assert first.path not in found(index, Query(like=name), k=9)
        assert len(found(index, Query(like=name), k=9)) == 4


def test_marks_change_the_order(index):
    before = found(index, "grey", k=9)
    after = found(index, Query("grey", like="/2010/red.png", unlike="/2010/blue.png"), k=9)
    assert before[0] == "/2010/grey.png" and after[0] == "/2020/red.png" and "/2010/blue.png" not in after


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"like": "/no.png"}, "has no row '/no.png'"),
        ({"like": "0000"}, "has no row '0000'"),
        ({"like": "/2010/red.png", "unlike": "//2010/red.png"}, "has no row|as both relevant and wrong"),
    ],
)
def test_a_mark_of_no_row_is_refused(index, parts, message):
    with pytest.raises(ValueError, match=message):
        index.search(Query("red", **parts))


def test_the_same_row_under_two_names_is_not_right_and_wrong(index):
    (first, *_) = index.search("green")
    with pytest.raises(ValueError, match="as both relevant and wrong"):
        index.search(Query(like=first.id, unlike=first.path))


def test_only_rows_in_the_polygons_and_outside_of_the_patterns_are_found(index, tmp_path):
    file = tmp_path / "area.geojson"
    triangle = {"type": "Polygon", "coordinates": [[[-1, 49], [25, 49], [-1, 53], [-1, 49]]]}
    file.write_text(json.dumps(triangle))  # its box reaches over the blue one, its side runs below
    assert set(found(index, Query("grey", area=str(file)), k=9)) == {
        f"/{name}.png" for name in ("2010/red", "2010/green", "2020/red")
    }
    assert set(found(index, Query("grey", area=triangle, exclude="/2010/*"), k=9)) == {"/2020/red.png"}
    assert found(index, Query("grey", area=triangle), k=9, where="date = '2020'") == ["/2020/red.png"]
    assert found(index, Query("grey", exclude=["red.png", "2010/g*"]), k=9) == ["/2010/blue.png"]


def test_filters_are_filled_up_beyond_the_first_candidates(index, monkeypatch):
    monkeypatch.setattr("modeling_pir.index.questions.answer.CANDIDATES", 1)
    monkeypatch.setattr("modeling_pir.index.questions.answer.CANDIDATES_PER_HIT", 1)
    assert found(index, Query("red", exclude="*red*"), k=3) != []
    assert len(found(index, Query("red", exclude="*red*"), k=3)) == 3


def test_dates_of_one_place_are_one_hit_that_counts_the_others(index):
    hits = index.search(Query("red", group="place"), k=9)
    assert [(hit.path, hit.others) for hit in hits][:1] == [("/2010/red.png", 1)] or hits[0].path == "/2020/red.png"
    assert len(hits) == 4 and sum(hit.others for hit in hits) == 1


def test_relevance_falls_with_the_rank(index):
    relevance = [hit.relevance for hit in index.search("red", k=9)]
    assert relevance == sorted(relevance, reverse=True) and relevance[0] > 0 > relevance[-1]


def test_hubness_is_stored_and_lowers_what_every_sentence_finds(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pir.index.questions.bank._embedded", {})
    monkeypatch.setattr("modeling_pir.index.questions.bank.bank_sentences", lambda: ("grey", "grey red", "grey blue"))
    index = PIRIndex.create(tmp_path / "index", ColorEncoder(logit_scale=3.0), engine="exact")
    images = [(Image.new("RGB", (4, 4), tuple(20 * part for part in COLORS[word])), {"path": word}) for word in WORDS]
    index.add(images)
    rows = {row["path"]: row["hubness"] for part, _ in index.store.rows() for row in part}
    assert rows["grey"] == max(rows.values())
    assert found(index, torch.tensor([75.0, 35, 35]))[:2] == ["grey", "red"]
    assert found(index, 5 * "red " + 6 * "grey ")[:2] == ["red", "grey"]  # the same vector, by words
