"""Queries that a tokenizer does not know, that say nothing, or that are cut."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

from modeling_pir.index.questions.bank import bank_sentences
from modeling_pir.index.questions.doubts import doubts_about, shattered_below
from modeling_pir.inference.onnx_text import Reading

ROOT = Path(__file__).parents[3]
QUERIES = json.loads((ROOT / "tests" / "reference" / "doubtful_queries.json").read_text())


def reading_of(*words):
    """Whole words and, for anything else, letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[UNK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return Reading(tokenizer, "[UNK]", 20, clean_captions=False)


@pytest.mark.parametrize("text", ["机场", "небо", "✈️", "a 机场"])
def test_what_has_no_piece_is_not_known(text):
    (doubt,) = doubts_about(text, reading_of("a", "river"))
    assert "does not know" in doubt


def test_a_word_that_falls_into_letters_is_not_known_and_one_in_a_known_sentence_is_no_matter():
    reading = reading_of("a", "river", "with", "many", "boats")
    assert "does not know asdfgh" in doubts_about("asdfgh", reading)[0]
    assert doubts_about("a river with many boats, jetty", reading) == []


@pytest.mark.parametrize("text", ["!!!???", "12345 67890", "the of and to"])
def test_a_sentence_without_a_thing_names_nothing(text):
    (doubt,) = doubts_about(text, reading_of("the", "of", "and", "to"))
    assert "names nothing" in doubt


def test_a_sentence_that_is_cut_is_said_to_be():
    (doubt,) = doubts_about("river " * 21, reading_of("river"))
    assert "longer than the model reads, 20 tokens" in doubt


def test_a_sentence_of_which_cleaning_cuts_words_is_said_to_be_cut():
    reading = replace(reading_of("river"), max_tokens=99, clean_captions=True)
    assert doubts_about("river " * 30, reading) == [] and "is cut off" in doubts_about("river " * 31, reading)[0]


def test_a_large_vocabulary_is_judged_more_strictly():
    whole = {word for sentence in bank_sentences() for word in sentence.split()}
    assert shattered_below(bank_sentences(), reading_of(*whole).tokenizer) > (
        shattered_below(bank_sentences(), reading_of().tokenizer)
    )


def test_of_the_listed_queries_the_shipped_model_doubts_the_right_ones():
    tokenizer = Tokenizer.from_file(str(ROOT / "hub_configs" / "pir-small-rsicd" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    reading = Reading(tokenizer, "[UNK]", 47, clean_captions=True)
    threshold = shattered_below(bank_sentences(), tokenizer)
    doubted = {
        kind: sum(bool(doubts_about(query, reading, threshold)) for query in queries)
        for kind, queries in QUERIES.items()
    }
    assert {kind: len(queries) for kind, queries in QUERIES.items()} == dict.fromkeys(QUERIES, 20)
    assert doubted["unknown script"] >= 18 and doubted["nonsense"] >= 18 and doubted["legitimate"] <= 1
