"""The plain way and ours are the same computation, so that their times can be compared."""

import pytest
import torch
import torch.nn.functional as F
import yaml

from tests.support.tiny import build_tiny_config
from training.benchmarks.against_plain import (
    PLAIN,
    Way,
    build_models,
    flops_per_second,
    main,
    rates,
)
from training.benchmarks.plain_way import plain_image_embeds, plain_text_embeds


@pytest.mark.parametrize("overrides", [{}, {"use_instruction": False}, {"num_instruction_layers": 0, "num_cycles": 0}])
def test_the_plain_way_gives_the_embeddings_of_ours(overrides, tiny_processor, tiny_images, tiny_captions):
    plain, ours = build_models(build_tiny_config(**overrides), "cpu")
    plain.eval(), ours.eval()
    texts = [captions[number] for number, captions in enumerate(tiny_captions)]  # of unlike length: there is padding
    inputs = tiny_processor(images=tiny_images, text=texts, return_tensors="pt")
    with torch.no_grad():
        images = F.normalize(ours.get_image_features(inputs["pixel_values"]).pooler_output, dim=-1)
        sentences = F.normalize(
            ours.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output, dim=-1
        )
        torch.testing.assert_close(plain_image_embeds(plain, inputs["pixel_values"]), images, atol=2e-6, rtol=0)
        torch.testing.assert_close(plain_text_embeds(plain, inputs), sentences, atol=2e-6, rtol=0)


def test_the_best_round_of_each_way_counts(monkeypatch):
    clock = iter([0, 4, 0, 2, 0, 1, 0, 8])
    monkeypatch.setattr("training.benchmarks.against_plain.time.perf_counter", lambda: next(clock))
    ways = {PLAIN: Way(lambda: None, 8), "ours": Way(lambda: None, 16)}
    assert rates(ways, 2) == {PLAIN: 8.0, "ours": 8.0}


def test_the_command_prints_every_part_beside_the_plain_way(tmp_path, capsys):
    config = build_tiny_config().to_diff_dict()
    fields = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    fields["text_config"] |= {"vocab_size": 400}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": fields}))
    main(["--config", str(tmp_path / "run.yaml"), "--batch-size", "4", "--repeats", "1", "--peak-tflops", "2"])
    printed = capsys.readouterr().out
    for part in ("embedding images", "embedding captions", "training"):
        assert part in printed
    assert printed.count("\nplain ") == 3 and printed.count("\nours ") == 3 and "2 captions an image" in printed
    assert printed.count("TFLOP/s of model operations") == 3 and printed.count("% of 2\n") == 2
    assert "peak memory" in printed


def test_operations_are_those_of_the_matrix_products():
    left, right = torch.randn(4, 8), torch.randn(8, 16)
    assert flops_per_second(Way(lambda: left @ right, 2), rate=10) == 2 * 4 * 8 * 16 / 2 * 10
