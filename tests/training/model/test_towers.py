"""Each kind of tower that README names trains, freezes, is adapted, chunked and loaded like the first one."""

import pytest

from tests.support.towers import IN_PROCESS, TEXT, VISION, publish_and_load, resume

# Each kind once; docs/towers.md has all pairs.
PAIRS = [
    ("ResNet", "BERT"), ("timm EfficientNet", "RoBERTa"), ("Swin", "CLIP"), ("CLIP", "BERT"),
    ("timm Swin", "DistilBERT"), ("SigLIP", "SigLIP"),
]  # fmt: skip
BATCH_NORM = ("ResNet", "timm EfficientNet")


@pytest.mark.parametrize(("vision", "text"), PAIRS)
@pytest.mark.parametrize("check", IN_PROCESS)
def test_every_kind_of_tower(check, vision, text):
    answer = IN_PROCESS[check](vision, text)
    if check == "chunks":
        assert answer == ("refused while its BatchNorm is live" if vision in BATCH_NORM else "yes")
    else:
        assert answer is True


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_every_kind_of_tower_is_published_and_loaded(vision, text, tiny_processor):
    assert publish_and_load(vision, text, tiny_processor)


@pytest.mark.parametrize(
    ("vision", "text"), [PAIRS[0], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS[1:])]
)
def test_every_kind_of_tower_is_resumed_bit_for_bit(vision, text, tiny_dataset, tmp_path):
    assert resume(vision, text, tiny_dataset, tmp_path)


def test_each_kind_is_asked():
    assert {vision for vision, _ in PAIRS} == set(VISION) and {text for _, text in PAIRS} == set(TEXT)
