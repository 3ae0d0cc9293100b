"""A sweep runs what is missing, and tells a difference from the spread over queries and seeds."""

import functools
import json
import threading

import numpy as np
import pytest
import torch

from modeling_pir import PIRModel
from training import sweep as sweep_module
from training.config import save_config
from training.evaluation.metrics import METRICS
from training.evaluation.split_embeddings import evaluate_split
from training.report import sweep_report
from training.report.sweep_report import seed_difference, split_ranks, summarise, write_report
from training.sweep import expand, is_finished, parse_args, read_rows, sweep


@pytest.fixture
def make_runs(tiny_dataset, tmp_path):
    settings = tmp_path / "config.yaml"
    settings.write_text(f"data: {tiny_dataset}\nbatch_size: 2\nevaluation_batch_size: 4\n")

    def make(seeds=(0, 1), vary=("epochs=1,2",), rows=None, **overrides):
        return expand(settings, list(seeds), list(vary), overrides, tmp_path / "sweep", rows)

    return make


@pytest.fixture
def trained(monkeypatch, tiny_config, tiny_processor):
    """Stands in for training: leaves a random model that depends on the configuration; lists what was run."""
    ran = []
    monkeypatch.setattr(sweep_report, "load_image_captions", functools.cache(sweep_report.load_image_captions))

    def fake(run, jobs=1):
        ran.append((run.setting, run.config.seed))
        torch.manual_seed(run.config.seed + 100 * run.config.epochs)
        model = PIRModel(tiny_config).eval()
        for part in (model, tiny_processor):
            part.save_pretrained(run.folder / "best")
        save_config(run.config, run.folder / "config.yaml")
        config = run.config
        options = (config.split_list, config.data_revision, config.skip_bad_images)
        rows = sweep_report.load_image_captions(config.data, "test", *options)
        test = {"epoch": 0} | evaluate_split(model, tiny_processor, rows, 4)
        records = [{"step": 1, "loss": 1.0}, {"epoch": 0, "split": "validation"} | dict.fromkeys(METRICS, 10.0)]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
        (run.folder / "test.json").write_text(json.dumps(test))

    monkeypatch.setattr(sweep_module, "run_training", fake)
    return ran


def test_every_combination_gets_every_seed(make_runs):
    runs = make_runs(vary=["epochs=1,2", "model.num_cycles=0,3"])
    assert len(runs) == 8
    assert [run.setting for run in runs[::2]] == [
        "epochs=1, model.num_cycles=0", "epochs=1, model.num_cycles=3",
        "epochs=2, model.num_cycles=0", "epochs=2, model.num_cycles=3",
    ]  # fmt: skip
    assert runs[3].config.model == {"num_cycles": 3} and runs[3].config.seed == 1
    assert len({run.folder for run in runs}) == 8


def test_varied_values_are_yaml(make_runs):
    runs = make_runs(seeds=[0], vary=["schedule=linear,cosine", "cache_images=true,false", "adam_betas=[0.9, 0.98]"])
    assert {(run.config.schedule, run.config.cache_images) for run in runs} == {
        ("linear", True), ("linear", False), ("cosine", True), ("cosine", False),
    }  # fmt: skip
    assert runs[0].config.adam_betas == (0.9, 0.98)


def test_nothing_varied_is_one_setting(make_runs):
    assert [run.setting for run in make_runs(vary=[])] == ["as configured"] * 2


@pytest.mark.parametrize(
    ("seeds", "vary", "message"),
    [
        ([0, 0], [], "A seed is given twice"),
        ([0], ["epochs"], "--vary takes field=value,value"),
        ([0], ["epochs="], "--vary takes field=value,value"),
        ([0], ["epochs=1", "epochs=2"], "--vary epochs: this field is set already"),
        ([0], ["seed=1,2"], "--vary seed: this field is set already"),
        ([0], ["epoch=1,2"], "There is no configuration field 'epoch'; did you mean 'epochs'"),
        ([0], ["epochs=0"], "epochs is 0, but it has to be above 0"),
    ],
)
def test_bad_settings_are_refused_before_any_run(make_runs, seeds, vary, message):
    with pytest.raises(ValueError, match=message):
        make_runs(seeds=seeds, vary=vary)


def test_rows_of_a_file_are_settings_by_name(make_runs, tmp_path):
    (tmp_path / "rows.yaml").write_text("baseline: {model.num_cycles: 0}\n+ LCA: {model.num_cycles: 2, epochs: 3}\n")
    runs = make_runs(vary=[], rows=read_rows(tmp_path / "rows.yaml"))
    assert [run.setting for run in runs] == ["baseline", "baseline", "+ LCA", "+ LCA"]
    assert [(run.config.model["num_cycles"], run.config.epochs) for run in runs[1:3]] == [(0, 50), (2, 3)]
    assert len({run.folder for run in runs}) == 4


def test_the_shipped_ablations_are_rows_that_build(tmp_path):
    configs = sweep_module.Path(sweep_module.__file__).parent / "configs"
    files = {"rsicd": "ablation_rows", "ucm": "ablation_rows", "pretrained": "ablation_pretrained_rows"}
    for name, file in files.items():
        rows = read_rows(configs.parent / "recipes" / f"{file}.yaml")
        assert next(iter(rows)).startswith("VSE")
        runs = expand(configs / f"ablation_{name}.yaml", [0, 1, 2], [], {}, tmp_path, rows)
        assert len(runs) == 3 * len(rows) and len({run.config.epochs for run in runs}) == 1


@pytest.mark.parametrize(
    ("rows", "vary", "message"),
    [
        ({"a": {"epochs": 1}}, ["epochs=1"], "--rows and --vary both"),
        ({"a": {"seed": 1}}, [], "Row 'a': seed is set already"),
        ({"a": {"evaluation_batch_size": 1}}, [], "Row 'a': evaluation_batch_size is set already"),
        ({"a": {"epoch": 1}}, [], "There is no configuration field 'epoch'"),
        ({"a+": {}, "a-": {"epochs": 1}, "a*": {"epochs": 2}}, [], "Two rows share a folder"),
    ],
)
def test_bad_rows_are_refused_before_any_run(make_runs, rows, vary, message):
    with pytest.raises(ValueError, match=message):
        make_runs(vary=vary, rows=rows, evaluation_batch_size=4)


def test_a_row_whose_tower_is_missing_is_refused_before_the_first_run(make_runs, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = make_runs(vary=[], rows={"plain": {}, "scenes": {"init_vision": "towers/none"}})
    with pytest.raises(ValueError, match="'scenes': init_vision is 'towers/none', which is neither a folder here"):
        sweep(runs, tmp_path / "sweep")
    assert trained == []


@pytest.mark.parametrize("text", ["", "- a", "a: 3"])
def test_a_file_without_rows_says_what_it_needs(tmp_path, text):
    (tmp_path / "rows.yaml").write_text(text)
    with pytest.raises(ValueError, match="has to map names of rows to fields"):
        read_rows(tmp_path / "rows.yaml")


def test_jobs_run_side_by_side(make_runs, trained, tmp_path, monkeypatch):
    train_alone, both, counts = sweep_module.run_training, threading.Barrier(2, timeout=20), []

    def wait_for_the_other(run, jobs):
        both.wait()
        counts.append(jobs)
        train_alone(run)

    monkeypatch.setattr(sweep_module, "run_training", wait_for_the_other)
    sweep(make_runs(), tmp_path / "sweep", jobs=2)
    assert len(trained) == 4 and counts == [2] * 4


def test_after_a_failure_no_further_run_is_started(make_runs, tmp_path, monkeypatch):
    started = []

    def fail(run, jobs):
        started.append(run)
        raise ValueError("it failed")

    monkeypatch.setattr(sweep_module, "run_training", fail)
    with pytest.raises(ValueError, match="it failed"):
        sweep(make_runs(seeds=range(20)), tmp_path / "sweep", jobs=1)
    assert len(started) < 40


def test_no_jobs_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--config", "c.yaml", "--seeds", "0", "--jobs", "0"])
    assert "--jobs is 0" in capsys.readouterr().err


def test_finished_runs_are_not_run_again(make_runs, trained, tmp_path):
    sweep(make_runs(), tmp_path / "sweep")
    assert trained == [("epochs=1", 0), ("epochs=1", 1), ("epochs=2", 0), ("epochs=2", 1)]
    trained.clear()
    (make_runs()[1].folder / "test.json").unlink()  # cut off
    sweep(make_runs(seeds=(0, 1, 2)), tmp_path / "sweep")
    assert trained == [("epochs=1", 1), ("epochs=1", 2), ("epochs=2", 2)]


def test_a_folder_of_another_configuration_is_refused(make_runs, trained, tmp_path):
    sweep(make_runs(seeds=[0], vary=[]), tmp_path / "sweep")
    with pytest.raises(ValueError, match="another configuration \\(learning_rate 6e-05, now 0.1\\)"):
        is_finished(make_runs(seeds=[0], vary=[], learning_rate=0.1)[0])


def test_a_begun_run_is_resumed_and_a_failure_named(make_runs, monkeypatch):
    commands = []

    def record(command, **_):
        commands.append(command)
        return type("Done", (), {"returncode": 1})()

    monkeypatch.setattr(sweep_module.subprocess, "run", record)
    run = make_runs()[0]
    for _ in range(2):
        with pytest.raises(ValueError, match="seed_0' failed \\(exit code 1\\)"):
            sweep_module.run_training(run)
        (run.folder / "environment.json").write_text("{}")
    assert commands[1] == [*commands[0], "--resume"]
    assert sweep_module.load_config(commands[0][-1]) == run.config


@pytest.mark.parametrize(("jobs", "threads"), [(1, "as before"), (2, "3"), (9, "1")])
def test_a_run_beside_others_gets_its_share_of_the_cores(make_runs, monkeypatch, jobs, threads):
    environments = []

    def record(command, env, **_):
        environments.append(env)
        return type("Done", (), {"returncode": 0})()

    monkeypatch.setattr(sweep_module.subprocess, "run", record)
    monkeypatch.setattr(sweep_module.os, "cpu_count", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "as before")
    sweep_module.run_training(make_runs()[0], jobs)
    assert environments[0]["OMP_NUM_THREADS"] == threads


def test_ranks_are_those_of_the_best_model_and_kept(make_runs, trained, tmp_path, monkeypatch):
    runs = make_runs(seeds=[0], vary=[])
    sweep(runs, tmp_path / "sweep")
    measured = json.loads((runs[0].folder / "test.json").read_text())
    monkeypatch.setattr(sweep_report, "embed_split", lambda *_: pytest.fail("embedded again"))
    ranks = split_ranks(runs[0])
    assert 100 * (ranks.text_ranks < 5).double().mean().item() == measured["t2i_R@5"]


def test_the_table_has_the_mean_and_spread_over_seeds(make_runs, trained, tmp_path):
    runs = make_runs(seeds=(0, 1, 2))
    summary = sweep(runs, tmp_path / "sweep")
    values = [json.loads((run.folder / "test.json").read_text())["mR"] for run in runs]
    facts = summary["settings"]["epochs=1"]["test"]["mR"]
    assert facts["mean"] == pytest.approx(np.mean(values[:3]))
    assert facts["sd"] == pytest.approx(np.std(values[:3], ddof=1))
    difference = summary["differences"]["epochs=2"]
    assert difference["queries"]["difference"] == pytest.approx(np.mean(values[3:]) - np.mean(values[:3]))
    assert difference["seeds"]["mean"] == pytest.approx(difference["queries"]["difference"])
    report = (tmp_path / "sweep" / "sweep.md").read_text()
    assert f"{facts['mean']:.2f} ± {facts['sd']:.2f}" in report
    assert facts["values"] == pytest.approx(values[:3]) and (tmp_path / "sweep" / "sweep.png").stat().st_size
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == summary


def test_one_seed_has_no_spread(make_runs, trained, tmp_path):
    summary = sweep(make_runs(seeds=[0]), tmp_path / "sweep")
    assert summary["settings"]["epochs=1"]["test"]["mR"]["sd"] is None
    assert "one seed" in write_report(summary, "sweep") and "±" not in write_report(summary, "x").split("|", 1)[1]


def test_the_interval_over_seeds_is_students():
    difference = seed_difference([10.0, 11.0, 12.0], [12.0, 13.5, 13.0])
    assert difference["differences"] == [2.0, 2.5, 1.0]
    half = 4.302653 * np.std([2.0, 2.5, 1.0], ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert difference["interval"] == pytest.approx([11 / 6 - half, 11 / 6 + half], abs=1e-4)


def test_one_setting_has_no_difference(make_runs, trained, tmp_path):
    runs = make_runs(seeds=[0], vary=[])
    sweep(runs, tmp_path / "sweep")
    assert summarise(runs)["differences"] == {}


@pytest.mark.slow
def test_real_runs_are_swept(make_runs, tiny_config, tmp_path):
    model = tiny_config.to_diff_dict()
    names = ("vision_config", "text_config", "instruction_config", "projection_dim", "num_attention_heads")
    fields = {"model": {name: model[name] for name in names}, "vocab_size": 200, "captions_per_image": 2}
    summary = sweep(make_runs(vary=["epochs=1,2"], **fields), tmp_path / "sweep")
    assert set(summary["settings"]) == {"epochs=1", "epochs=2"}
    assert summary["differences"]["epochs=2"]["seeds"]["interval"] is not None
