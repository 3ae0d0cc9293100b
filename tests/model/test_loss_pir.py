"""The losses against closed forms and against their formulas written as loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_pir.loss_pir import (
    affiliation_loss,
    cluster_centers,
    contrastive_loss,
    same_caption_targets,
    same_image_targets,
    triplet_loss,
)

SCALE = torch.tensor(5.0)


def unit_rows(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def softmax_at(logits, index):
    """The probability of one of a list of logits."""
    return math.exp(logits[index]) / sum(math.exp(logit) for logit in logits)


def test_texts_belong_to_the_images_of_their_id():
    positives = same_image_targets(torch.tensor([7, 8, 7]), torch.tensor([8, 7]))
    assert positives.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_a_text_belongs_to_every_image_that_has_the_same_sentence():
    positives = same_caption_targets(torch.tensor([5, 6, 6, 9, 8, 8]), num_images=3)
    assert positives.tolist() == [[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]


def test_equal_embeddings_cost_the_log_of_the_batch():
    assert contrastive_loss(torch.full((6, 6), 3.0), torch.eye(6)).item() == pytest.approx(math.log(6))


def test_perfect_pairs_cost_nothing():
    assert contrastive_loss(100 * torch.eye(4), torch.eye(4)).item() == pytest.approx(0, abs=1e-6)


def test_captions_of_one_image_share_its_target():
    image_ids = torch.tensor([0, 1, 0])  # images 0 and 2 are one image
    positives = same_image_targets(image_ids, image_ids.repeat_interleave(2))
    logits = torch.randn(3, 6)
    by_image = by_text = 0.0
    for i in range(3):
        partners = [j for j in range(6) if image_ids[i] == image_ids[j // 2]]
        by_image -= sum(math.log(softmax_at(logits[i].tolist(), j)) for j in partners) / len(partners) / 3
    for j in range(6):
        partners = [i for i in range(3) if image_ids[i] == image_ids[j // 2]]
        by_text -= sum(math.log(softmax_at(logits[:, j].tolist(), i)) for i in partners) / len(partners) / 6
    assert contrastive_loss(logits, positives).item() == pytest.approx((by_image + by_text) / 2, rel=1e-5)


def test_triplet_loss_is_the_sum_of_all_hinges():
    similarity = torch.rand(4, 4) * 2 - 1
    expected = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                expected += max(0.0, 0.2 + similarity[i, j].item() - similarity[i, i].item())
                expected += max(0.0, 0.2 + similarity[i, j].item() - similarity[j, j].item())
    assert triplet_loss(similarity, torch.eye(4), 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_a_triplet_beyond_its_margin_costs_nothing():
    assert triplet_loss(torch.tensor([[0.9, 0.6], [0.6, 0.9]]), torch.eye(2), 0.2).item() == 0


def test_a_triplets_right_pair_is_the_mean_over_the_captions_of_its_image():
    similarity = torch.tensor([[0.8, 0.4, 0.5, 0.1], [0.2, 0.3, 0.9, 0.7]])
    positives = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    wrong_caption = 0.2 + 0.5 - (0.8 + 0.4) / 2  # of image 0, the third text
    wrong_image = 0.2 + 0.3 - 0.4  # of the second text, image 1
    assert triplet_loss(similarity, positives, 0.2).item() == pytest.approx(wrong_caption + wrong_image, abs=1e-6)


def test_centres_are_means_and_keep_their_gradient():
    embeds = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], requires_grad=True)
    centers = cluster_centers(embeds, torch.tensor([4, 9]), torch.tensor([4, 4, 9]))
    assert centers.tolist() == [[2, 0], [0, 2]]
    centers[0, 0].backward()
    assert embeds.grad.tolist() == [[0.5, 0], [0.5, 0], [0, 0]]


def slow_affiliation(images, texts, labels, scale, targets, places):
    """The formula as loops: images among centres of texts, texts among centres of images; `places` splits clusters."""
    per_image = len(texts) // len(images)
    known = [i for i, label in enumerate(labels) if label >= 0]
    clusters = sorted({(labels[i], places[i]) for i in known})
    members = {cluster: [i for i in known if (labels[i], places[i]) == cluster] for cluster in clusters}
    text_members = {c: [i * per_image + k for i in members[c] for k in range(per_image)] for c in clusters}
    text_center = {c: texts[text_members[c]].mean(dim=0) for c in clusters}
    image_center = {c: images[members[c]].mean(dim=0) for c in clusters}
    rows = [(images[i], i, text_center) for i in known]
    text_rows = [(texts[i * per_image + k], i, image_center) for i in known for k in range(per_image)]

    def scene_term(rows):
        total = 0.0
        for row, i, center in rows:
            logits = [(scale * row @ center[c]).item() for c in clusters]
            total -= math.log(sum(softmax_at(logits, n) for n, c in enumerate(clusters) if c[0] == labels[i]))
        return total / len(rows)

    if targets == "scene":
        return (scene_term(rows) + scene_term(text_rows)) / 2
    image_term = text_term = 0.0
    for i in known:
        cluster = labels[i], places[i]
        logits = [(scale * images[i] @ text_center[labels[j], places[j]]).item() for j in known]
        image_term -= math.log(softmax_at(logits, known.index(i))) / len(known)
        logits = [(scale * row @ image_center[cluster]).item() for row, _, _ in text_rows]
        own = [n for n, (_, j, _) in enumerate(text_rows) if j == i]
        text_term -= sum(math.log(softmax_at(logits, n)) for n in own) / len(own) / len(known)
    return (image_term + text_term) / 2


@pytest.mark.parametrize("captions_per_image", [1, 3])
@pytest.mark.parametrize("places", [None, [0, 0, 0, 1, 1, 1]], ids=["global", "local"])
@pytest.mark.parametrize("targets", ["scene", "identity"])
def test_affiliation_is_its_formula(targets, places, captions_per_image):
    labels = torch.tensor([2, 0, 2, 2, -1, 0])  # one unknown, two scenes, one of them on both sides of the split
    images, texts = unit_rows(6, 8), unit_rows(6 * captions_per_image, 8)
    process_ids = None if places is None else torch.tensor(places)
    loss = affiliation_loss(images, texts, labels, SCALE, targets, process_ids)
    expected = slow_affiliation(images, texts, labels.tolist(), SCALE, targets, places or [0] * 6)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("targets", "expected"), [("scene", 0.0), ("identity", math.log(3))])
def test_perfect_clusters_cost(targets, expected):
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    embeds = torch.eye(2)[labels]
    loss = affiliation_loss(embeds, embeds, labels, torch.tensor(100.0), targets)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_equal_embeddings_cost_the_log_of_the_number_of_scenes():
    embeds = F.normalize(torch.ones(5, 4), dim=-1)
    loss = affiliation_loss(embeds, embeds, torch.tensor([0, 0, 0, 1, 2]), SCALE, "scene")
    assert loss.item() == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize("targets", ["scene", "identity"])
def test_an_unknown_scene_takes_no_part(targets):
    images, texts = unit_rows(4, 8), unit_rows(8, 8)
    labels = torch.tensor([1, 0, 1, -1])
    whole = affiliation_loss(images, texts, labels, SCALE, targets)
    without = affiliation_loss(images[:3], texts[:6], labels[:3], SCALE, targets)
    assert whole.item() == pytest.approx(without.item(), rel=1e-5)


@pytest.mark.parametrize("targets", ["scene", "identity"])
def test_without_any_known_scene_it_is_nothing_and_so_is_the_gradient(targets):
    images = unit_rows(3, 8).requires_grad_()
    loss = affiliation_loss(images, unit_rows(3, 8), torch.full((3,), -1), SCALE, targets)
    loss.backward()
    assert loss.item() == 0 and not images.grad.any()


def test_half_precision_embeddings_are_compared_in_single_precision():
    images, texts = unit_rows(4, 8), unit_rows(4, 8)
    loss = affiliation_loss(images.bfloat16(), texts.bfloat16(), torch.tensor([0, 0, 1, 1]), SCALE)
    assert loss.dtype == torch.float32
