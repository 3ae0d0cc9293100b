"""Hubness, relevance, and hits of one place."""

from types import SimpleNamespace

import numpy as np
import pytest

from modeling_pir.index.questions.answer import answer
from modeling_pir.index.questions.query import Query
from modeling_pir.index.questions.ranking import (
    Sample,
    chance_level,
    corrected,
    group_by_place,
    hubness,
    prominence,
    relevance,
)
from modeling_pir.index.rows import make_row


def row(path, window=(0, 0, 10, 10), bounds=None):
    return make_row(path, window, bounds=bounds)


def test_hubness_is_the_soft_maximum_over_the_bank():
    rows, bank = np.eye(2, dtype=np.float32), np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    scale = 5.0
    slow = [np.log(np.mean([np.exp(scale * row @ sentence) for sentence in bank])) / scale for row in rows]
    np.testing.assert_allclose(hubness(rows, bank, logit_scale=2 * scale), slow, rtol=1e-5)


def test_a_hub_falls_behind_a_row_that_only_this_query_finds():
    similarity = np.array([0.50, 0.49])
    assert corrected(similarity, [0.3, 0.1]).argmax() == 1


def test_relevance_counts_standard_deviations_above_the_archive():
    sample = np.array([[0.1, 0], [0.3, 0]], dtype=np.float32)
    np.testing.assert_allclose(relevance(np.array([0.5]), sample[:, 0]), [3.0], rtol=1e-5)
    assert np.isnan(relevance(np.array([0.5]), sample[:1, 0])).all()


def test_relevance_is_that_of_the_score_that_ranks():
    pairs = [(row("hub") | {"hubness": 0.9}, 0.60), (row("own") | {"hubness": 0.1}, 0.55)]
    store = SimpleNamespace(nearest=lambda *_: pairs)
    vectors = np.array([[1.0, 0.0]], dtype=np.float32)
    sample = Sample(np.array([[0.1, 0], [0.3, 0]], dtype=np.float32), [0.0, 0.2])
    query = Query("a lake", group="none")
    for known, expected in ((sample, ["own", "hub"]), (sample._replace(hubness=[0.0, None]), ["hub", "own"])):
        found = answer(store, query, vectors, frozenset(), known, 2, None, False)
        assert [one.row["path"] for one in found] == expected
        assert found[0].relevance > found[1].relevance


def test_overlapping_chips_and_other_dates_are_one_place():
    rows = [
        row("a.tif", bounds=(0, 0, 4, 4)),
        row("a.tif", bounds=(3, 0, 7, 4)),  # shares a quarter
        row("b.tif", bounds=(0.1, 0, 4.1, 4)),  # another date
        row("a.tif", bounds=(3, 3, 7, 7)),  # shares a corner with the first, 6 %
        row("a.tif", bounds=(40, 0, 44, 4)),
    ]
    assert group_by_place(rows) == [(0, 2), (3, 0), (4, 0)]


def test_a_place_goes_on_across_the_antimeridian():
    rows = [row("a.tif", bounds=(179, 0, -179, 2)), row("b.tif", bounds=(-180, 0, -179, 2))]
    assert group_by_place(rows) == [(0, 1)]


def test_without_footprints_only_windows_of_one_file_are_one_place():
    rows = [row("a.png"), row("b.png"), row("a.png", window=(5, 0, 10, 10)), row("a.png", window=(20, 0, 10, 10))]
    assert group_by_place(rows) == [(0, 1), (1, 0), (3, 0)]


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows_are_grouped_too(count):
    assert len(group_by_place([row("a.png")][:count])) == count


def test_a_query_that_finds_less_than_any_sentence_of_the_bank_is_chance():
    sample = np.concatenate([np.eye(4), np.full((4, 4), 0.5)]).astype(np.float32)
    bank = np.eye(4, dtype=np.float32)
    everywhere, one_row = prominence(np.stack([np.full(4, 0.5, dtype=np.float32), bank[1]]), sample)
    assert everywhere < chance_level(sample, bank) <= one_row
