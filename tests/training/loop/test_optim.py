"""Parameter groups and the schedule."""

import pytest
import torch

from modeling_pir import PIRModel
from training.loop.optim import learning_rate_factors, parameter_groups, peak_learning_rates, warmup_then_decay


def learning_rates(schedule, num_steps=10, warmup_ratio=0.2):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = warmup_then_decay(optimizer, num_steps, warmup_ratio, schedule)
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_linear_schedule_rises_then_falls_without_an_idle_step():
    assert learning_rates("linear") == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_cosine_schedule_is_half_way_down_in_the_middle():
    rates = learning_rates("cosine")
    assert rates[2] == pytest.approx(1) and rates[6] == pytest.approx(0.5)
    assert all(later <= earlier for earlier, later in zip(rates[2:], rates[3:], strict=False))


def test_norms_biases_temperatures_and_position_tables_do_not_decay(tiny_config):
    model = PIRModel(tiny_config)
    decayed, kept = parameter_groups(model, 0.1, 1e-3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept_names = {names[id(parameter)] for parameter in kept["params"]}
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    assert {
        "logit_scale",
        "affiliation_logit_scale",
        "vir.head.bias",
        "lca.layers.0.self_attention_block.attention_norm.weight",
    } <= kept_names
    assert any("relative_position_bias_table" in name for name in kept_names)
    assert all(parameter.dim() > 1 for parameter in decayed["params"])


def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one(tiny_config):
    model = PIRModel(tiny_config)
    grouped = [id(parameter) for group in parameter_groups(model, 0.1, 1e-3, 0.5) for parameter in group["params"]]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    assert len(trainable) < len(list(model.parameters()))


def test_learning_rates_fall_block_by_block_towards_the_embeddings(tiny_config):
    model = PIRModel(tiny_config)
    factors = learning_rate_factors(model, 0.5)
    assert factors["vir.head.weight"] == factors["logit_scale"] == 1
    assert factors["text_model.encoder.layer.1.attention.self.query.weight"] == 0.5
    assert factors["text_model.encoder.layer.0.attention.self.query.weight"] == 0.25
    assert factors["text_model.embeddings.word_embeddings.weight"] == 0.125
    vision = [factor for name, factor in factors.items() if name.startswith("vision_model.encoder.layers.0.blocks.0")]
    assert set(vision) == {0.0625}  # three blocks in two stages, and the downsampling between them
    rates = {group["lr"] for group in parameter_groups(model, 0.1, 1e-3, 0.5)}
    assert rates == {1e-3, 5e-4, 2.5e-4, 1.25e-4, 6.25e-5, 3.125e-5}


def test_a_module_has_its_own_learning_rate_and_the_longest_name_wins(tiny_config):
    rates = peak_learning_rates(
        PIRModel(tiny_config), 1e-3, 0.5, {"text_model.embeddings": 4e-4, "text_model": 8e-4, "logit_scale": 2e-3}
    )
    assert rates["visual_projection.weight"] == 1e-3 and rates["logit_scale"] == 2e-3
    assert rates["text_model.encoder.layer.1.attention.self.query.weight"] == 8e-4 * 0.5
    assert rates["text_model.embeddings.word_embeddings.weight"] == 4e-4 * 0.125


def test_a_learning_rate_of_a_part_that_is_not_there_lists_those_that_are(tiny_config):
    with pytest.raises(ValueError, match=r"names 'vision', but the model has no such part: it has vision_model, text"):
        parameter_groups(PIRModel(tiny_config), 0.1, 1e-3, 1.0, {"vision": 1e-4})
