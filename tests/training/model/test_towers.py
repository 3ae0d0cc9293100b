"""Each kind of tower that README names trains, freezes, is adapted, chunked and loaded like the first one."""

import pytest

from tests.support.towers import IN_PROCESS, publish_and_load

# Each kind once; all pairs are in the slow test, which compares docs/towers.md.
PAIRS = [("ResNet", "BERT"), ("timm EfficientNet", "RoBERTa"), ("Swin", "CLIP"), ("CLIP", "BERT")]
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
