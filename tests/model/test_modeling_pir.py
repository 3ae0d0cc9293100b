"""PIRModel: what it returns, what it trains, and that its savings and switches do not change its numbers."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForZeroShotImageClassification

from modeling_pir import PIRModel
from modeling_pir.layers_pir import LCA, VIR, PIRAttentionBlock, PIRTransformerEncoderLayer
from modeling_pir.loss_pir import affiliation_loss, contrastive_loss, same_image_targets, triplet_loss
from modeling_pir.modeling_pir import caption_keys
from tests.support.model_inputs import assert_close, loss_of, make_inputs
from tests.support.tiny import build_tiny_config

TOKENS = 65  # 8 x 8 patches and the pooled one


@pytest.fixture
def inputs():
    """Three images and three texts."""
    return make_inputs()


def build(**overrides):
    """A seeded model in evaluation mode; equal parts get equal weights where the overrides build the same modules."""
    torch.manual_seed(0)
    return PIRModel(build_tiny_config(**overrides)).eval()


def embeds_of(model, inputs):
    """Both sides' embeddings in one tensor."""
    with torch.no_grad():
        outputs = model(**inputs)
    return torch.cat([outputs.image_embeds, outputs.text_embeds])


# What it returns


def test_every_output_has_its_shape(tiny_model):
    inputs = make_inputs(num_images=3, num_texts=6, length=7)
    outputs = tiny_model(**inputs, return_loss=True, scene_labels=torch.tensor([0, 1, 1]))
    assert outputs.loss.shape == outputs.contrastive_loss.shape == outputs.affiliation_loss.shape == ()
    assert outputs.logits_per_image.shape == (3, 6) and outputs.logits_per_text.shape == (6, 3)
    assert outputs.image_embeds.shape == (3, 16) and outputs.text_embeds.shape == (6, 16)
    assert outputs.belief_scores.shape == (3, TOKENS) and outputs.filtered_indices.shape == (3, 40)
    assert outputs.vision_model_output.last_hidden_state.shape == (3, 64, 16)
    assert outputs.text_model_output.last_hidden_state.shape == (6, 7, 16)
    assert outputs.instruction_model_output.pooler_output.shape == (3, 8, 1, 1)


def test_embeddings_have_unit_norm_and_features_are_they_before_normalisation(tiny_model, inputs):
    outputs = tiny_model(**inputs)
    images = tiny_model.get_image_features(inputs["pixel_values"]).pooler_output
    texts = tiny_model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    for embeds, features in ((outputs.image_embeds, images), (outputs.text_embeds, texts)):
        assert_close(embeds.norm(dim=1), torch.ones(3))
        assert_close(embeds, features / features.norm(dim=1, keepdim=True))
        assert (features.norm(dim=1) - 1).abs().min() > 0.05


def test_logits_are_the_cosines_times_the_scale(tiny_model, inputs):
    tiny_model.logit_scale.data.fill_(math.log(10))
    outputs = tiny_model(**inputs)
    assert_close(outputs.logits_per_image, 10 * outputs.image_embeds @ outputs.text_embeds.T)
    assert torch.equal(outputs.logits_per_image, outputs.logits_per_text.T)


def test_the_scale_is_at_most_one_hundred(tiny_model, inputs):
    tiny_model.logit_scale.data.fill_(10.0)
    outputs = tiny_model(**inputs)
    assert_close(outputs.logits_per_image, 100 * outputs.image_embeds @ outputs.text_embeds.T)


def test_belief_is_a_distribution_over_the_tokens_by_their_product_with_the_instruction(tiny_model, inputs):
    outputs = tiny_model(**inputs)
    vision_outputs = tiny_model.vision_model(inputs["pixel_values"])
    tokens = torch.cat([vision_outputs.pooler_output[:, None], vision_outputs.last_hidden_state], dim=1)
    tokens = tiny_model.visual_projection(tokens)
    prior = tiny_model.instruction_model(inputs["pixel_values"]).pooler_output.flatten(1)
    instruction = tiny_model.instruction_projection(prior)
    assert_close(outputs.belief_scores.sum(dim=1), torch.ones(3))
    for row in range(3):
        assert_close(outputs.belief_scores[row], torch.softmax(tokens[row] @ instruction[row], dim=0))


def test_filtering_keeps_the_most_believed_tokens_in_order(tiny_model, inputs):
    outputs = tiny_model(**inputs)
    order = outputs.belief_scores.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(outputs.filtered_indices, order[:, :40])


def test_belief_stays_in_single_precision_under_autocast(tiny_model, inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        belief_scores = tiny_model(**inputs).belief_scores
    assert belief_scores.dtype == torch.float32
    assert all(len(row.unique()) == TOKENS for row in belief_scores)  # rounded to bfloat16 some would be equal


def test_a_batch_of_one_equals_its_row_in_a_batch_of_three(tiny_model, inputs):
    together = tiny_model(**inputs)
    for row in range(3):
        alone = tiny_model(**{name: value[row : row + 1] for name, value in inputs.items()})
        assert_close(alone.image_embeds[0], together.image_embeds[row])
        assert_close(alone.text_embeds[0], together.text_embeds[row])
        assert torch.equal(alone.filtered_indices[0], together.filtered_indices[row])


def test_attentions_and_hidden_states_are_those_of_the_towers(inputs):
    model = build()
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    vision, text = outputs.vision_model_output, outputs.text_model_output
    assert [len(vision.attentions), len(vision.hidden_states)] == [2, 3]  # Swin: one of each for each stage
    assert [len(text.attentions), len(text.hidden_states)] == [2, 3]
    assert text.attentions[0].shape == (3, 2, 9, 9)
    assert text.hidden_states[-1].equal(text.last_hidden_state)


def test_a_tuple_holds_the_same_values(tiny_model, inputs):
    outputs = tiny_model(**inputs)
    values = tiny_model(**inputs, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(outputs)
    assert values[0].equal(outputs.logits_per_image)
    assert all(not hasattr(value, "keys") for value in values)
    assert isinstance(tiny_model.get_image_features(inputs["pixel_values"], return_dict=False), tuple)
    assert isinstance(tiny_model.get_text_features(inputs["input_ids"], return_dict=False), tuple)


@pytest.mark.parametrize("missing", ["input_ids", "pixel_values"])
def test_one_side_alone_is_refused(tiny_model, inputs, missing):
    del inputs[missing]
    with pytest.raises(ValueError, match=f"{missing} is missing: forward compares images with texts"):
        tiny_model(**inputs)


def test_an_image_with_fewer_tokens_than_are_kept_is_refused(tiny_model):
    with pytest.raises(ValueError, match="filter_size is 40, but the vision tower gave 17 tokens"):
        tiny_model.get_image_features(torch.randn(1, 3, 16, 16))


def test_a_larger_image_gives_more_tokens(tiny_model):
    features = tiny_model.get_image_features(torch.randn(2, 3, 48, 48))
    assert features.belief_scores.shape == (2, 1 + 12 * 12) and features.filtered_indices.shape == (2, 40)


# What it trains


def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one_does(tiny_model, inputs):
    tiny_model.train()
    loss_of(tiny_model, inputs).backward()
    frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in tiny_model.named_parameters() if name.startswith("instruction_model.")}
    for name, parameter in tiny_model.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
        elif not name.endswith(("k_proj.bias", "key.bias")):  # shifts all scores of a row: its gradient is 0
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("overrides", [{"num_instruction_layers": 0}, {"num_cycles": 0}, {"use_instruction": False}])
def test_nothing_untrainable_is_left_over_in_the_baselines(inputs, overrides):
    model = build(**overrides).train()
    loss_of(model, inputs).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_the_triplet_objective_trains_all_but_the_scale_it_does_not_read(inputs):
    model = build(contrastive_objective="triplet").train()
    loss_of(model, inputs).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "logit_scale" not in trained and "affiliation_logit_scale" in trained


def test_an_unfrozen_prior_gets_a_gradient(inputs):
    model = build(freeze_instruction_encoder=False).train()
    before = copy.deepcopy(model.instruction_model.state_dict())
    loss_of(model, inputs).backward()
    assert any(parameter.grad.any() for parameter in model.instruction_model.parameters())
    assert any(not torch.equal(before[name], value) for name, value in model.instruction_model.state_dict().items())


def statistics_move(model, inputs):
    """Whether a training step's forward pass changes the prior's BatchNorm statistics."""
    before = copy.deepcopy(dict(model.instruction_model.named_buffers()))
    loss_of(model, inputs)
    return any(not torch.equal(before[name], value) for name, value in model.instruction_model.named_buffers())


@pytest.mark.parametrize("freeze_batch_norm", [True, False])
def test_the_freeze_survives_loading_and_train(tmp_path, inputs, freeze_batch_norm):
    build(freeze_instruction_batch_norm=freeze_batch_norm).save_pretrained(tmp_path)
    model = PIRModel.from_pretrained(tmp_path)
    assert not statistics_move(model, inputs)
    model.train()
    assert model.text_model.training and model.instruction_model.training != freeze_batch_norm
    assert not any(parameter.requires_grad for parameter in model.instruction_model.parameters())
    assert statistics_move(model, inputs) != freeze_batch_norm
    assert not statistics_move(model.eval(), inputs)


def test_dropout_acts_in_training_only(tiny_model, inputs):
    assert torch.equal(embeds_of(tiny_model, inputs), embeds_of(tiny_model, inputs))
    tiny_model.train()
    assert not torch.equal(embeds_of(tiny_model, inputs), embeds_of(tiny_model, inputs))


def test_heads_start_as_pytorch_does_and_scales_at_their_temperature():
    model = build(projection_dim=64, logit_scale_init_value=1.5)
    weight = model.lca.layers[0].query_projection.weight
    assert weight.abs().max() <= 1 / 8 and weight.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
    assert model.logit_scale == model.affiliation_logit_scale == 1.5


# The loss of a batch


def unit_rows(rows):
    return F.normalize(torch.randn(rows, 16), dim=1)


def test_the_loss_is_the_contrastive_one_plus_the_weighted_affiliation(inputs):
    model = build(affiliation_weight=0.25)
    outputs = model(**inputs, return_loss=True, scene_labels=torch.tensor([0, 0, 1]))
    scale = model.logit_scale.exp()
    images, texts = outputs.image_embeds, outputs.text_embeds
    assert_close(outputs.contrastive_loss, contrastive_loss(scale * images @ texts.T, torch.eye(3)))
    assert_close(outputs.affiliation_loss, affiliation_loss(images, texts, torch.tensor([0, 0, 1]), scale))
    assert_close(outputs.loss, outputs.contrastive_loss + 0.25 * outputs.affiliation_loss)


@pytest.mark.parametrize("overrides", [{}, {"affiliation_weight": 0}], ids=["no labels", "no weight"])
def test_without_labels_or_weight_there_is_no_affiliation(overrides):
    labels = None if not overrides else torch.tensor([0, 1])
    losses = build(**overrides).compute_loss(unit_rows(2), unit_rows(2), scene_labels=labels)
    assert losses.affiliation_loss is None and losses.loss is losses.contrastive_loss


def test_all_captions_of_an_image_are_its_positives(tiny_model):
    images, texts, image_ids = unit_rows(3), unit_rows(6), torch.tensor([5, 9, 5])
    positives = same_image_targets(image_ids, torch.tensor([5, 5, 9, 9, 5, 5]))
    losses = tiny_model.compute_loss(images, texts, image_ids)
    assert_close(losses.loss, contrastive_loss(tiny_model.logit_scale.exp() * images @ texts.T, positives))


@pytest.mark.parametrize("identical", ["negatives", "positives"])
def test_another_images_identical_caption_is_wrong_or_right_as_configured(identical):
    """Captions 1 (of image 0) and 2 (of image 1) are word for word the same."""
    images, texts, caption_ids = unit_rows(2), unit_rows(4), torch.tensor([7, 8, 8, 9])
    model = build(identical_captions=identical)
    right = 1.0 if identical == "positives" else 0.0
    positives = torch.tensor([[1.0, 1.0, right, 0.0], [0.0, right, 1.0, 1.0]])
    losses = model.compute_loss(images, texts, caption_ids=caption_ids)
    assert_close(losses.loss, contrastive_loss(model.logit_scale.exp() * images @ texts.T, positives))


def test_captions_have_one_key_whatever_they_are_padded_to_and_whatever_pads_them():
    ids = torch.tensor([[4, 5, 6, 0, 0], [4, 5, 6, 9, 9], [4, 6, 5, 0, 0], [4, 5, 6, 1, 0], [5, 4, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    keys = caption_keys(ids, mask)
    assert keys[0] == keys[1] and len(set(keys.tolist())) == 4
    assert torch.equal(caption_keys(ids[:3, :3], None), keys[:3])


def test_the_triplet_objective_reads_unscaled_cosines():
    images, texts = unit_rows(3), unit_rows(3)
    losses = build(contrastive_objective="triplet", triplet_margin=0.3).compute_loss(images, texts)
    assert_close(losses.loss, triplet_loss(images @ texts.T, torch.eye(3), 0.3))


@pytest.mark.parametrize(("images", "texts"), [(3, 4), (3, 2)])
def test_an_uneven_number_of_captions_is_refused(tiny_model, images, texts):
    with pytest.raises(ValueError, match=f"same number of captions for every image, but got {texts} texts"):
        tiny_model.compute_loss(unit_rows(images), unit_rows(texts))


def test_rows_in_another_order_give_the_same_loss(tiny_model):
    """What makes gathering over processes simple: the loss knows rows, not ranks."""
    images, texts = unit_rows(4), unit_rows(8)
    image_ids, labels = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 0, 1])
    expected = tiny_model.compute_loss(images, texts, image_ids, labels).loss
    order = torch.tensor([2, 3, 0, 1])  # as if the two processes had swapped their ranks
    text_rows = torch.stack([2 * order, 2 * order + 1], dim=1).flatten()
    assert_close(
        tiny_model.compute_loss(images[order], texts[text_rows], image_ids[order], labels[order]).loss, expected
    )


def test_local_centres_need_the_processes_and_global_ones_ignore_them():
    images, texts, labels = unit_rows(4), unit_rows(4), torch.tensor([0, 1, 0, 1])
    processes = torch.tensor([0, 0, 1, 1])
    for centers, differs in (("global", False), ("local", True)):
        model = build(affiliation_centers=centers)
        whole = model.compute_loss(images, texts, scene_labels=labels).loss
        split = model.compute_loss(images, texts, scene_labels=labels, process_ids=processes).loss
        assert (whole != split).item() == differs


# Savings and switches


def test_row_zero_alone_is_the_same_row(tiny_config):
    layer = PIRTransformerEncoderLayer(tiny_config).eval()
    features, query = torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    mask = torch.zeros(2, 1, 7, 7).index_fill(3, torch.tensor([5, 6]), torch.finfo(torch.float32).min)
    for attention_mask in (None, mask):
        for question in (query, query[:, :1]):
            whole = layer(features, question, attention_mask)
            assert_close(layer(features, question, attention_mask, first_row_only=True), whole[:, :1])


def test_one_query_equals_a_copy_of_it_for_every_row(tiny_config):
    layer = PIRTransformerEncoderLayer(tiny_config).eval()
    features, query = torch.randn(2, 7, 16), torch.randn(2, 1, 16)
    assert_close(layer(features, query), layer(features, query.expand(-1, 7, -1)))


def test_vir_is_its_formula_the_long_way(tiny_config):
    vir = VIR(tiny_config).eval()
    tokens, instruction = torch.randn(3, TOKENS, 16), torch.randn(3, 16)
    local_features, belief_scores, filtered_indices = vir(tokens, instruction)
    for row in range(3):
        order = (tokens[row] @ instruction[row]).argsort(descending=True)[:40]
        features = tokens[row][order][None]
        for layer in vir.layers:
            features = layer(features, instruction[row].expand(1, 40, 16))
        assert torch.equal(filtered_indices[row], order)
        assert_close(local_features[row], vir.head(features)[0, 0])


def test_a_soft_belief_weighs_the_kept_tokens_and_learns(tiny_config):
    tiny_config.soft_belief = True
    vir = VIR(tiny_config).eval()
    tokens, instruction = torch.randn(3, TOKENS, 16), torch.randn(3, 16, requires_grad=True)
    filtered_tokens, _, filtered_indices = vir.filter(tokens, instruction)
    scores = (tokens * instruction[:, None]).sum(-1)
    for row in range(3):
        kept = filtered_indices[row]
        shares = (scores[row, kept] / 4).softmax(dim=0)  # 4 is the root of the width
        assert_close(filtered_tokens[row], tokens[row, kept] * 40 * shares[:, None])
    filtered_tokens.square().sum().backward()
    assert instruction.grad.abs().min() > 0


def test_a_hard_belief_takes_no_gradient(tiny_config):
    tokens, instruction = torch.randn(3, TOKENS, 16), torch.randn(3, 16, requires_grad=True)
    assert not VIR(tiny_config).filter(tokens, instruction)[0].requires_grad


@pytest.mark.parametrize("padded", [False, True])
def test_lca_is_its_formula_the_long_way(tiny_config, padded):
    lca = LCA(tiny_config).eval()
    tokens = torch.randn(2, 7, 16)
    length = 5 if padded else 7
    mask = torch.zeros(2, 1, 7, 7).index_fill(3, torch.arange(length, 7), torch.finfo(torch.float32).min)
    features = tokens[:, :length]
    for layer in lca.layers:
        features = layer(features, features)
    assert_close(lca(tokens, mask), lca.head(features)[:, 0])


@pytest.mark.parametrize("norm_style", ["post", "branch"])
def test_norm_styles_are_their_formulas(norm_style):
    block = PIRAttentionBlock(build_tiny_config(norm_style=norm_style)).eval()
    torch.nn.init.normal_(block.attention_norm.weight)
    residual, query, memory = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    attended = block.attention(query, memory)
    norm1, norm2, feed_forward = block.attention_norm, block.feed_forward_norm, block.feed_forward
    if norm_style == "post":
        middle = norm1(residual + attended)
        expected = norm2(middle + feed_forward(middle))
    else:
        middle = residual + norm1(attended)
        expected = middle + norm2(feed_forward(middle))
    assert_close(block(residual, query, memory), expected)


def test_attention_is_softmax_of_scaled_products(tiny_config):
    attention = PIRAttentionBlock(tiny_config).eval().attention
    query, memory = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        q, k, v = (attention.q_proj(query), attention.k_proj(memory), attention.v_proj(memory))
        weights = torch.softmax(q[0, :, part] @ k[0, :, part].T / math.sqrt(8), dim=1)
        heads.append(weights @ v[0, :, part])
    assert_close(attention(query, memory)[0], attention.out_proj(torch.cat(heads, dim=1)))


@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_changes_text_embeds_only_where_it_is_asked_to(mask_padding):
    model = build(mask_padding=mask_padding)
    short = torch.randint(5, 60, (1, 6))
    padded = F.pad(short, (0, 4))
    alone = model.get_text_features(short, torch.ones_like(short)).pooler_output
    beside = model.get_text_features(padded, (padded > 0).long()).pooler_output
    assert torch.allclose(alone, beside, atol=1e-5) == mask_padding


def test_without_a_mask_every_position_is_a_token(tiny_model, inputs):
    ids = inputs["input_ids"]
    without = tiny_model.get_text_features(ids).pooler_output
    assert_close(without, tiny_model.get_text_features(ids, torch.ones_like(ids)).pooler_output)


def test_what_vir_and_lca_read_is_added_to_the_first_token(tiny_model, inputs):
    with_heads = tiny_model(**inputs)
    vision_outputs = tiny_model.vision_model(inputs["pixel_values"])
    tokens = tiny_model._image_tokens(vision_outputs)
    instruction_embeds, _ = tiny_model._instruct(inputs["pixel_values"])
    assert_close(
        with_heads.vision_model_output.pooler_output, tokens[:, 0] + tiny_model.vir(tokens, instruction_embeds)[0]
    )
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1)):
        states = tiny_model.text_model(inputs["input_ids"][row : row + 1, :length]).last_hidden_state
        tokens = tiny_model.text_projection(states)
        expected = tokens[:, 0] + tiny_model.lca(tokens, None)
        assert_close(with_heads.text_model_output.pooler_output[row], expected[0])


def test_a_sentence_can_be_the_mean_of_its_tokens_and_padding_is_none_of_them(inputs):
    model = build(text_pooling="mean", num_cycles=0)
    embeds = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1)):
        states = model.text_model(inputs["input_ids"][row : row + 1, :length]).last_hidden_state
        assert_close(embeds[row], model.text_projection(states.mean(dim=1))[0])
    whole = model.get_text_features(inputs["input_ids"][:1]).pooler_output  # without padding no mask is needed
    assert_close(whole, embeds[:1])


def test_lca_reads_the_mean_as_the_sentence_and_every_token(inputs):
    model = build(text_pooling="mean")
    states = model.text_model(inputs["input_ids"][:1]).last_hidden_state
    tokens = model.text_projection(torch.cat([states.mean(dim=1, keepdim=True), states], dim=1))
    embeds = model.get_text_features(inputs["input_ids"][:1], inputs["attention_mask"][:1]).pooler_output
    assert_close(embeds, tokens[:, 0] + model.lca(tokens, None))


def test_without_vir_and_lca_it_is_two_projected_towers(inputs):
    model = build(num_instruction_layers=0, num_cycles=0)
    assert model.instruction_model is None and model.vir is None and model.lca is None
    outputs = model(**inputs)
    pooled = model.vision_model(inputs["pixel_values"]).pooler_output
    first = model.text_model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state[:, 0]
    assert_close(outputs.image_embeds, F.normalize(model.visual_projection(pooled), dim=1))
    assert_close(outputs.text_embeds, F.normalize(model.text_projection(first), dim=1))
    assert outputs.belief_scores is None and outputs.filtered_indices is None


def test_without_instruction_vir_reads_all_tokens(inputs):
    model = build(use_instruction=False)
    assert model.instruction_model is None and model.vir is not None
    tokens = torch.randn(2, TOKENS, 16)
    features = tokens
    for layer in model.vir.layers:
        features = layer(features, features)
    local_features, belief_scores, _ = model.vir(tokens, None)
    assert_close(local_features, model.vir.head(features)[:, 0])
    assert belief_scores is None and model(**inputs).belief_scores is None


def test_eager_and_sdpa_agree_and_can_be_switched(inputs):
    model = build()
    assert model.config._attn_implementation == "sdpa"
    expected = embeds_of(model, inputs)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for part in (model, model.vision_model, model.text_model):
            assert part.config._attn_implementation == implementation
        assert_close(embeds_of(model, inputs), expected)


def gradients(model, inputs):
    """Gradient of every parameter, with the dropout of one seed."""
    model.zero_grad()
    torch.manual_seed(1)
    loss_of(model, inputs).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(inputs):
    model = build().train()
    parts = [
        model.vir.layers[0].self_attention_block,
        model.lca.layers[-1].cross_attention_block,
        model.text_model.encoder.layer[0].attention,
        model.vision_model.encoder.layers[1].blocks[0],
    ]
    calls = [0] * len(parts)
    for index, part in enumerate(parts):

        def count(*_, index=index):
            calls[index] += 1

        part.register_forward_pre_hook(count)
    expected = gradients(model, inputs)
    assert calls == [1, 1, 1, 1]
    model.activation_checkpointing_enable({"use_reentrant": False})
    actual = gradients(model, inputs)
    assert calls == [3, 3, 3, 3]
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_close(actual[name], expected[name])


def test_inputs_can_be_made_to_require_gradients_for_adapters(tiny_model, inputs):
    tiny_model.requires_grad_(False)
    tiny_model.enable_input_require_grads()
    outputs = tiny_model(**inputs)
    assert outputs.image_embeds.requires_grad and outputs.text_embeds.requires_grad
    tiny_model.disable_input_require_grads()
    outputs = tiny_model(**inputs)
    assert not outputs.image_embeds.requires_grad and not outputs.text_embeds.requires_grad


def test_word_embeddings_can_be_replaced(tiny_model):
    table = torch.nn.Embedding(7, 16)
    tiny_model.set_input_embeddings(table)
    assert tiny_model.get_input_embeddings() is table is tiny_model.text_model.embeddings.word_embeddings


# Files and formats


def test_a_model_survives_its_folder(tiny_model, inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    expected = embeds_of(tiny_model, inputs)
    for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(loaded, PIRModel) and not loaded.training
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert torch.equal(embeds_of(loaded, inputs), expected)


def test_half_precision_stays_close(tiny_model, inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    half = PIRModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    outputs = half(**inputs | {"pixel_values": inputs["pixel_values"].bfloat16()}, return_loss=True)
    assert outputs.image_embeds.dtype == outputs.text_embeds.dtype == outputs.logits_per_image.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    embeds = torch.cat([outputs.image_embeds, outputs.text_embeds]).float()
    assert F.cosine_similarity(embeds, embeds_of(tiny_model, inputs)).min() > 0.99
