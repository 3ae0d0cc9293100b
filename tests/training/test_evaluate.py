"""Embedding a split, and the command that compares models on data sets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_pir.inference.embed import embed_images, embed_texts
from tests.support.fake_run import write_run
from tests.support.paths import ROOT
from tests.support.tiny import SCENES, draw_scene
from tests.support.tiny_clip import save_clip
from training import evaluate as compare
from training.data.sources import load_image_captions
from training.evaluate import unique_labels
from training.evaluation.metrics import METRICS, retrieval_metrics
from training.evaluation.split_embeddings import embed_rows, embed_split, embeddings_metrics, evaluate_split
from training.report import evaluation_report as compare_report
from training.report.pictures import map_picture, pairs_picture


@pytest.fixture
def rows(tiny_parquet_dataset):
    return load_image_captions(str(tiny_parquet_dataset), "test")


@pytest.fixture
def models(tmp_path, tiny_model, tiny_processor, tiny_tokenizer):
    """A run of PIR and a CLIP, as command-line arguments."""
    run = write_run(tmp_path / "runs" / "tiny", tiny_model, tiny_processor, data="somewhere", seed=7)
    clip = save_clip(tmp_path / "models" / "clip", tiny_tokenizer)
    return ["--model", str(run / "best"), "--model", clip]


def test_a_split_is_embedded_in_the_order_of_its_captions(rows, tiny_model, tiny_processor):
    split = embed_split(tiny_model, tiny_processor, rows, 3)
    assert split.texts == [caption for captions in rows["captions"] for caption in captions]
    assert split.text_to_image.tolist() == [image for image in range(4) for _ in range(5)]
    images = [image.convert("RGB") for image in rows["image"]]
    torch.testing.assert_close(split.image_embeds, embed_images(tiny_model, tiny_processor, images))
    torch.testing.assert_close(split.text_embeds, embed_texts(tiny_model, tiny_processor, split.texts))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_came_in(rows, tiny_model, tiny_processor, training):
    tiny_model.train(training)
    embed_split(tiny_model, tiny_processor, rows, 4)
    assert tiny_model.training is training


def test_the_metrics_of_a_split_are_those_of_its_similarities(rows, tiny_model, tiny_processor):
    split = embed_split(tiny_model, tiny_processor, rows, 4)
    expected = retrieval_metrics(split.image_embeds @ split.text_embeds.T, split.text_to_image)
    assert embeddings_metrics(split) == expected
    assert evaluate_split(tiny_model, tiny_processor, rows, 4) == expected


class Broken:
    """An encoder that returns what it was given."""

    def __init__(self, images, texts):
        self.images, self.texts = images, texts

    def embed_images(self, *_):
        return self.images

    def embed_texts(self, *_):
        return self.texts


def test_a_model_of_two_widths_is_refused(rows):
    with pytest.raises(ValueError, match="gives 3 numbers for an image and 4 for a text"):
        embed_rows(Broken(torch.ones(4, 3), torch.ones(20, 4)), rows, 4)


def test_embeddings_with_nan_are_refused(rows):
    texts = torch.ones(20, 3)
    texts[5] = torch.nan
    with pytest.raises(ValueError, match="1 of 20 text embeddings have NaN"):
        embed_rows(Broken(torch.ones(4, 3), texts), rows, 4)


def test_two_models_on_two_data_sets_give_one_report(tmp_path, models, tiny_dataset, tiny_parquet_dataset, capsys):
    out = tmp_path / "evaluation"
    data = ["--data", str(tiny_parquet_dataset), "--data", str(tiny_dataset)]
    compare.main([*models, *data, "--output-dir", str(out)])
    result = json.loads((out / "metrics.json").read_text())
    report, printed = (out / "report.md").read_text(), capsys.readouterr().out
    assert len(result["data"]) == 2
    for label, data in result["data"].items():
        assert f"{label}, test: 4 images, 20 captions; percent\n" in printed
        assert f"\n## {label}, test\n" in report
        assert list(data["models"]) == ["tiny/best", "models/clip"]
        assert data["fingerprint"] in report
        for model, measured in data["models"].items():
            row = next(
                line
                for line in report.splitlines()
                if line.startswith(f"| `{model}` | {measured['recall']['i2t_R@1']:.2f}")
            )
            assert all(f"{measured['recall'][metric]:.2f}" in row for metric in METRICS)
            assert measured["seconds"].keys() == {"images", "texts", "statistics"}
            pictures = data["pictures"][model]
            assert [Path(path).name for path in pictures][:2] == ["gallery.png", "confusion.png"]
            assert ("belief.png" in pictures[-1]) == (model == "tiny/best")
            for path in pictures:
                assert Image.open(out / label.replace("/", "_") / path).width > 300
                assert f"({label.replace('/', '_')}/{path})" in report
        assert [line["second"] for line in data["differences"]] == ["models/clip"] * 2
    training = result["models"]["tiny/best"]["training"]
    assert (training["data"], training["seed"], training["epoch"]) == ("somewhere", 7, 7)
    assert "`somewhere`, from random weights, seed 7; epoch 7 of 9, by validation mR" in report
    assert result["models"]["models/clip"]["training"] is None and "not known to this command" in report


def test_the_table_needs_no_output_dir(models, tiny_dataset, capsys, monkeypatch):
    monkeypatch.setattr(compare, "draw_model", lambda *_: pytest.fail("drawn without a folder to draw into"))
    compare.main([*models[:2], "--data", str(tiny_dataset), "--split", "val"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("tiny_dataset, val: 4 images, 20 captions; percent")
    assert [line.split()[0] for line in lines[2:5]] == ["tiny/best", "chance", "ceiling"]
    assert len({len(line) for line in lines[1:5]}) == 1


def test_hubness_is_a_row_of_its_own_that_names_the_bank(models, tiny_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "draw_model", lambda folder, *_: folder.mkdir(parents=True) or [])
    options = ("--data", str(tiny_dataset), "--split", "val", "--hubness", "--output-dir", str(tmp_path / "out"))
    compare.main([*models[:2], *options])
    row = "tiny/best, corrected for hubness (bank scenes-1)"
    assert row in capsys.readouterr().out and row in (tmp_path / "out" / "report.md").read_text()
    (data,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["data"].values()
    plain, corrected = (data["models"][label]["recall"] for label in ("tiny/best", row))
    assert all(plain[f"i2t_R@{k}"] == corrected[f"i2t_R@{k}"] for k in (1, 5, 10))
    assert {(one["first"], one["second"]) for one in data["differences"]} == {("tiny/best", row)}


def test_turns_are_a_row_of_their_own_in_which_no_side_is_up(models, tiny_dataset, capsys):
    command = [*models[:2], "--split", "val", "--turns", "--data"]
    compare.main([*command, str(tiny_dataset)])
    plain, turned = capsys.readouterr().out.splitlines()[2:4]
    assert turned.startswith("tiny/best, mean of four quarter turns")
    for path in (tiny_dataset / "validation").glob("*.png"):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    compare.main([*command, str(tiny_dataset)])
    again, turned_again = capsys.readouterr().out.splitlines()[2:4]
    assert turned_again == turned
    assert again != plain


def test_published_rows_surround_a_model_on_their_own_test_list(rows, tiny_model, tiny_processor, monkeypatch):
    monkeypatch.setattr(compare, "benchmark_of", lambda rows: "rsicd")
    encoders = {"ours": compare.PIREncoder(tiny_model, tiny_processor)}
    data = compare.compare_on(encoders, rows, 4, None)[0] | {"split": "test", "source": "x", "split_list": None}
    data["models"]["ours"]["recall"]["mR"] = 24.0  # between VSE2 and PIR
    text = "\n".join(compare_report._data_sections("rsicd", data))
    places = [text.index(name) for name in ("| VSE2 + TEL (2023)", "| **`ours`**", "| PIR (2023)")]
    assert places == sorted(places)
    assert "[1]" in text and "\n1. " in text
    assert "Chosen on* test means" in text


def test_labels_are_short_and_unique(tmp_path):
    for name in ("a/run/best", "b/run/best", "c/other/best"):
        (tmp_path / name).mkdir(parents=True)
    sources = [str(tmp_path / name) for name in ("a/run/best", "b/run/best", "c/other/best")]
    assert unique_labels([*sources, "org/model"], 2) == [sources[0], sources[1], "other/best", "org/model"]
    with pytest.raises(ValueError, match="given twice"):
        unique_labels(["org/model", "org/model"], 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nobody/nothing", "--data", "DATA"], "error: nobody/nothing cannot be loaded"),
        (["--model", "/nowhere", "--data", "DATA"], "error: /nowhere cannot be loaded: there is no such folder; give"),
        (["--model", "x", "--data", "/nowhere"], "error: There is no data at '/nowhere': give"),
        (["--model", "x", "--data", "no/such/folder"], "error: There is no data at 'no/such/folder'"),
        (
            ["--model", "x", "--data", "DATA", "--data", "sample", "--split-list", "rsicd"],
            "error: --split-list is given 1",
        ),
        (["--model", "x", "--data", "DATA", "--split", "holdout"], "error: There is no split 'holdout'"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, message, tiny_dataset):
    with pytest.raises(SystemExit, match=message):
        compare.main([str(tiny_dataset) if argument == "DATA" else argument for argument in arguments])


def test_a_folder_of_images_without_captions_gets_a_sentence(tmp_path, models):
    draw_scene("forest", 1).save(tmp_path / "a.png")
    (tmp_path / "pictures").mkdir()
    draw_scene("forest", 1).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(SystemExit, match="error: .* has images but no captions"):
        compare.main([*models, "--data", str(tmp_path / "pictures")])


def test_broken_weights_get_a_sentence(models, tiny_dataset):
    path = Path(models[1]) / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in tensors.items()}, path
    )
    with pytest.raises(SystemExit, match="error: The weights of .* are broken: .*NaN"):
        compare.main([*models[:2], "--data", str(tiny_dataset)])


def test_a_map_names_its_scenes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    embeds = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator), dim=-1)
    map_picture(embeds, ["port", "river", None] * 4, tmp_path / "map.png", "a model")
    assert Image.open(tmp_path / "map.png").width > 500
    with pytest.raises(ValueError, match="at least 5 images"):
        map_picture(embeds[:4], ["port"] * 4, tmp_path / "map.png", "a model")


def test_an_odd_number_of_pairs_is_drawn(tmp_path):
    pairs = [(draw_scene(scene, 1), draw_scene(scene, 2)) for scene in SCENES[:3]]
    pairs_picture(pairs, [("a", "b")] * 3, ["note"] * 3, tmp_path / "pairs.png")
    assert Image.open(tmp_path / "pairs.png").height > 500


@pytest.mark.slow
def test_the_command_runs_from_a_shell(models, tiny_dataset):
    command = [sys.executable, "-m", "training.evaluate", *models, "--data", str(tiny_dataset)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert "models/clip" in done.stdout


def test_a_report_without_its_package_is_refused_before_any_data_is_read(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setattr(compare, "load_image_captions", lambda *_, **__: pytest.fail("data was read"))
    with pytest.raises(SystemExit, match=r"needs scikit-learn, the package sklearn: pip install"):
        compare.main([*models[:2], "--data", "sample", "--output-dir", str(tmp_path / "out")])


def test_numbers_are_written_before_pictures_are_drawn(models, tiny_dataset, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no display")

    monkeypatch.setattr(compare, "draw_model", fail)
    with pytest.raises(RuntimeError, match="no display"):
        compare.main([*models[:2], "--data", str(tiny_dataset), "--output-dir", str(tmp_path / "out")])
    data = json.loads((tmp_path / "out" / "metrics.json").read_text())["data"]
    assert data["tiny_dataset"]["models"]["tiny/best"]["recall"]["mR"] > 0
