"""The kinds of towers that README names, tiny and random, what is asked of each pair, and docs/towers.md.

python -m tests.support.towers        # computes the page anew, some minutes on two cores
"""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import BertTokenizer

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.hub.publish import write_hub_folder
from modeling_pir.processing_pir import build_image_processor
from tests.support.paths import ROOT
from tests.support.tiny import IMAGE_SIZE, build_tiny_config, model_fields, tiny_vocabulary, write_tiny_dataset
from training import train as train_module
from training.config import TrainConfig
from training.loop.grad_cache import cached_backward
from training.loop.joint_loss import joint_losses
from training.loop.optim import parameter_groups
from training.model.adapters import add_lora, freeze_modules, without_adapters
from training.model.batch_norm import check_chunks
from training.run.checkpoint import Preempted

PAGE = ROOT / "docs" / "towers.md"
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT_SIZE = SIZE | {"max_position_embeddings": 64, "vocab_size": 200, "pad_token_id": 0}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VISION = {
    "ResNet": {
        "model_type": "resnet", "layer_type": "basic", "embedding_size": 16, "hidden_sizes": [16, 16], "depths": [1, 1],
    },
    "timm EfficientNet": {"model_type": "timm_wrapper", "architecture": "test_efficientnet"},
    "Swin": {
        "model_type": "swin", "image_size": IMAGE_SIZE, "patch_size": 2, "embed_dim": 8, "depths": [1, 2],
        "num_heads": [1, 2], "window_size": 4, "drop_path_rate": 0.0,
    },
    "CLIP": {"model_type": "clip_vision_model", "image_size": IMAGE_SIZE, "patch_size": 8, **SIZE},
    "timm Swin": {
        "model_type": "timm_wrapper", "architecture": "swin_tiny_patch4_window7_224",
        "model_args": {
            "img_size": IMAGE_SIZE, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2],
            "window_size": 4, "drop_path_rate": 0.0,
        },
    },
    "SigLIP": {"model_type": "siglip_vision_model", "image_size": IMAGE_SIZE, "patch_size": 8, **SIZE},
}  # fmt: skip
TEXT = {
    "BERT": {"model_type": "bert", **TEXT_SIZE, **NO_DROPOUT},
    "RoBERTa": {"model_type": "roberta", **TEXT_SIZE, **NO_DROPOUT, "bos_token_id": 2, "eos_token_id": 3},
    "CLIP": {"model_type": "clip_text_model", **TEXT_SIZE, "bos_token_id": 2, "eos_token_id": 3},
    "DistilBERT": {
        "model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0,
        "attention_dropout": 0.0, "max_position_embeddings": 64, "vocab_size": 200, "pad_token_id": 0,
    },
    "SigLIP": {"model_type": "siglip_text_model", **TEXT_SIZE, "bos_token_id": 2, "eos_token_id": 3},
}  # fmt: skip
OFTEN = (("ResNet", "timm EfficientNet", "Swin", "CLIP"), ("BERT", "RoBERTa", "CLIP"))  # each with each
PAIRS = [*itertools.product(*OFTEN), ("timm Swin", "DistilBERT"), ("SigLIP", "SigLIP")]
COLUMNS = ("trains", "chunks", "freeze", "LoRA", "layer decay", "sdpa", "publish, load", "resume", "two processes")


def build_pair(vision, text):
    """A model of two kinds of towers, without dropout."""
    torch.manual_seed(0)
    config = build_tiny_config(vision_config=VISION[vision], text_config=TEXT[text], filter_size=2, dropout=0.0)
    return PIRModel(config)


def make_batch(num_images=4):
    """Model inputs of images with two captions each, image ids, and scene labels."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 100, (2 * num_images, 9), generator=generator)
    input_ids[:, 8] = 3  # [SEP], where CLIP's text tower pools
    images = torch.randn(num_images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    inputs = {"pixel_values": images, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return inputs, torch.arange(num_images), torch.arange(num_images) % 2


def backward(model):
    """Fill the gradients of the plain batch."""
    inputs, *ids = make_batch()
    outputs = model(**inputs)
    joint_losses(model, outputs.image_embeds, outputs.text_embeds, *ids, 0).loss.backward()


def step(model):
    """Three steps of AdamW; the state before and after."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    return before, model.state_dict()


def changed(before, after):
    """Names of what is not the same to the last bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def trains(vision, text):
    """Every weight that can get a gradient moves, in both towers."""
    moved = changed(*step(build_pair(vision, text).train()))
    return all(
        any(name.startswith(part) for name in moved) for part in ("vision_model.", "text_model.", "vir.", "lca.")
    )


def chunks(vision, text):
    """Chunks give the gradient of the whole batch, or are refused."""
    model = build_pair(vision, text).train()
    try:
        check_chunks(model, 1)
    except ValueError:
        freeze_modules(model, ["vision_model"])
        model.train()
        check_chunks(model, 1)  # what the refusal advises has to work
        word = "refused while its BatchNorm is live"
    else:
        word = "yes"
    backward(model)
    plain = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    inputs, *ids = make_batch()
    cached_backward(Accelerator(cpu=True), model, inputs, *ids, 1)
    for name, weight in model.named_parameters():
        if name in plain:
            scale = max(plain[name].abs().max().item(), 1.0)
            assert (weight.grad - plain[name]).abs().max().item() < 1e-5 * scale, name
    return word


def freeze(vision, text):
    """What is frozen does not move by a bit, nor do its statistics."""
    model = build_pair(vision, text)
    freeze_modules(model, ["vision_model", "text_model"])
    moved = changed(*step(model.train()))
    return bool(moved) and not any(name.startswith(("vision_model.", "text_model.")) for name in moved)


def lora(vision, text):
    """Adapters train in both towers, nothing else there moves, and the merged model computes the same."""
    model = build_pair(vision, text)
    add_lora(model, 2)
    moved = changed(*step(model.train()))
    of_towers = {name for name in moved if name.startswith(("vision_model.", "text_model."))}
    assert all("lora_" in name for name in of_towers), sorted(of_towers)[:3]
    merged = without_adapters(model).eval()
    assert not any("lora_" in name or "base_layer" in name for name in merged.state_dict())
    with torch.no_grad():
        inputs = make_batch()[0]
        left, right = model.eval()(**inputs), merged(**inputs)
        torch.testing.assert_close(left.image_embeds, right.image_embeds, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(left.text_embeds, right.text_embeds, atol=1e-5, rtol=1e-5)
    return all(any(name.startswith(part) for name in of_towers) for part in ("vision_model.", "text_model."))


def layer_decay(vision, text):
    """Each tower has a rate for each of its blocks; the first layers learn most slowly."""
    model = build_pair(vision, text)
    groups = parameter_groups(model, 0.0, 1.0, 0.5)
    rate_of = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    rates = {}
    for part in ("vision_model", "text_model"):
        rates[part] = [rate_of[id(weight)] for weight in model.get_submodule(part).parameters()]
    return all(len(set(values)) >= 3 and values[0] == min(values) < 0.5 for values in rates.values())


def sdpa(vision, text):
    """Loading with `attn_implementation="sdpa"` gives what eager attention gives."""
    model = build_pair(vision, text).eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        model.save_pretrained(folder)
        loaded = PIRModel.from_pretrained(folder, attn_implementation="sdpa")
        model.set_attn_implementation("eager")
        left, right = (one(**make_batch()[0]) for one in (model, loaded))
    assert loaded.config._attn_implementation == "sdpa" and model.config._attn_implementation == "eager"
    return torch.allclose(left.logits_per_image, right.logits_per_image, atol=1e-4)


def publish_and_load(vision, text, processor):
    """The folder for the Hub loads whole, and computes the same."""
    model = build_pair(vision, text).eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        source, published = Path(folder) / "model", Path(folder) / "published"
        published.mkdir()
        model.save_pretrained(source)
        processor.save_pretrained(source)
        write_hub_folder(source, published)
        loaded, _ = load_pretrained(published)
        left, right = (one(**make_batch()[0]) for one in (model, loaded))
    return torch.equal(left.logits_per_image, right.logits_per_image)


IN_PROCESS = {
    "trains": trains, "chunks": chunks, "freeze": freeze, "LoRA": lora, "layer decay": layer_decay, "sdpa": sdpa,
}  # fmt: skip


def resume(vision, text, data, folder):
    """A run that is stopped behind its first step and resumed ends with the bits of one that was not."""
    whole, cut = (run_config(vision, text, data, folder / name, epochs=3) for name in ("whole", "cut"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "finish_run", lambda *_: None)
        train_module.train(whole)
        patch.setattr(train_module, "is_told_to_stop", lambda *_: True)
        with contextlib.suppress(Preempted):
            train_module.train(cut)
        patch.setattr(train_module, "is_told_to_stop", lambda *_: False)
        train_module.train(cut, resume=True)
    left, right = (load_file(f"{config.output_dir}/last/model.safetensors") for config in (whole, cut))
    return left.keys() == right.keys() and not changed(left, right)


def run_config(vision, text, data, output_dir, epochs=20):
    """A run of a pair, a step an epoch, without randomness that depends on the number of processes."""
    model = model_fields(build_tiny_config(vision_config=VISION[vision], text_config=TEXT[text], filter_size=2))
    model |= {"dropout": 0.0, "filter_size": 2, "vision_config": VISION[vision], "text_config": TEXT[text]}
    return TrainConfig(
        output_dir=str(output_dir), data=str(data), model=model, vocab_size=200, captions_per_image=2,
        epochs=epochs, batch_size=4, learning_rate=1e-4, image_size=IMAGE_SIZE, evaluate_every=epochs,
        evaluation_batch_size=4,
    )  # fmt: skip


def largest_difference(one, two):
    """Between the weights of two runs; biases of keys are left out, whose gradient is rounding that AdamW scales up."""
    keys = ("k_proj.bias", "key.bias")
    left, right = (load_file(f"{folder}/last/model.safetensors") for folder in (one, two))
    names = [name for name in left if not name.endswith(keys) and left[name].is_floating_point()]
    return max((left[name].float() - right[name].float()).abs().max().item() for name in names)


NOTES = """\
In bfloat16 the attentions `eager` and `sdpa` differ, and each is equally far from float32: the entry of a text
embedding that differs most is off by 0.006 at width 16 and by 0.002 at width 256 (means of eight and of five random
models, three cycles of LCA). No single step is to blame: 0.004 remain with LCA's attention alone in float32, 0.005
with its residuals and norms, 0.003 with its whole blocks, 0.001 with all of LCA, and that is BERT's share. bfloat16
keeps 8 bits of every intermediate result. Where near ties matter, embed in float32.

A ResNet of 8 channels was reported to abort in its backward pass ("double free"). With torch 2.14.1 on an AMD EPYC
this could not be reproduced (basic and bottleneck layers of 4, 8 and 16 channels, inside PIR and alone, contiguous and
channels-last, on one thread and two).
"""


def table(rows):
    """The page: a line for each pair, a column for each answer."""
    lines = [
        "# Which towers can be combined, and what works with each",
        "",
        "Made by `python -m tests.support.towers` from tiny towers with random weights on a CPU; the tests in",
        "tests/training/model/test_towers.py check the same. `chunks`: gradient caching gives the gradient of the",
        'whole batch within 1e-5; it is refused while BatchNorm uses batch statistics ("live"). `freeze`: a frozen',
        "tower does not change by a bit. `LoRA`: adapters train in both towers and are merged when saved. `two",
        "processes`: the largest difference between a weight after 20 steps of AdamW at 1e-4 and the same weight",
        "trained in one process (biases of attention keys left out). `resume`: a run that is stopped and resumed",
        "ends with identical weights.",
        "",
        "| vision tower | text tower | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + f"\n\n{NOTES}"


def train_pairs(data, folder, num_processes):
    """Train every pair in a launch of some processes; the launcher starts once for all of them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, "-m", "tests.support.train_pairs", str(data), str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)


def answers(folder):
    """A row for each pair: its towers and what each check says."""
    tokenizer = BertTokenizer(vocab=tiny_vocabulary(), model_max_length=47)
    processor = PIRProcessor(build_image_processor(IMAGE_SIZE), tokenizer)
    data = write_tiny_dataset(folder / "data")
    for number in (1, 2):
        train_pairs(data, folder / str(number), number)
    for number, (vision, text) in enumerate(PAIRS):
        found = [check(vision, text) for check in IN_PROCESS.values()]
        found += [publish_and_load(vision, text, processor), resume(vision, text, data, folder / f"resume{number}")]
        words = [{True: "yes", False: "no"}.get(answer, answer) for answer in found]
        difference = largest_difference(folder / "1" / str(number), folder / "2" / str(number))
        yield [vision, text, *words, f"{difference:.0e}"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(table(list(answers(Path(place)))))
