"""The measures of questions, on rows drawn by hand."""

from types import SimpleNamespace

import numpy as np

from training.benchmarks.search import questions
from training.benchmarks.search.questions import first, measure_both, measure_hubness, measure_marks, measure_without

X, Y, Z = np.eye(3, dtype=np.float32)


def test_marked_rows_do_not_count():
    assert first(np.array([0.9, 0.8, 0.7, 0.6]), 2, {0, 2}) == [1, 3]


def test_marks_help_a_sentence_that_finds_two_scenes():
    images = np.stack([*[X] * 30, *[Y] * 30])
    scenes = np.array([*["a"] * 30, *["b"] * 30])
    found = measure_marks(images, {"a": scenes == "a"}, {"a": (X + 1.01 * Y) / 1.42})
    assert found["before"] == 0 and found["after"] == 100 and found["questions"] == 1


def test_without_lowers_the_share_of_what_is_not_wanted():
    images = np.stack([*[(X + Y) / 2**0.5] * 30, *[(X + Z) / 2**0.5] * 30])
    has = {"x": np.ones(60, bool), "y": np.arange(60) < 30}
    found = measure_without(images, has, {"x": X, "y": Y})
    assert found["B for A"] > found["B for A without B"] and found["A for A without B"] == 100


def test_a_question_of_both_needs_the_scene_and_the_thing():
    scene = np.array(["a"] * 40 + ["b"] * 40)
    thing = np.tile([True, False], 40)
    images = np.stack([(X if name == "a" else Y) + 0.5 * Z * has for name, has in zip(scene, thing, strict=True)])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    found = measure_both(images, scene, {"z": thing}, {"z": Z})
    assert found["both"] == 100 > found["sentence"]


def test_a_hub_hides_what_is_right_until_it_is_corrected():
    similarity = np.array([[0.50, 0.52], [0.1, 0.6]])
    recalls = measure_hubness(similarity, np.array([0.1, 0.3]), np.array([0, 1]))
    plain, corrected = recalls.values()
    assert corrected > plain


def test_doubts_are_counted_on_a_list_in_view_and_on_one_held_out(monkeypatch):
    monkeypatch.setattr(questions, "doubts_about", lambda text, reading, threshold: ["doubt"] if "z" in text else [])
    monkeypatch.setattr(questions, "chance_level", lambda images, bank: -np.inf)
    monkeypatch.setattr(questions, "shattered_below", lambda bank, tokenizer: 1.0)
    found = questions.measure_doubts(SimpleNamespace(tokenizer=None), lambda texts: [X], X[None], X[None])
    assert len(found) == 6 and sum(int(text.split(" of ")[1].split(";")[0]) for text in found.values()) == 120
    held_out = found["doubtful_queries_held_out, nonsense"]
    assert held_out.startswith("2 of 15; wrong: wrtlpfm, ") and "zxcvbnm" not in held_out
