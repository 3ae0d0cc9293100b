"""Start weights in their authors' layout: every tensor arrives, or one sentence says which did not."""

import os
import pickle
import sys
from pathlib import Path

import pytest
import timm
import torch
from transformers import AutoModel, BertConfig, BertModel, ResNetModel, TimmWrapperConfig

from modeling_pir import PIRConfig, PIRModel
from modeling_pir.convert.backbones import convert_backbone, load_instruction_weights, main, resnet_config
from modeling_pir.convert.official_forward import resnet, swin
from modeling_pir.convert.state_dict import KeyMismatchError, read_checkpoint
from tests.reference.official_layout import TINY, draw, resnet_layout, swin_layout, under, weight_and_bias
from training.loop.optim import parameter_groups

SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def resnet_state():
    """A ResNet with torchvision's names and a classifier, as in RSP's and AID's files."""
    return draw(resnet_layout(TINY) | weight_and_bias("fc", 30, 128))


def sequential(state):
    """The names the official code gives the same tensors."""
    return {
        f"conv_encoder.{SEQUENTIAL[key.split('.')[0]]}.{key.split('.', 1)[1]}": value
        for key, value in state.items()
        if not key.startswith("fc.")
    }


def swin_state():
    """A Swin with Microsoft's names and a classifier."""
    return draw(swin_layout(TINY) | weight_and_bias("head", 10, 24))


def timm_names(state):
    """The same tensors as timm names them."""
    names = {key: key.replace("layers.0.downsample.", "layers.1.downsample.") for key in state}
    return {names[key].replace("head.", "head.fc."): value for key, value in state.items()}


def saved(path, state, key="model"):
    torch.save({key: state} if key else state, path)
    return path


@pytest.fixture
def model(tiny_config):
    """A PIR whose instruction tower has the sizes of `resnet_state`."""
    fields = tiny_config.to_dict() | {"instruction_config": resnet_config(resnet_state()).to_dict()}
    fields.pop("model_type")
    return PIRModel(PIRConfig(**fields)).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 56, 56)


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_instruction_tower_computes_the_torchvision_resnet(tmp_path, model, images, key):
    state = resnet_state()
    report = load_instruction_weights(model, saved(tmp_path / "resnet.pth", state, key))
    features = model.instruction_model(images).pooler_output.flatten(1)
    torch.testing.assert_close(features, resnet(sequential(state), images, live=False), atol=1e-5, rtol=0)
    assert report.startswith(f"{len(state) - 2} tensors") and "without its classifier (fc.weight, fc.bias)" in report


def test_loaded_instruction_tower_stays_frozen(tmp_path, model):
    load_instruction_weights(model, saved(tmp_path / "resnet.pth", resnet_state()))
    trained = {id(weight) for group in parameter_groups(model, 0.01, 1e-3) for weight in group["params"]}
    assert not any(id(weight) in trained for weight in model.instruction_model.parameters())


def test_names_of_the_official_wrapping_are_refused_not_skipped(tmp_path, model):
    state = {key.removeprefix("conv_encoder."): value for key, value in sequential(resnet_state()).items()}
    with pytest.raises(ValueError, match="nor an EfficientNet; its first keys are 0.weight"):
        load_instruction_weights(model, saved(tmp_path / "wrapped.pth", state))


def test_missing_and_left_over_keys_are_all_listed_and_nothing_is_loaded(tmp_path, model):
    state = resnet_state()
    missing = [key for key in state if key.startswith("layer4.0.bn") and key.endswith("weight")]
    for key in missing:
        del state[key]
    state |= {f"extra.{number:02}": torch.zeros(1) for number in range(12)}
    before = {key: value.clone() for key, value in model.instruction_model.state_dict().items()}
    message = r"3 missing \(.*12 left over \(extra.00, .*extra.09, \.\.\.\)"
    with pytest.raises(KeyMismatchError, match=message) as caught:
        load_instruction_weights(model, saved(tmp_path / "broken.pth", state))
    assert len(caught.value.missing) == 3 and len(caught.value.unexpected) == 12
    assert all(torch.equal(value, before[key]) for key, value in model.instruction_model.state_dict().items())


def test_resnet_of_another_width_is_refused(tmp_path, model):
    state = draw(resnet_layout(TINY.__class__(resnet_depths=(1, 1, 1, 1), resnet_width=8)))
    with pytest.raises(KeyMismatchError, match="of another shape"):
        load_instruction_weights(model, saved(tmp_path / "wide.pth", state))


def test_step_counters_may_be_absent(tmp_path):
    state = {key: value for key, value in resnet_state().items() if not key.endswith("num_batches_tracked")}
    tower, _ = convert_backbone(saved(tmp_path / "old.pth", state))
    assert isinstance(tower, ResNetModel)


def test_model_without_instruction_tower_is_refused(tmp_path, tiny_config):
    tiny_config.num_instruction_layers = 0
    with pytest.raises(ValueError, match="no instruction tower"):
        load_instruction_weights(PIRModel(tiny_config), saved(tmp_path / "resnet.pth", resnet_state()))


def test_saved_tower_folder_is_loaded(tmp_path, model, images):
    tower, _ = convert_backbone(saved(tmp_path / "resnet.pth", resnet_state()))
    tower.save_pretrained(tmp_path / "tower")
    report = load_instruction_weights(model, tmp_path / "tower")
    torch.testing.assert_close(model.instruction_model(images).pooler_output, tower(images).pooler_output)
    assert "tensors of ResNetModel" in report


def test_timm_tower_takes_a_torchvision_file_and_a_timm_folder(tmp_path, tiny_config):
    source = timm.create_model("resnet18", num_classes=5)
    state = {key: torch.randn_like(value) if value.dim() > 1 else value for key, value in source.state_dict().items()}
    fields = tiny_config.to_dict() | {"instruction_config": TimmWrapperConfig(architecture="resnet18").to_dict()}
    fields.pop("model_type")
    model = PIRModel(PIRConfig(**fields)).eval()
    load_instruction_weights(model, saved(tmp_path / "resnet18.pth", state))
    assert torch.equal(model.instruction_model.timm_model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    model.instruction_model.save_pretrained(tmp_path / "tower")
    with torch.no_grad():
        model.instruction_model.timm_model.conv1.weight.zero_()
    load_instruction_weights(model, tmp_path / "tower")
    assert torch.equal(model.instruction_model.timm_model.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("names", ["microsoft", "timm"])
def test_swin_file_computes_the_same_tokens(tmp_path, images, names):
    state = swin_state()
    tower, report = convert_backbone(saved(tmp_path / "swin.pth", timm_names(state) if names == "timm" else state))
    expected = swin(under("vision_encoder", state), images)
    outputs = tower(images)
    torch.testing.assert_close(outputs.last_hidden_state, expected[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.pooler_output, expected[:, 0], atol=1e-5, rtol=0)
    assert "without its classifier" in report


EXPANDING = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2")


def efficientnet_state(model):
    """One of timm's tensors under the names of efficientnet_pytorch, which has the same layers in the same order."""
    state, names = model.state_dict(), {}
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    blocks = list(dict.fromkeys(".".join(layer.split(".")[:3]) for layer in layers if layer.startswith("blocks")))
    for number, block in enumerate(blocks):
        own = [layer for layer in layers if layer.startswith(f"{block}.")]
        theirs = [name for name in EXPANDING if "_se_" not in name or any(".se." in layer for layer in own)]
        for layer, name in zip(own, theirs[len(theirs) - len(own) :], strict=True):
            names[layer] = f"_blocks.{number}.{name}"
    names |= {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    return {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}


@pytest.fixture
def build_efficientnet():
    """A function that builds one of timm's with random weights and statistics."""

    def build(name):
        model = timm.create_model(name, num_classes=3).eval()
        for key, value in model.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
        return model

    return build


@pytest.mark.parametrize(("name", "mean"), [("tf_efficientnet_lite0", 0.5), ("tf_efficientnet_b0", 0.485)])
def test_efficientnet_file_computes_what_timm_computes(tmp_path, build_efficientnet, name, mean):
    model, images = build_efficientnet(name), torch.randn(1, 3, 64, 64)
    tower, report = convert_backbone(saved(tmp_path / "efficientnet.pth", efficientnet_state(model), None))
    torch.testing.assert_close(tower(images).last_hidden_state, model.forward_features(images))
    assert tower.config.pretrained_cfg["mean"][0] == mean and "without its classifier (_fc.weight, _fc.bias)" in report
    tower.save_pretrained(tmp_path / "tower")
    loaded = AutoModel.from_pretrained(tmp_path / "tower")
    assert loaded.config.pretrained_cfg == tower.config.pretrained_cfg
    torch.testing.assert_close(loaded(images).pooler_output, tower(images).pooler_output)


def test_an_efficientnet_that_lacks_a_tensor_or_has_one_too_many_is_refused(tmp_path, build_efficientnet):
    state = efficientnet_state(build_efficientnet("tf_efficientnet_lite0"))
    state["_blocks.3._other.weight"] = state.pop("_blocks.3._project_conv.weight")
    with pytest.raises(KeyMismatchError) as error:
        convert_backbone(saved(tmp_path / "efficientnet.pth", state))
    assert error.value.missing == ["timm_model.blocks.2.0.conv_pwl.weight"]
    assert error.value.unexpected == ["_blocks.3._other.weight"]


def test_an_efficientnet_of_no_known_size_is_refused(tmp_path, build_efficientnet):
    state = efficientnet_state(build_efficientnet("tf_efficientnet_lite0"))
    state = {key: value for key, value in state.items() if not key.startswith("_blocks.15.")}
    with pytest.raises(ValueError, match="No EfficientNet has 15 blocks, the last of width 192"):
        convert_backbone(saved(tmp_path / "efficientnet.pth", state))


def test_command_writes_towers_that_from_backbones_takes(tmp_path, monkeypatch, capsys):
    for name, state in (("swin", swin_state()), ("resnet", resnet_state())):
        path = saved(tmp_path / f"{name}.pth", state)
        monkeypatch.setattr(sys, "argv", ["backbones", str(path), str(tmp_path / name)])
        main()
    assert "SwinModel" in capsys.readouterr().out
    text = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20)
    BertModel(text, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    sizes = {"projection_dim": 8, "num_attention_heads": 2, "feedforward_dim": 8}
    model = PIRModel.from_backbones(*(str(tmp_path / name) for name in ("swin", "bert", "resnet")), **sizes)
    assert model.config.filter_size == 40  # of 49 + 1
    weight = AutoModel.from_pretrained(tmp_path / "resnet").embedder.embedder.convolution.weight
    assert torch.equal(model.instruction_model.embedder.embedder.convolution.weight, weight)


def test_failed_command_leaves_no_folder(tmp_path, monkeypatch):
    state = swin_state()
    del state["norm.weight"]
    path = saved(tmp_path / "swin.pth", state)
    monkeypatch.setattr(sys, "argv", ["backbones", str(path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="error: .*1 missing"):
        main()
    assert list(tmp_path.iterdir()) == [path]


def test_existing_folder_is_not_overwritten(tmp_path, monkeypatch):
    path = saved(tmp_path / "swin.pth", swin_state())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    monkeypatch.setattr(sys, "argv", ["backbones", str(path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="exists already"):
        main()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


class OfAnotherProject:
    """A class that a pickle would import."""


@pytest.mark.parametrize("content", ["truncated", "text", "empty", "code", "list", "absent"])
def test_unreadable_file_gets_one_sentence(tmp_path, content):
    path = tmp_path / "file.pth"
    if content == "truncated":
        whole = saved(tmp_path / "whole.pth", resnet_state()).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content in ("text", "empty"):
        path.write_text("hello world\n" if content == "text" else "")
    elif content == "code":
        torch.save({"model": {}, "config": OfAnotherProject()}, path)
    elif content == "list":
        torch.save([torch.zeros(1)], path)
    expected = {
        "truncated": "cut short", "text": "not a PyTorch checkpoint", "empty": "not a PyTorch checkpoint",
        "code": "refused.*would run code .*OfAnotherProject", "list": "holds a list", "absent": "no file",
    }  # fmt: skip
    with pytest.raises(ValueError, match=expected[content]) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


class Runs:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [(os.system, "true"), (print, "run"), (Path.touch, Path("x")), (eval, "1")],
    ids=lambda call: call[0].__name__,
)
def test_every_pickle_that_would_run_code_is_called_so(tmp_path, call):
    path = tmp_path / "file.pth"
    torch.save({"model": Runs(*call)}, path)
    with pytest.raises(ValueError, match="refused: it is a pickle that would run code"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps({"model": Runs(*call)}, protocol=2))
    with pytest.raises(ValueError, match="refused: it is a pickle that would run code"):
        read_checkpoint(path)
