"""Official checkpoints become folders of the same numbers; everything else becomes one sentence and no folder."""

import resource
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.cli.main import main
from modeling_pir.convert import convert_pir_checkpoint_to_hf as converter
from modeling_pir.convert.convert_pir_checkpoint_to_hf import Flags, convert, tokenizer_without_sep
from modeling_pir.convert.state_dict import KeyMismatchError
from tests.reference.official_layout import TINY, Sizes, draw, drawn_checkpoint, resnet_layout
from tests.support.paths import ROOT


@pytest.fixture
def tokenizer(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def sizes(tiny_tokenizer):
    return replace(TINY, vocab_size=len(tiny_tokenizer))


@pytest.fixture
def run(tmp_path, tokenizer):
    """Save a checkpoint and convert it; on failure there must be no folder and nothing half-written beside it."""

    def save_and_convert(checkpoint, flags=None, tokenizer_name=tokenizer, check=False):
        torch.save(checkpoint, tmp_path / "checkpoint.pth")
        before = sorted(tmp_path.iterdir())
        try:
            return convert(tmp_path / "checkpoint.pth", tmp_path / "out", str(tokenizer_name), flags, check)
        except ValueError:
            assert sorted(tmp_path.iterdir()) == before
            raise

    return save_and_convert


def test_converted_folder_is_verified_and_carries_the_official_choices(tmp_path, run, sizes):
    lines = run(drawn_checkpoint(sizes), check=True)
    assert [line.split()[1] for line in lines if line.startswith("verified")] == [
        "image_embeds", "text_embeds", "belief_scores", "the",
    ]  # fmt: skip
    config = PIRModel.from_pretrained(tmp_path / "out").config
    assert (config.num_attention_heads, config.filter_size, config.feedforward_dim) == (2, 30, 32)
    assert (config.num_instruction_layers, config.num_cycles, config.dropout) == (2, 3, 0.2)
    assert (config.mask_padding, config.norm_style, config.freeze_instruction_batch_norm) == (False, "post", False)
    assert (config.affiliation_targets, config.affiliation_centers) == ("identity", "local")


def test_temperatures_become_log_scales(tmp_path, run, sizes):
    checkpoint = drawn_checkpoint(sizes)
    checkpoint["model"] |= {"temp": torch.tensor(0.05), "temp2": torch.tensor(0.02)}
    run(checkpoint)
    model = PIRModel.from_pretrained(tmp_path / "out")
    assert model.logit_scale.exp().item() == pytest.approx(20)
    assert model.affiliation_logit_scale.exp().item() == pytest.approx(50)


def test_baseline_checkpoint_has_neither_vir_nor_lca(tmp_path, run, sizes):
    lines = run(drawn_checkpoint(replace(sizes, num_instruction_layers=0, num_cycles=0)), check=True)
    config = PIRModel.from_pretrained(tmp_path / "out").config
    assert (config.num_instruction_layers, config.num_cycles, config.has_instruction) == (0, 0, False)
    assert sum(line.startswith("verified") for line in lines) == 2
    assert any("taken as given" in line and "heads of BERT (--text-heads)" in line for line in lines)


def test_losses_that_the_run_used_are_read_from_its_configuration(tmp_path, run, sizes):
    checkpoint = drawn_checkpoint(sizes)
    checkpoint["config"] |= {"use_affil_loss": False, "use_triplet_loss": True, "finetune_conv": True}
    run(checkpoint)
    config = PIRModel.from_pretrained(tmp_path / "out").config
    assert (config.affiliation_weight, config.contrastive_objective) == (0, "triplet")
    assert not config.freeze_instruction_encoder


def test_bare_state_dict_asks_for_the_numbers_it_does_not_show(run, sizes):
    state = drawn_checkpoint(sizes)["model"]
    with pytest.raises(ValueError, match="does not say its number of heads: give it with --heads"):
        run(state)
    with pytest.raises(ValueError, match="does not say its filter size: give it with --filter-size"):
        run(state, Flags(heads=2))
    assert run(state, Flags(heads=2, filter_size=30))


def test_processor_cleans_and_writes_no_sep(tmp_path, run, sizes):
    run(drawn_checkpoint(sizes))
    processor = PIRProcessor.from_pretrained(tmp_path / "out")
    ids = processor(text=["Many Planes!", "a " * 60], return_tensors="pt")["input_ids"]
    pieces = [processor.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
    assert pieces[0][:8] == ["[CLS]", "many", "p", "##l", "##a", "##n", "##e", "##s"]
    assert set(pieces[0][8:]) == {"[PAD]"}
    assert pieces[1] == ["[CLS]"] + ["a"] * 30  # 30 words are kept
    uncleaned = processor(text=["a " * 60], clean_captions=False)["input_ids"]
    assert len(uncleaned[0]) == 47
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a").input_ids == ids[1, :2].tolist()


def test_tokenizer_without_sep_survives_a_folder_of_its_own(tmp_path, tiny_tokenizer):
    tokenizer_without_sep(tiny_tokenizer).save_pretrained(tmp_path / "without_sep")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "without_sep")
    assert loaded("a square").input_ids == tiny_tokenizer("a square").input_ids[:-1]
    assert tiny_tokenizer("a").input_ids[-1] == tiny_tokenizer.sep_token_id  # the original is left as it was


def test_official_image_settings(tmp_path, run, sizes):
    run(drawn_checkpoint(sizes))
    pixels = PIRProcessor.from_pretrained(tmp_path / "out")(
        images=torch.full((3, 80, 40), 255, dtype=torch.uint8), return_tensors="pt"
    )["pixel_values"]
    assert pixels.shape == (1, 3, 56, 56)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)  # (1 - mean) / std of CLIP


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Flags(heads=4), "--heads is 4, but the checkpoint's own configuration says 2"),
        (Flags(filter_size=40), "--filter-size is 40, but the checkpoint's own configuration says 30"),
    ],
)
def test_flag_that_contradicts_the_checkpoint_is_refused(run, sizes, flags, message):
    with pytest.raises(ValueError, match=message):
        run(drawn_checkpoint(sizes), flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Flags(heads=3, filter_size=30), r"num_attention_heads \(3\) does not divide projection_dim \(16\)"),
        (Flags(heads=2, filter_size=51), "filter_size is 51, but the vision tower gives 50 tokens"),
        (Flags(heads=2, filter_size=30, text_heads=5), "multiple of the number of attention heads"),
    ],
)
def test_impossible_numbers_are_refused(run, sizes, flags, message):
    with pytest.raises(ValueError, match=message):
        run(drawn_checkpoint(sizes)["model"], flags)


def test_keys_missing_and_left_over_are_all_listed(run, sizes):
    checkpoint = drawn_checkpoint(sizes)
    removed = [key for key in checkpoint["model"] if key.startswith("text_encoder.encoder.layer.1.")][4:16]
    for key in removed:
        del checkpoint["model"][key]
    checkpoint["model"]["conv_encoder.9.weight"] = torch.zeros(2)
    message = r"12 missing \(.*, \.\.\.\); 1 left over \(conv_encoder.9.weight\)"
    with pytest.raises(KeyMismatchError, match=message) as caught:
        run(checkpoint)
    assert len(caught.value.missing) == len(removed)


def test_tensor_of_another_shape_is_refused(run, sizes):
    checkpoint = drawn_checkpoint(sizes)
    checkpoint["model"]["head_img.weight"] = torch.zeros(3, 3)
    with pytest.raises(KeyMismatchError, match=r"1 of another shape \(vir.head.weight \(3, 3\) for \(16, 16\)\)"):
        run(checkpoint)


@pytest.mark.parametrize(
    "key", ["text_encoder.embeddings.word_embeddings.weight", "img_sa.0.ffn.0.weight", "conv_encoder.0.weight"]
)
def test_missing_tensor_that_shows_a_size_is_named(run, sizes, key):
    checkpoint = drawn_checkpoint(sizes)
    del checkpoint["model"][key]
    with pytest.raises(ValueError, match="The tensor .* is missing"):
        run(checkpoint)


def test_checkpoint_of_another_model_is_refused(run):
    with pytest.raises(ValueError, match="not an official PIR checkpoint .* its keys are conv1.weight, bn1.weight"):
        run({"model": draw(resnet_layout(TINY))})


def test_checkpoint_without_tensors_is_refused(run):
    with pytest.raises(ValueError, match="holds no state dict of tensors: its keys are epoch, note"):
        run({"epoch": 3, "note": "hello"})


def test_truncated_file_is_refused(tmp_path, sizes, tokenizer):
    torch.save(drawn_checkpoint(sizes), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut short"):
        convert(tmp_path / "cut.pth", tmp_path / "out", str(tokenizer))
    assert not (tmp_path / "out").exists()


def test_temperature_of_zero_is_refused(run, sizes):
    checkpoint = drawn_checkpoint(sizes)
    checkpoint["model"]["temp"] = torch.tensor(0.0)
    with pytest.raises(ValueError, match="temperature behind logit_scale is 0.0"):
        run(checkpoint)


def test_tokenizer_of_another_vocabulary_is_refused(tmp_path, run, sizes):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "plane"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has 6 pieces, but the checkpoint embeds"):
        run(drawn_checkpoint(sizes), tokenizer_name=tmp_path / "other")


def test_tokenizer_that_cannot_be_had_is_named(run, sizes):
    with pytest.raises(ValueError, match="'google-bert/bert-base-uncased' is neither a folder .* --tokenizer"):
        run(drawn_checkpoint(sizes), tokenizer_name=converter.DEFAULT_TOKENIZER)


def test_verification_notices_one_changed_tensor(monkeypatch, run, sizes):
    def with_a_fault(state, config, source):
        model = convert_weights(state, config, source)
        with torch.no_grad():
            model.lca.layers[2].cross_attention_block.attention.k_proj.weight.mul_(1.1)
        return model

    convert_weights = converter.convert_weights
    monkeypatch.setattr(converter, "convert_weights", with_a_fault)
    with pytest.raises(ValueError, match="text_embeds differ by"):
        run(drawn_checkpoint(sizes), check=True)


def test_command_prints_what_was_checked(tmp_path, capsys, sizes, tokenizer):
    torch.save(drawn_checkpoint(sizes), tmp_path / "checkpoint.pth")
    arguments = ["convert", tmp_path / "checkpoint.pth", tmp_path / "out", "--tokenizer", tokenizer, "--verify"]
    arguments = [str(argument) for argument in arguments]
    assert main(arguments) == 0
    assert "verified: image_embeds (2, 16) within" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_full_size_takes_less_than_30_seconds_and_3_gib(tmp_path):
    torch.save(drawn_checkpoint(Sizes()), tmp_path / "full.pth")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(30522 - 5))]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "tokenizer")
    paths = [str(tmp_path / name) for name in ("full.pth", "out", "tokenizer")]
    script = "import sys; from modeling_pir.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "convert", *paths[:2], "--tokenizer", paths[2]]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run([*command, "--verify"], cwd=ROOT, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stderr
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / 2**20  # GiB on Linux
    print(f"{run.stdout}{seconds:.0f} s, {cpu_seconds:.0f} s of CPU, {peak:.2f} GiB, imports and verification included")
    assert "184,642,492 weights" in run.stdout and run.stdout.count("verified") == 4
    assert peak < 3
    assert cpu_seconds < 60  # of two cores in 30 s; the clock on the wall depends on what else runs
