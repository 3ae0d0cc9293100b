"""The model in the hands of the ecosystem: loading in other forms, other trainers, other people's metrics."""

import json
import shutil

import evaluate
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, Trainer, TrainingArguments

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.processing_pir import build_image_processor
from tests.support.paths import ROOT
from training.data.items import TrainCollator, TrainItems
from training.data.rows import scene_names
from training.data.sources import load_image_captions
from training.evaluation.metrics import retrieval_metrics

RECALL = ROOT / "hub_configs" / "retrieval_recall"


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_processor):
    """The tiny model as a folder."""
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def batch(tiny_processor, tiny_images, tiny_captions):
    """One caption for each image."""
    return tiny_processor(images=tiny_images, text=[captions[0] for captions in tiny_captions], return_tensors="pt")


@pytest.fixture
def items(tiny_dataset):
    rows = load_image_captions(str(tiny_dataset), "train")
    return TrainItems(rows, scene_names(rows), captions_per_image=1, image_size=32, augment=False)


@torch.no_grad()
def similarity(model, batch):
    output = model(**batch)
    return output.image_embeds.float() @ output.text_embeds.float().T


# Loading


def test_bfloat16_weights_give_nearly_the_same_similarity(folder, tiny_model, batch):
    half = PIRModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    batch_half = batch | {"pixel_values": batch["pixel_values"].bfloat16()}
    assert (similarity(half, batch_half) - similarity(tiny_model, batch)).abs().max() < 0.05


def test_device_map_auto_with_offload_to_disk_gives_the_same_similarity(folder, tiny_model, batch, tmp_path):
    model = PIRModel.from_pretrained(
        folder, device_map="auto", max_memory={"cpu": "120KB"}, offload_folder=tmp_path / "offload"
    )
    assert "disk" in model.hf_device_map.values()
    torch.testing.assert_close(similarity(model, batch), similarity(tiny_model, batch))


@pytest.mark.slow
def test_int8_weights_give_nearly_the_same_similarity(folder, tiny_model, batch):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    model = PIRModel.from_pretrained(folder, quantization_config=config)
    assert "Int8" in type(model.text_projection.weight).__name__
    assert (similarity(model, batch) - similarity(tiny_model, batch)).abs().max() < 0.05


# Training


def test_lora_on_both_towers_trains_adapters_alone_and_loads_again(tiny_model, batch, tmp_path):
    before = similarity(tiny_model, batch)
    towers = r"(vision_model|text_model).*\.(q_proj|v_proj|query|value)"
    model = get_peft_model(tiny_model, LoraConfig(r=4, target_modules=towers))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {"vision_model" in name for name in trained} == {True, False}
    assert all("lora_" in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(**batch, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "adapter")
    after = similarity(model.eval(), batch)
    assert not torch.allclose(before, after)
    plain = model.unload()
    torch.testing.assert_close(similarity(plain, batch), before)
    torch.testing.assert_close(similarity(PeftModel.from_pretrained(plain, tmp_path / "adapter"), batch), after)


@pytest.mark.parametrize("remove_unused_columns", [True, False])
def test_transformers_trainer_trains_with_our_collator(
    tiny_model, tiny_processor, items, tmp_path, caplog, remove_unused_columns
):
    before = {name: parameter.clone() for name, parameter in tiny_model.named_parameters()}
    arguments = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=1e-3,
        remove_unused_columns=remove_unused_columns, report_to="none", use_cpu=True, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    collate = TrainCollator(tiny_processor, return_loss=True)
    trainer = Trainer(tiny_model, arguments, collate, train_dataset=items, eval_dataset=items)
    assert trainer.train().training_loss > 0
    assert trainer.evaluate()["eval_loss"] > 0
    assert caplog.text.count("no scene_label") == int(remove_unused_columns)
    for name, parameter in tiny_model.named_parameters():
        rests = name.startswith("instruction_model.") or (name == "affiliation_logit_scale" and remove_unused_columns)
        assert torch.equal(parameter, before[name]) == rests, name


def test_datasets_map_embeds_a_column(tiny_model, tiny_processor, tiny_images):
    def embed(rows):
        inputs = tiny_processor(images=rows["image"], return_tensors="pt")
        with torch.no_grad():
            return {"embeds": tiny_model.get_image_features(**inputs).pooler_output.numpy()}

    rows = Dataset.from_dict({"image": tiny_images}).map(embed, batched=True, batch_size=2)
    expected = tiny_model.get_image_features(**tiny_processor(images=tiny_images, return_tensors="pt")).pooler_output
    torch.testing.assert_close(torch.tensor(rows["embeds"][:]), expected, atol=1e-5, rtol=0)


# What is ready to be pushed


@pytest.mark.parametrize("name", ["pir-rsicd", "pir-rsitmd"])
def test_shipped_configuration_has_every_field_and_the_papers_size(name):
    values = json.loads((ROOT / "hub_configs" / name / "config.json").read_text())
    config = PIRConfig.from_pretrained(ROOT / "hub_configs" / name)
    assert set(PIRConfig.__annotations__) <= set(values)
    with torch.device("meta"):
        model = PIRModel(config)
    assert model.num_parameters() == 184_642_492  # of the official model, counted there
    assert model.num_parameters(only_trainable=True) == 161_134_460


@pytest.mark.parametrize("name", ["pir-rsicd", "pir-rsitmd"])
def test_shipped_processor_settings_are_the_official_ones(name, tiny_tokenizer):
    folder = ROOT / "hub_configs" / name
    image_processor = AutoImageProcessor.from_pretrained(folder)
    assert image_processor.to_dict() == build_image_processor(224).to_dict()
    assert json.loads((folder / "processor_config.json").read_text())["caption_cleaning"] is True
    assert PIRProcessor(image_processor, tiny_tokenizer, caption_cleaning=True).caption_cleaning


@pytest.fixture
def recall_module(tmp_path):
    """The metric's folder as it is published: with the one file of metrics beside it."""
    folder = tmp_path / "retrieval_recall"
    shutil.copytree(RECALL, folder)
    shutil.copy(ROOT / "training" / "evaluation" / "metrics.py", folder)
    return folder


def test_the_evaluate_module_gives_the_numbers_of_the_metric(recall_module):
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))  # (texts, images)
    text_to_image = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0])
    expected = retrieval_metrics(scores.T, text_to_image, ks=(1, 2))
    recall = evaluate.load(str(recall_module))
    assert recall.compute(predictions=scores.numpy(), references=text_to_image.numpy(), ks=(1, 2)) == expected
    recall.add_batch(predictions=scores[:7].tolist(), references=text_to_image[:7].tolist())
    recall.add_batch(predictions=scores[7:].tolist(), references=text_to_image[7:].tolist())
    assert recall.compute(ks=(1, 2)) == expected


def test_the_evaluate_modules_page_shows_a_true_example(recall_module):
    code = (RECALL / "README.md").read_text().split("```python\n")[1].split("```")[0]
    example = {}
    exec(
        code.replace('"retrieval_recall"', repr(str(recall_module))).replace(
            "recall.compute(", "result = recall.compute("
        ),
        example,
    )
    assert example["result"]["i2t_R@1"] == example["result"]["t2i_R@1"] == example["result"]["mR"] == 100.0
