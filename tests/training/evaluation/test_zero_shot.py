"""Zero-shot scenes: phrases, prompts, accuracy and confusion."""

import pytest
import torch

from training.data.catalog import NAMES, known_dataset
from training.evaluation.zero_shot import SCENE_WORDS, TEMPLATES, scene_embeds, scene_phrase, zero_shot_metrics


class WordEncoder:
    """Embeds a text as the words it has of a vocabulary."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def embed_texts(self, texts, batch_size, dtype, progress):
        rows = [[float(word in text) for word in self.vocabulary] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


@pytest.mark.parametrize(
    ("scene", "phrase"),
    [
        ("railwaystation", "a railway station"),
        ("RailwayStation", "a railway station"),
        ("airport", "an airport"),
        ("bareland", "bare land"),
        ("storagetanks", "storage tanks"),
        ("tennis_court", "a tennis court"),
        ("SolarFarm", "a solar farm"),
        ("oil-rig", "an oil rig"),
        ("chaparral", "chaparral"),
    ],
)
def test_a_scene_reads_as_words(scene, phrase):
    assert scene_phrase(scene) == phrase


@pytest.mark.parametrize("dataset", NAMES)
def test_no_scene_of_a_known_data_set_is_several_words_in_one(dataset):
    one_word = {"airplane", "basketballcourt", "baseballfield", "boat", "playground", "farmland"}
    for scene in known_dataset(dataset).scenes:
        longest = max(scene_phrase(scene).split(), key=len)
        assert len(longest) <= 12 or longest in one_word, (
            f"{scene} reads as {scene_phrase(scene)}: add it to SCENE_WORDS"
        )


def test_every_template_has_its_place():
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    assert all(name == name.lower() for name in SCENE_WORDS)


def test_prompts_are_the_mean_over_templates():
    encoder = WordEncoder(["airport", "forest", "satellite"])
    prompts = scene_embeds(encoder, ["airport", "forest"], 8, templates=("a satellite image of {}.", "{}"))
    expected = torch.tensor([0.5**0.5 + 1, 0.0, 0.5**0.5])
    torch.testing.assert_close(prompts[0], expected / expected.norm())


def test_accuracy_and_confusion_can_be_checked_by_eye():
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    scenes = ["airport", "airport", "airport", "forest", None]
    metrics = zero_shot_metrics(images, torch.eye(2), scenes, ["airport", "forest"])
    assert metrics["images"] == 4
    assert metrics["accuracy"] == 50
    assert metrics["mean_accuracy"] == pytest.approx((200 / 3 + 0) / 2)
    assert metrics["chance"] == 50
    assert metrics["scenes"] == pytest.approx({"airport": 200 / 3, "forest": 0})
    assert metrics["confusion"] == [[2, 1], [1, 0]]
