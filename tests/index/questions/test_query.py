"""What can be asked at all, and what parts of a question become."""

import numpy as np
import pytest

from modeling_pir.index.questions.query import Query
from modeling_pir.index.questions.vectors import combine, learn_from_marks, leave_out, unit

X, Y, Z = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "The query is empty"),
        ({"sentences": ["a river", " "]}, "The query is empty"),
        ({"without": "planes"}, "The query is empty"),
        ({"unlike": ["a1"]}, "The query is empty"),
        ({"like": ["a1", "b2"], "unlike": ["b2"]}, "b2 is given as both relevant and wrong"),
        ({"sentences": "a", "image_weight": 1.5}, "image_weight is 1.5"),
        ({"sentences": "a", "combine": "any"}, "combine is 'any'"),
        ({"sentences": "a", "group": "date"}, "group is 'date'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Query(**parts)


def test_one_sentence_is_a_list_of_one():
    assert Query("planes", without="a terminal").sentences == ("planes",)
    assert Query(["planes"]) == Query("planes")


def test_sentences_alone_are_a_question_by_words():
    assert Query("planes", without="cars").is_by_words
    assert not Query("planes", like=["a1"]).is_by_words


def test_sentence_and_image_share_by_weight_however_many_there_are():
    expected = unit(0.25 * X + 0.75 * Y)
    np.testing.assert_allclose(combine(X[None], np.stack([Y, Y, Y]), 0.75), expected, rtol=1e-6)
    np.testing.assert_allclose(combine(np.empty((0, 3)), Y[None], 0.75), Y)
    np.testing.assert_allclose(combine(X[None], np.empty((0, 3)), 0.75), X)


def test_what_is_left_out_loses_similarity():
    query = unit(X + Y)
    turned = leave_out(query, Y[None])
    assert turned @ Y < query @ Y and turned @ X > query @ X
    assert leave_out(query, np.empty((0, 3))) is query


def test_marks_move_a_query_towards_right_rows_and_away_from_wrong_ones():
    query = unit(X + Y + Z)
    moved = learn_from_marks(query, Y[None], Z[None])
    assert moved @ Y > query @ Y and moved @ Z < query @ Z
    assert learn_from_marks(query, np.empty((0, 3)), Z[None]) @ Z < 0
    np.testing.assert_allclose(learn_from_marks(None, np.stack([X, X]), np.empty((0, 3))), X)


def test_parts_that_cancel_out_are_refused():
    with pytest.raises(ValueError, match="cancel out"):
        combine(np.stack([X, -X]), np.empty((0, 3)), 0.5)
