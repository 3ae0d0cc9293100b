import ast
import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard, constants, parse_eval_result_entries
from huggingface_hub.utils import close_session

from modeling_pir import PIRConfig, PIRModel
from modeling_pir.cli.options import SHIPPED_MODEL
from modeling_pir.hub.pretrained import check_model_folder, load_pretrained, weights_hash
from modeling_pir.hub.publish import MODEL_FILES, upload, write_hub_folder
from tests.support.fake_run import COMMIT, write_run
from tests.support.hub_server import TOKEN, HubServer, card_errors, front_matter
from tests.support.paths import ROOT
from training.evaluation.metrics import METRICS
from training.push_to_hub import main, push_to_hub
from training.report.model_card import Wishes, launch_command, model_card, public_value
from training.run.folder import load_run

REPO = "org/pir-tiny"


@pytest.fixture
def run(tmp_path, tiny_model, tiny_processor):
    return write_run(tmp_path / "run", tiny_model, tiny_processor)


@pytest.fixture
def hub(monkeypatch):
    """A loopback Hub that this process's huggingface_hub talks to, without waiting between retries."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        yield server


def tree(folder):
    """Bytes of every file below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_of(hub, repo=REPO):
    return hub.repository("models", repo).commits[-1].files


# What is published


def test_what_was_measured_is_published_byte_for_byte(run, tmp_path):
    (tmp_path / "out").mkdir()
    write_hub_folder(run / "best", tmp_path / "out")
    assert weights_hash(tmp_path / "out") == weights_hash(run / "best")
    before, after = (PIRConfig.from_pretrained(folder).to_dict() for folder in (run / "best", tmp_path / "out"))
    assert after.pop("auto_map") and {**before, "auto_map": None} == {**after, "auto_map": None}


def test_every_file_that_a_published_file_imports_is_published(tmp_path, run):
    (tmp_path / "out").mkdir()
    write_hub_folder(run / "best", tmp_path / "out")
    published = {file.stem for file in (tmp_path / "out").glob("*.py")}
    assert {f"{name}.py" for name in published} == set(MODEL_FILES)
    nodes = [node for name in published for node in ast.walk(ast.parse((tmp_path / "out" / f"{name}.py").read_text()))]
    assert {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level} <= published


def test_hash_of_one_file_is_the_hash_the_hub_shows(hub, run):
    push_to_hub(run, Wishes(REPO))
    assert weights_hash(run / "best") in hub.blobs
    assert hub.blobs[weights_hash(run / "best")] == (run / "best" / "model.safetensors").read_bytes()


def test_a_kept_folder_loads_and_is_published_as_the_run_would_be(hub, run, tmp_path):
    kept = tmp_path / "kept"
    main(["--model", str(run), "--repo", REPO, "--output-dir", str(kept)])
    PIRModel.from_pretrained(kept)
    push_to_hub(run, Wishes(REPO))
    whole = files_of(hub)
    push_to_hub(kept, Wishes(REPO))
    assert set(whole) - set(files_of(hub)) <= {"gallery.png", "belief.png"}
    same = set(whole) & set(files_of(hub)) - {"README.md", "metrics.json", "SHA256SUMS"}
    assert all(files_of(hub)[name] == whole[name] for name in same)
    assert json.loads(files_of(hub)["metrics.json"]) == json.loads(whole["metrics.json"])
    (tmp_path / "downloaded").mkdir()
    for name, content in files_of(hub).items():
        if "/" not in name:
            (tmp_path / "downloaded" / name).write_bytes(content)
    check_model_folder(tmp_path / "downloaded")  # compares with SHA256SUMS


def test_a_kept_folder_names_no_folder_of_this_machine_and_shows_no_image_of_the_data(
    tiny_model, tiny_processor, tmp_path
):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, init_vision=str(tmp_path / "towers" / "scenes"))
    main(["--model", str(run), "--repo", REPO, "--output-dir", str(tmp_path / "kept")])
    files = tree(tmp_path / "kept")
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert {name for name in files if name.endswith(".png")} == {"curves.png"}
    assert load_run(tmp_path / "kept").config.init_vision == "scenes"


def test_keeping_a_folder_takes_no_option_of_uploading(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--model", str(run), "--repo", REPO, "--output-dir", str(tmp_path / "kept"), "--private"])
    assert "--output-dir uploads nothing" in capsys.readouterr().err and not (tmp_path / "kept").exists()


def test_the_card_says_what_the_towers_were_before(tiny_model, tiny_processor, tmp_path):
    (tmp_path / "text").mkdir()
    facts = {"source": "org/bert", "layers": [0, 2], "of_layers": 6, "pieces": 3000, "of_pieces": 30522}
    (tmp_path / "text" / "pruned.json").write_text(json.dumps(facts))
    backbones = {"vision": "org/swin", "text": str(tmp_path / "text")}
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, backbones=backbones)
    words = "Text tower at the start: Layers 0, 2 of the 6 of org/bert, with 3,000 of its 30,522 word pieces."
    assert words in model_card(load_run(run), Wishes(REPO)).text
    main(["--model", str(run), "--repo", REPO, "--output-dir", str(tmp_path / "kept")])
    (tmp_path / "text" / "pruned.json").unlink()
    assert words in model_card(load_run(tmp_path / "kept"), Wishes(REPO)).text


def test_a_kept_folder_with_other_weights_is_refused(run, tmp_path, tiny_model):
    main(["--model", str(run), "--repo", REPO, "--output-dir", str(tmp_path / "kept")])
    tiny_model.logit_scale.data += 1
    tiny_model.save_pretrained(tmp_path / "kept")
    with pytest.raises(ValueError, match="are not of the weights"):
        load_run(tmp_path / "kept")


def test_a_push_is_one_commit_with_everything(hub, run):
    push_to_hub(run, Wishes(REPO))
    commits = hub.repository("models", REPO).commits
    assert [commit.title for commit in commits] == ["initial commit", "PIR at epoch 7: test mR 37.25"]
    assert {"README.md", "metrics.json", "model.safetensors", "config.json", "processor_config.json", "tokenizer.json",
            "modules.json", "sentence_bert_config.json", "gallery.png", "belief.png", "curves.png",
            *MODEL_FILES} <= set(files_of(hub))  # fmt: skip
    assert json.loads(files_of(hub)["metrics.json"]) == json.loads((run / "test.json").read_text())
    assert set(json.loads(files_of(hub)["config.json"])["auto_map"]) == {
        "AutoConfig", "AutoModel", "AutoProcessor", "AutoModelForZeroShotImageClassification"
    }  # fmt: skip


def test_a_dry_run_shows_files_and_card_and_asks_nobody(hub, run, capsys):
    main(["--model", str(run), "--repo", REPO, "--dry-run"])
    shown = capsys.readouterr().out
    assert "bytes  model.safetensors" in shown and "bytes  modeling_pir.py" in shown and "# pir-tiny" in shown
    assert hub.requests == []


def test_private_makes_a_private_repository(hub, run):
    push_to_hub(run, Wishes(REPO), private=True)
    assert hub.repository("models", REPO).private


def test_private_is_refused_for_a_public_repository_before_anything_is_sent(hub, run):
    push_to_hub(run, Wishes(REPO))
    with pytest.raises(ValueError, match="exists and is public"):
        push_to_hub(run, Wishes(REPO), private=True)
    assert len(hub.repository("models", REPO).commits) == 2


def test_pushing_again_without_change_makes_no_commit(hub, run):
    push_to_hub(run, Wishes(REPO))
    push_to_hub(run, Wishes(REPO))
    assert len(hub.repository("models", REPO).commits) == 2


def test_a_push_leaves_the_run_untouched(hub, run):
    before = tree(run)
    push_to_hub(run, Wishes(REPO))
    assert tree(run) == before


def test_a_hub_without_large_files_gets_the_same(hub, run):
    hub.lfs = False
    push_to_hub(run, Wishes(REPO))
    assert files_of(hub)["model.safetensors"] == (run / "best" / "model.safetensors").read_bytes()


# The card


def test_card_passes_the_hubs_validator(hub, run):
    card = model_card(load_run(run), Wishes(REPO))
    card.validate()
    assert "POST /api/validate-yaml" in hub.requests


def test_the_loopback_validator_can_say_no():
    assert card_errors("---\nlicense: nonsense\n---\n") == ["license 'nonsense' is unknown"]
    assert card_errors(
        "---\nmodel-index:\n- name: x\n  results:\n  - metrics:\n    - type: mR\n      value: high\n---\n"
    )


def test_card_metadata_holds_the_runs_results_and_nothing_else(run):
    card = ModelCard(str(model_card(load_run(run), Wishes(REPO))))
    test = json.loads((run / "test.json").read_text())
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        key: test[key] for key in METRICS
    }
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.license == "apache-2.0"


def test_card_tells_protocol_costs_and_origin_of_the_run(run):
    text = str(model_card(load_run(run), Wishes(REPO)))
    for fact in ("epoch 7 of 9", "seed 42", COMMIT, "19 of the 20", "x86_64 CPU", "1.4 minutes", "torch 2.14.1", REPO):
        assert fact in text
    assert "| **this model** | 31.25 | 32.25 | 33.25 | 34.25 | 35.25 | 36.25 | 37.25 |" in text
    assert "| a random order | 7.50 |" in text
    assert "{{" not in text and "{%" not in text
    assert "timm" not in text  # was not installed


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({"precision": "float32", "processes": 1}, "python -m training.train --config config.yaml"),
        (
            {"precision": "bfloat16 autocast", "processes": 1},
            "accelerate launch --cpu --mixed_precision bf16 --num_cpu_threads_per_process 3 "
            "-m training.train --config config.yaml",
        ),
        (
            {"precision": "float32", "processes": 2},
            "ACCELERATE_USE_CPU=true ACCELERATE_MIXED_PRECISION=no OMP_NUM_THREADS=3 torchrun --standalone "
            "--nproc_per_node 2 -m training.train --config config.yaml",
        ),
        (
            {"precision": "bfloat16 autocast", "processes": 8, "device": "NVIDIA H100"},
            "accelerate launch --num_processes 8 --mixed_precision bf16 -m training.train --config config.yaml",
        ),
    ],
)
def test_card_gives_the_command_that_repeats_the_run(facts, command):
    assert launch_command({"device": "x86_64 CPU, 2 cores", "torch_threads": 3} | facts) == command


def test_card_shows_only_pictures_that_are_there(run):
    (run / "belief.png").unlink()
    text = str(model_card(load_run(run), Wishes(REPO)))
    assert "(gallery.png)" in text and "belief.png" not in text


def test_recipe_in_the_card_is_the_runs_configuration(run):
    recipe = str(model_card(load_run(run), Wishes(REPO))).split("```yaml\n")[1].split("```")[0]
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert yaml.safe_load(recipe) == saved | {"output_dir": "run"}


def test_card_names_no_folder_of_the_machine(tmp_path, tiny_model, tiny_processor):
    data = tmp_path / "secret place" / "chips"
    data.mkdir(parents=True)
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data=str(data), init_instruction=str(data / "a.pth"))
    text = str(model_card(load_run(run), Wishes(REPO)))
    assert "secret place" not in text and str(tmp_path) not in text
    assert "`chips`" in text


def test_known_data_brings_its_licence_its_paper_and_its_own_limits(tmp_path, tiny_model, tiny_processor):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data="rsicd", split_list="rsicd")
    card = model_card(load_run(run), Wishes(REPO))
    assert card.data.datasets == ["arampacha/rsicd"]
    assert "no open licence" in str(card) and "TGRS 2017" in str(card) and "AID" in str(card)


def test_a_hub_data_set_is_linked_with_its_revision(tmp_path, tiny_model, tiny_processor):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data="org/chips", data_revision="v2")
    card = model_card(load_run(run), Wishes(REPO))
    assert card.data.datasets == ["org/chips"] and "`v2`" in str(card)


def test_a_fine_tuned_model_names_the_model_it_came_from(tmp_path, tiny_model, tiny_processor):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, init_from="org/pir-rsicd")
    card = model_card(load_run(run), Wishes(REPO))
    assert card.data.base_model == ["org/pir-rsicd"] and "from `org/pir-rsicd`" in str(card)


@pytest.mark.parametrize("name", ["pir-rsicd", "pir-rsitmd"])
def test_shipped_card_templates_hold_no_result_of_their_own(name, tmp_path, tiny_model, tiny_processor):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data=name.removeprefix("pir-"))
    text = str(model_card(load_run(run), Wishes(REPO)))
    assert card_errors(text) == []
    results = text.split("## Results")[1].split("How these numbers")[0]
    numbers = [cell.strip() for line in results.splitlines() if "**" in line for cell in line.split("|")[2:-1]]
    assert numbers == [f"{31.25 + place:.2f}" for place in range(len(METRICS))]


@pytest.mark.parametrize("value", ["rsicd", "org/name", "sample", 3, None, {"vision": "org/swin"}])
def test_names_and_ids_stay_as_they_are(value):
    assert public_value(value) == value


# What is refused


def test_a_run_without_metrics_is_refused(run):
    (run / "test.json").unlink()
    with pytest.raises(ValueError, match=r"has no metrics \(test.json\)"):
        push_to_hub(run, Wishes(REPO), dry_run=True)


def test_metrics_of_other_weights_are_refused(run, tiny_model):
    tiny_model.logit_scale.data += 1
    tiny_model.save_pretrained(run / "best")
    with pytest.raises(ValueError, match="are not of the weights in"):
        push_to_hub(run, Wishes(REPO), dry_run=True)


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"uncommitted_changes": True}, "uncommitted changes"), ({"commit": None}, "unknown code")],
)
def test_a_run_nobody_could_repeat_is_refused(tmp_path, tiny_model, tiny_processor, environment, message):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, environment=environment)
    with pytest.raises(ValueError, match=message):
        push_to_hub(run, Wishes(REPO), dry_run=True)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a run folder"):
        push_to_hub(tmp_path, Wishes(REPO), dry_run=True)


@pytest.mark.parametrize("repo", ["pir", "a/b/c", "org/na me", "org/-", "", "org/name.git"])
def test_what_is_no_repository_id_is_refused_first(run, repo):
    with pytest.raises(ValueError, match="not a repository id of the form org/name"):
        push_to_hub(run, Wishes(repo), dry_run=True)


def test_the_command_says_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="^error: .* not a run folder .*training.train wrote.$"):
        main(["--model", str(tmp_path), "--repo", REPO])


def test_without_a_token_nothing_is_sent(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="no Hub token: run `hf auth login`"):
        push_to_hub(run, Wishes(REPO))
    assert hub.requests == []


def test_a_token_that_may_not_write_is_named(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(ValueError, match=r"refuses the token for org/pir-tiny \(401\)"):
        push_to_hub(run, Wishes(REPO))


def test_no_network_is_said_and_the_run_is_untouched(hub, run):
    before = tree(run)
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ValueError, match="failed or broke off .* can be repeated"):
        push_to_hub(run, Wishes(REPO))
    assert tree(run) == before


def test_offline_mode_is_named(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(run, Wishes(REPO))


@pytest.mark.parametrize("place", ["/commit/", "/lfs/"])
def test_an_upload_cut_off_half_way_changes_nothing_and_can_be_repeated(hub, run, place):
    before = tree(run)
    hub.break_connections("PUT" if place == "/lfs/" else "POST", place, after=1000)
    with pytest.raises(ValueError, match="broke off .* unchanged, the same command can be repeated"):
        push_to_hub(run, Wishes(REPO))
    assert [commit.title for commit in hub.repository("models", REPO).commits] == ["initial commit"]
    hub.mend()
    push_to_hub(run, Wishes(REPO))
    assert len(hub.repository("models", REPO).commits) == 2
    assert tree(run) == before


# A model folder that cannot be used


def test_a_folder_without_processor_says_how_to_add_one(run):
    (run / "best" / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no processor \(processor_config.json is missing\)"):
        load_pretrained(run / "best")


def test_damaged_weights_are_named(run):
    file = run / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is cut off or damaged"):
        load_pretrained(run / "best")


def test_a_configuration_newer_than_the_package_says_how_to_go_on(run):
    path = run / "best" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_tomorrow_layers": 2}))
    with pytest.raises(ValueError, match="'num_tomorrow_layers'.*pip install --upgrade.*trust_remote_code"):
        load_pretrained(run / "best")


def test_another_models_folder_is_refused(run):
    path = run / "best" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "clip"}))
    with pytest.raises(ValueError, match="type 'clip'"):
        check_model_folder(run / "best")


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="not a model folder"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match="org/nowhere cannot be loaded"):
        load_pretrained("org/nowhere")


def test_a_whole_folder_loads(run, tiny_model):
    model, processor = load_pretrained(run / "best")
    assert isinstance(model, PIRModel) and processor.tokenizer.model_max_length == 47
    assert model.logit_scale == tiny_model.logit_scale


def test_weights_in_several_files_have_one_hash(tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    first = weights_hash(tmp_path)
    assert first == weights_hash(tmp_path)
    next(tmp_path.glob("*.safetensors")).unlink()
    assert weights_hash(tmp_path) != first
    with pytest.raises(ValueError, match="no weights"):
        weights_hash(tmp_path / "nowhere")


def test_upload_takes_folders_in_folders(hub, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").write_text("c")
    upload(tmp_path, REPO, "add")
    assert files_of(hub)["a/b/c.txt"] == b"c"


def test_front_matter_of_a_card_is_read_as_yaml():
    assert front_matter("---\na: 1\n---\ntext") == {"a": 1} and front_matter("text") is None


# What a publisher wants


def test_pictures_of_own_images_go_up_only_when_asked(hub, tiny_model, tiny_processor, tmp_path):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data=str(tmp_path / "secret"), split_list=None)
    push_to_hub(run, Wishes(REPO))
    assert {name for name in files_of(hub) if name.endswith(".png")} == {"curves.png"}
    assert "gallery.png" not in files_of(hub)["README.md"].decode()
    push_to_hub(run, Wishes(REPO, with_pictures=True))
    assert {"gallery.png", "belief.png", "curves.png"} <= set(files_of(hub))


def test_own_data_is_named_as_its_owner_names_it(tiny_model, tiny_processor, tmp_path, capsys):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data=str(tmp_path / "v3_final"), split_list=None)
    options = ["--data-name", "Harbours of the North Sea", "--data-licence", "CC BY 4.0"]
    main(["--model", str(run), "--repo", REPO, "--dry-run", *options])
    card = capsys.readouterr().out
    assert "A custom data set, Harbours of the North Sea. Its licence: CC BY 4.0." in card
    assert "type: Harbours of the North Sea" in card and "type: v3_final" not in card


def test_the_card_of_a_fine_tuned_model_names_its_base_with_data_and_licence(tiny_model, tiny_processor, tmp_path):
    base = tmp_path / "base-model"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\ndatasets:\n- arampacha/rsicd\n---\n# base-model\n")
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, init_from=str(base))
    card = model_card(load_run(run), Wishes(REPO))
    assert card.data.base_model == ["base-model"]
    expected = "Fine-tuned from `base-model`, weights under apache-2.0, trained on arampacha/rsicd (no open licence"
    assert expected in card.text


def test_results_on_a_data_set_of_the_hub_lie_beside_the_card(hub, tiny_model, tiny_processor, tmp_path):
    run = write_run(tmp_path / "run", tiny_model, tiny_processor, data="rsicd", split_list="rsicd")
    push_to_hub(run, Wishes(REPO))
    entries = parse_eval_result_entries(yaml.safe_load(files_of(hub)[".eval_results/rsicd.yaml"]))
    assert {entry.dataset_id for entry in entries} == {"arampacha/rsicd"} and len(entries) == 6
    assert {entry.task_id for entry in entries} == {"RSICDT2IRetrieval", "RSICDI2TRetrieval"}


def python_blocks(card):
    """The card's examples of Python, as one program."""
    return "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL))


def run_card(card, folder, images):
    """Run a card's examples in a folder, which gets the images that they open; the program."""
    for name, image in zip(("first.png", "second.png"), images, strict=False):
        image.save(folder / name)
    program = python_blocks(card)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.slow
def test_the_card_of_a_kept_folder_runs_on_it_as_it_lies(run, tmp_path, tiny_images):
    main(["--model", str(run), "--repo", REPO, "--output-dir", str(tmp_path / "kept")])
    program = run_card((tmp_path / "kept" / "README.md").read_text(), tmp_path, tiny_images)
    assert '"kept"' in program and "trust_remote_code" not in program


@pytest.mark.slow
def test_the_shipped_card_runs_on_the_shipped_folder(tmp_path, tiny_images):
    (tmp_path / "hub_configs").symlink_to(ROOT / "hub_configs")
    program = run_card((SHIPPED_MODEL / "README.md").read_text(), tmp_path, tiny_images)
    assert f'"{SHIPPED_MODEL.relative_to(ROOT).as_posix()}"' in program
