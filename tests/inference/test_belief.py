"""Belief maps, the object measure, and what the pictures show."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.ImageColor import getrgb

from modeling_pir import PIRConfig, PIRModel
from modeling_pir.inference import belief as belief_module
from modeling_pir.inference.belief import Belief, belief_map, belief_maps, belief_overlay, belief_picture
from modeling_pir.inference.figures import BLUE
from training.evaluation.object_keeping import object_keep_ratio, object_patches
from training.report.pictures import curves_picture, gallery_picture, retrieval_gallery


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved; rendering is what takes time in this file."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **kwargs: drawn.append(figure))
    return drawn


def render(figure):
    """Pixels (height, width, 3) of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def noise(seed, size=(40, 24)):
    """An RGB image without two equal neighbours."""
    return Image.fromarray(np.random.default_rng(seed).integers(60, 255, (size[1], size[0], 3), dtype=np.uint8))


def checkerboard(rows=4, cols=4):
    return np.indices((rows, cols)).sum(axis=0) % 2 == 0


def test_belief_of_all_tokens_sums_to_one_and_the_filter_size_is_kept(tiny_model, tiny_processor, tiny_images):
    for belief in belief_maps(tiny_model, tiny_processor, tiny_images, batch_size=3):
        assert belief.grid.shape == belief.kept.shape == (8, 8)
        assert belief.grid.sum() + belief.pooled_score == pytest.approx(1, abs=1e-5)
        assert belief.kept.sum() + belief.pooled_kept == tiny_model.config.filter_size


def test_kept_patches_are_believed_more_than_the_others(tiny_model, tiny_processor, tiny_images):
    belief = belief_map(tiny_model, tiny_processor, tiny_images[1])
    assert belief.grid[belief.kept].min() >= belief.grid[~belief.kept].max()


def test_grid_is_the_models_tokens_in_raster_order(tiny_model, tiny_processor, tiny_images):
    pixel_values = tiny_processor(images=tiny_images[:1], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = tiny_model.get_image_features(pixel_values).belief_scores[0]
    belief = belief_map(tiny_model, tiny_processor, tiny_images[0])
    assert belief.pooled_score == pytest.approx(scores[0].item())
    for row, col in ((0, 0), (0, 5), (3, 1), (7, 7)):
        assert belief.grid[row, col] == pytest.approx(scores[1 + 8 * row + col].item())


@pytest.mark.parametrize("overrides", [{"num_instruction_layers": 0}, {"use_instruction": False}])
def test_a_model_without_instruction_has_no_belief(overrides, tiny_config, tiny_processor, tiny_images):
    model = PIRModel(PIRConfig(**tiny_config.to_dict() | overrides)).eval()
    with pytest.raises(ValueError, match="no instruction"):
        belief_map(model, tiny_processor, tiny_images[0])


def test_patches_that_are_no_square_are_refused(tiny_config, tiny_processor, tiny_images):
    tiny_config.vision_config.image_size = (32, 16)
    tiny_config.filter_size = 8
    model = PIRModel(tiny_config).eval()
    tiny_processor.image_processor.size = {"height": 32, "width": 16}
    with pytest.raises(ValueError, match="32 patches, which do not form a square grid"):
        belief_map(model, tiny_processor, tiny_images[0])


def test_overlay_leaves_kept_pixels_and_darkens_all_others():
    image, kept = noise(0), checkerboard(2, 4)  # patches of 12 x 10 pixels
    overlay = np.asarray(belief_overlay(image, Belief(np.full((2, 4), 0.1), kept, 0.2, True)))
    pixels = np.asarray(image)
    is_kept = kept.repeat(12, axis=0).repeat(10, axis=1)
    assert (overlay[is_kept] == pixels[is_kept]).all()
    assert (overlay[~is_kept] != pixels[~is_kept]).any(axis=1).mean() > 0.99
    assert overlay[~is_kept].mean() < 0.7 * pixels[~is_kept].mean()
    assert (np.ptp(overlay[~is_kept], axis=1) == 0).all()  # grey


def test_overlay_has_the_size_asked_for_and_takes_any_mode():
    belief = Belief(np.full((4, 4), 1 / 17), checkerboard(), 1 / 17, True)
    assert belief_overlay(noise(0).convert("L"), belief).size == (40, 24)
    thumbnail = belief_overlay(noise(0).convert("RGBA"), belief, (96, 64))
    assert (thumbnail.size, thumbnail.mode) == ((96, 64), "RGB")


def test_object_patches_count_by_the_share_that_boxes_cover_together():
    left_half = [(0.0, 0.0, 0.125, 0.25)]  # half of patch (0, 0) of 4 x 4
    assert object_patches(left_half, 4, 4, min_share=0.5).nonzero() == (0, 0)
    assert not object_patches(left_half, 4, 4, min_share=0.51).any()
    twice = left_half * 2  # the same half again covers no more
    assert not object_patches(twice, 4, 4, min_share=0.51).any()
    both_halves = [*left_half, (0.125, 0.0, 0.25, 0.25)]
    assert object_patches(both_halves, 4, 4, min_share=1.0)[0, 0]
    wide = object_patches([(0.5, 0.25, 1.0, 0.5)], 4, 4)
    assert wide.sum() == 2 and wide[1, 2] and wide[1, 3]


def test_object_keep_ratio_of_an_example_by_hand():
    # Image 1: the two patches of row 0 are objects, one kept; image 2: patch (1, 1) is one, kept.
    kept = [np.array([[True, False], [False, False]]), np.array([[True, False], [True, True]])]
    boxes = [[(0, 0, 1, 0.5)], [(0.5, 0.5, 1, 1)]]
    assert object_keep_ratio(kept, boxes) == pytest.approx((2 / 3) / (4 / 8))


def test_an_image_without_objects_does_not_count():
    kept = [np.array([[True, False], [False, False]]), np.ones((2, 2), dtype=bool)]
    assert object_keep_ratio(kept, [[(0, 0, 0.5, 0.5)], []]) == pytest.approx(1 / 0.25)


def test_a_random_prior_keeps_objects_as_often_as_anything():
    generator = np.random.default_rng(0)
    kept = [generator.permuted(np.arange(49) < 39).reshape(7, 7) for _ in range(2000)]
    boxes = [[(x, y, x + 0.4, y + 0.3)] for x, y in generator.uniform(0, 0.6, (2000, 2))]
    assert object_keep_ratio(kept, boxes) == pytest.approx(1.0, abs=0.01)


def test_object_keep_ratio_says_what_is_missing():
    kept = [np.ones((2, 2), dtype=bool)]
    with pytest.raises(ValueError, match="kept patches of 1 images, but boxes of 2"):
        object_keep_ratio(kept, [[], []])
    with pytest.raises(ValueError, match="shows an object"):
        object_keep_ratio(kept, [[(0.1, 0.1, 0.12, 0.12)]])
    with pytest.raises(ValueError, match="is kept"):
        object_keep_ratio([~kept[0]], [[(0, 0, 1, 1)]])


def test_belief_picture_draws_boxes_titles_and_kept_counts(figures, tiny_model, tiny_processor, tiny_images, tmp_path):
    boxes = [[(0, 0, 0.5, 0.5)], [(0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1)]]
    titles = ["costs $5 and $6", "a forest"]
    belief_picture(tiny_model, tiny_processor, tiny_images[:2], titles, tmp_path / "belief.png", boxes, "a caption")
    beliefs = belief_maps(tiny_model, tiny_processor, tiny_images[:2])
    panels = [axes for axes in figures[0].axes if axes.get_label() != "<colorbar>"]
    assert [axes.get_title() for axes in panels[::3]] == titles
    for row, belief in enumerate(beliefs):
        image, heat, kept = panels[3 * row : 3 * row + 3]
        assert np.allclose(heat.images[0].get_array(), belief.grid)
        assert kept.get_title().startswith(f"{belief.kept.sum()} of 64 patches kept")
        outlines = {(patch.get_xy(), patch.get_width(), patch.get_height()) for patch in image.patches}
        assert outlines == {((left, 1 - bottom), right - left, bottom - top) for left, top, right, bottom in boxes[row]}


@pytest.mark.parametrize(("span", "logarithmic"), [(10, False), (1e4, True), (1e12, True)])
def test_heat_map_is_logarithmic_where_belief_spans_decades(span, logarithmic):
    axes = Figure().subplots()
    grid = np.array([[1.0, 1 / span], [0.5, 0.5]]) / 2
    belief_module._draw_heat_map(axes, Belief(grid, grid > 0, 0.0, False))
    assert ("log scale" in axes.get_title()) == logarithmic
    assert axes.images[0].norm(axes.images[0].get_array()).compressed().size == 4  # no cell is left blank


def test_belief_picture_wants_a_title_for_each_image(tiny_model, tiny_processor, tiny_images, tmp_path):
    with pytest.raises(ValueError, match="4 images, 1 titles, no lists of boxes"):
        belief_picture(tiny_model, tiny_processor, tiny_images, ["one"], tmp_path / "belief.png")


def test_belief_picture_is_a_readable_file(tiny_model, tiny_processor, tiny_images, tmp_path):
    belief_picture(tiny_model, tiny_processor, tiny_images[:1], ["a title"], tmp_path / "belief.png")
    width, height = Image.open(tmp_path / "belief.png").size
    assert 800 < width < 1600 and 250 < height < 600


def ticked(axes):
    return "\N{CHECK MARK}" in [text.get_text() for text in axes.texts]


def framed(axes):
    return axes.spines["left"].get_linewidth() > 2


def hit_panels(figure, num_queries):
    """The image axes of a gallery, one list per query."""
    panels = np.array(figure.axes).reshape(num_queries, -1)
    return panels[:, 1:]


def test_gallery_marks_exactly_the_right_ones_by_frame_and_tick(figures, tmp_path):
    right = [[True, False, True], [False, False, False]]
    similarities = [[0.9, 0.8, 0.7], [0.31, 0.2, -0.1]]
    images = [noise(seed) for seed in range(4)]
    queries, ranked = ["a bridge of $1 and $2", "two boats"], [[0, 1, 2], [3, 2, 1]]
    gallery_picture(queries, images, ranked, similarities, right, tmp_path / "gallery.png")
    panels = hit_panels(figures[0], 2)
    assert [[ticked(axes) for axes in row] for row in panels] == right
    assert [[framed(axes) for axes in row] for row in panels] == right
    assert [axes.get_xlabel().split()[-1] for axes in panels[1]] == ["0.310", "0.200", "-0.100"]
    pixels = render(figures[0])
    blue = (pixels == getrgb(BLUE)).all(axis=2)
    assert blue[: len(pixels) // 2].any() and not blue[len(pixels) // 2 :].any()


def test_gallery_shows_each_image_at_its_rank(figures, tmp_path):
    images = [Image.new("RGB", (8, 8), (40 * index, 0, 0)) for index in range(5)]
    gallery_picture(["x"], images, [[4, 0, 3]], [[0.3, 0.2, 0.1]], [[False] * 3], tmp_path / "gallery.png")
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in hit_panels(figures[0], 1)[0]]
    assert shown == [160, 0, 120]


def test_gallery_refuses_lists_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="1 queries and lists of shape"):
        gallery_picture(["x"], [noise(0)], [[0]], [[0.1, 0.2]], [[True]], tmp_path / "gallery.png")


def clusters():
    """Six images of orthogonal embeddings, and two texts of each that equal it."""
    image_embeds = torch.eye(6)
    text_to_image = torch.arange(6).repeat_interleave(2)
    texts = [f"text {text} of image {image}" for text, image in enumerate(text_to_image.tolist())]
    return image_embeds, image_embeds[text_to_image], texts, [noise(seed) for seed in range(6)], text_to_image


def test_retrieval_gallery_draws_the_same_queries_again_whatever_the_results(figures, tmp_path):
    image_embeds, text_embeds, *rest = clusters()
    for embeds in (text_embeds, -text_embeds):
        retrieval_gallery(image_embeds, embeds, *rest, tmp_path / "gallery.png", num_queries=4)
    queries = [[axes.texts[0].get_text() for axes in figure.axes[:: 1 + 5]] for figure in figures]
    assert queries[0] == queries[1]
    assert len({query.split()[-1] for query in queries[0]}) == 4  # of four images
    retrieval_gallery(image_embeds, text_embeds, *rest, tmp_path / "gallery.png", num_queries=4, seed=1)
    assert [axes.texts[0].get_text() for axes in figures[2].axes[:: 1 + 5]] != queries[0]
    assert "drawn at random (seed 1)" in figures[2]._suptitle.get_text().replace("\n", " ")


def test_retrieval_gallery_ticks_the_captions_own_image_and_ranks_it(figures, tmp_path):
    image_embeds, text_embeds, *rest = clusters()
    retrieval_gallery(image_embeds, text_embeds, *rest, tmp_path / "gallery.png", num_queries=6)
    for row, text_axes in zip(hit_panels(figures[0], 6), figures[0].axes[::6], strict=True):
        assert [ticked(axes) for axes in row] == [True, False, False, False, False]
        assert text_axes.texts[1].get_text() == "its image ranks 1 of 6"


def test_a_tie_ranks_behind(figures, tmp_path):
    image_embeds, text_embeds, *rest = clusters()
    retrieval_gallery(image_embeds, torch.zeros_like(text_embeds), *rest, tmp_path / "gallery.png")
    assert figures[0].axes[0].texts[1].get_text() == "its image ranks 6 of 6"


def test_retrieval_gallery_refuses_numbers_that_do_not_agree(tmp_path):
    image_embeds, text_embeds, texts, images, text_to_image = clusters()
    with pytest.raises(ValueError, match="6 image embeddings of 5 images"):
        retrieval_gallery(image_embeds, text_embeds, texts, images[:5], text_to_image, tmp_path / "gallery.png")


def step(number, **values):
    return {"step": number, "epoch": 0, "learning_rate": 0.1 / number} | values


def validation(epoch, mean_recall):
    recalls = {f"{way}_R@{k}": mean_recall for way in ("i2t", "t2i") for k in (1, 5, 10)}
    return {"epoch": epoch, "step": epoch + 1, "split": "validation", "mR": mean_recall} | recalls


def test_curves_show_every_series_its_best_epoch_and_chance(figures, tmp_path):
    records = [step(1, loss=3.0, contrastive_loss=2.0, affiliation_loss=1.0), validation(0, 5.0)]
    records += [step(2, loss=2.0, contrastive_loss=1.5, affiliation_loss=0.5), validation(1, 9.0), validation(2, 8.0)]
    curves_picture(records, tmp_path / "curves.png", {"mR": 0.5})
    losses, mean_recall, rates, recalls = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert drawn["loss"] == [[1, 3], [2, 2]] and drawn["affiliation loss"] == [[1, 1], [2, 0.5]]
    assert rates.lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.05]]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in mean_recall.lines}
    assert drawn["validation mR"] == [[1, 5], [2, 9], [3, 8]]
    assert drawn["best: 9.00 after epoch 2"] == [[2, 9]]
    assert [y for _, y in drawn["chance: 0.50"]] == [0.5, 0.5]
    assert len(recalls.lines) == 6
    assert len({(line.get_color(), line.get_linestyle()) for line in recalls.lines}) == 6


def test_curves_leave_out_what_was_not_recorded(figures, tmp_path):
    curves_picture([step(1, loss=3.0), step(2, loss=2.0)], tmp_path / "curves.png")
    assert [len(axes.lines) for axes in figures[0].axes] == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="nothing to draw"):
        curves_picture([{"epoch": 0}], tmp_path / "curves.png")
