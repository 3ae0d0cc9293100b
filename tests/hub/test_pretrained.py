"""One strict loader: a model that is not whole is refused by name, by every command, without a traceback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_pir.hub.pretrained import CHECKSUMS, load_pretrained, write_checksums
from modeling_pir.inference.encoder import load_encoder
from tests.support.paths import ROOT
from tests.support.tiny_clip import save_clip


@pytest.fixture
def folder(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})


def change_json(folder, name, **fields):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def spoil(state):
    state["lca.head.weight"][0, 0] = float("nan")
    return state


WEIGHTS = {
    "lca missing": (lambda s: {k: v for k, v in s.items() if not k.startswith("lca.")}, "missing .lca"),
    "all renamed": (lambda s: {f"module.{k}": v for k, v in s.items()}, "missing .*unexpected .module"),
    "one too many": (lambda s: s | {"extra.weight": torch.ones(2)}, "1 unexpected .extra.weight"),
    "another shape": (lambda s: s | {"lca.head.bias": torch.ones(3)}, "1 of another shape .lca.head.bias"),
    "not finite": (spoil, "lca.head.weight holds values that are not finite"),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_are_not_those_of_the_configuration_are_named(folder, fault):
    change, message = WEIGHTS[fault]
    change_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def break_json(folder):
    (folder / "tokenizer_config.json").write_text('{"a": ')


def null_field(folder):
    change_json(folder, "config.json", projection_dim=None)


def text_field(folder):
    change_json(folder, "config.json", vision_config="swin")


def wrong_form(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": []}')


def larger_tokenizer(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["text_config"]["pad_token_id"] = 7
    path.write_text(json.dumps(values))


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def pickle_alone(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


FILES = {
    break_json: "tokenizer_config.json is not JSON", null_field: "projection_dim|damaged", text_field: "damaged|vision",
    wrong_form: "cannot be loaded", larger_tokenizer: "its padding token is 0, which should be 7",
    pointer: "pointer of Git LFS.*git lfs pull", pickle_alone: "as a pickle .pytorch_model.bin",
    no_weights: "no weights",
}  # fmt: skip


@pytest.mark.parametrize("change", FILES, ids=lambda change: change.__name__)
def test_a_broken_file_gets_one_sentence(folder, change):
    change(folder)
    with pytest.raises(ValueError, match=FILES[change]):
        load_pretrained(folder)


def test_a_changed_byte_is_seen_by_the_checksums(folder):
    write_checksums(folder)
    load_pretrained(folder)
    for name in ("config.json", "model.safetensors", "processor_config.json", "tokenizer.json"):
        copy = folder.with_name(f"copy of {name}")
        shutil.copytree(folder, copy)
        content = bytearray((copy / name).read_bytes())
        content[-2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}"):
            load_pretrained(copy)
    shutil.copytree(folder, folder.with_name("own"))
    change_json(folder.with_name("own"), "config.json", dropout=0.3)
    with pytest.raises(ValueError, match=f"remove {CHECKSUMS} if you changed the model"):
        load_pretrained(folder.with_name("own"))


def test_a_file_instead_of_a_folder_is_said(folder):
    with pytest.raises(ValueError, match="is a file"):
        load_pretrained(folder / "model.safetensors")


@pytest.mark.slow
def test_three_hundred_mutated_folders_give_no_traceback_and_no_other_model(folder):
    write_checksums(folder)
    generator = torch.Generator().manual_seed(0)

    def draw(bound):
        return int(torch.randint(bound, (), generator=generator))

    names = sorted(file.name for file in folder.iterdir() if file.name != CHECKSUMS)
    wrong = []
    for number in range(300):
        copy = folder.with_name(f"mutant_{number}")
        shutil.copytree(folder, copy)
        path = copy / names[draw(len(names))]
        content = bytearray(path.read_bytes())
        place = draw(len(content))
        kind = draw(3)
        if kind == 0:
            content[place] ^= 1 << draw(8)
        else:
            del content[place : None if kind == 1 else place + 1 + draw(50)]
        path.write_bytes(content)
        try:
            load_pretrained(copy)
            wrong.append(f"{path.name} {kind}: loaded")
        except ValueError as error:
            assert "\n" not in str(error), str(error)
        shutil.rmtree(copy)
    assert not wrong, wrong


@pytest.mark.slow
def test_commands_refuse_a_model_without_its_lca(folder, tiny_dataset, tmp_path):
    change_weights(folder, WEIGHTS["lca missing"][0])
    pir = ["-c", "from modeling_pir.cli.main import main; raise SystemExit(main())"]
    commands = [
        [*pir, "index", tiny_dataset / "test", "--index", tmp_path / "index", "--model", folder],
        ["-m", "training.evaluate", "--model", folder, "--data", tiny_dataset],
    ]
    for command in commands:
        done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode and "Traceback" not in done.stderr, done.stderr[-500:]
        assert "missing (lca" in done.stderr, done.stderr[-500:]


def test_a_configuration_that_the_checks_of_transformers_refuse_gets_one_sentence(folder):
    change_json(folder, "config.json", affiliation_targets="sCene")
    with pytest.raises(ValueError, match="affiliation_targets"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {name: value for name, value in state.items() if "text_projection" not in name}, "1 missing"),
        (
            lambda state: state | {"logit_scale": torch.tensor(torch.nan)},
            "logit_scale holds values that are not fin",
        ),
    ],
    ids=["missing", "not finite"],
)
def test_weights_of_another_dual_encoder_are_whole_too(tiny_tokenizer, tmp_path, change, message):
    clip = Path(save_clip(tmp_path / "clip", tiny_tokenizer))
    change_weights(clip, change)
    with pytest.raises(ValueError, match=message):
        load_encoder(str(clip))


def test_a_damaged_configuration_of_another_dual_encoder_gets_one_sentence(tiny_tokenizer, tmp_path):
    clip = Path(save_clip(tmp_path / "clip", tiny_tokenizer))
    change_json(clip, "config.json", projection_dim="wide")
    with pytest.raises(ValueError, match="clip.* cannot be loaded: .*projection_dim"):
        load_encoder(str(clip))
