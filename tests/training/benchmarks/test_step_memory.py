"""Scripts that measure memory print figures of processes of their own."""

import pytest
import yaml

from tests.support.tiny import build_tiny_config
from training.benchmarks import retrieval_metrics as benchmark_metrics
from training.benchmarks import step_memory as benchmark_memory


@pytest.mark.slow  # two processes that import torch for a row
def test_memory_of_a_step_is_printed_plain_beside_cached(tmp_path, capfd, monkeypatch):
    config = build_tiny_config().to_diff_dict()
    fields = {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": fields}))
    benchmark_memory.main(["--config", str(tmp_path / "run.yaml"), "--batch-sizes", "4", "--chunk-size", "2"])
    batch, plain, _, cached, _ = capfd.readouterr().out.splitlines()[-1].split()
    assert batch == "4" and 0.1 < float(plain) < 4 and 0.1 < float(cached) < 4


@pytest.mark.slow
def test_a_step_that_fails_is_a_row_that_says_so(tmp_path, capfd):
    (tmp_path / "run.yaml").write_text("no_such_field: 1\n")
    benchmark_memory.main(["--config", str(tmp_path / "run.yaml"), "--batch-sizes", "4"])
    printed = capfd.readouterr()
    assert printed.out.splitlines()[-1].split() == ["4", "failed", "-", "failed", "-"]
    assert "no_such_field" in printed.err


@pytest.mark.slow
def test_both_ways_of_the_metrics_print_the_same_recall(capfd):
    benchmark_metrics.main(["--images", "40", "--texts", "90", "--dim", "8"])
    rows = [line.split() for line in capfd.readouterr().out.splitlines()[-3:]]
    assert rows[0][0] == "streamed" and rows[1][:2] == ["whole", "matrix"] and rows[2][1] == "product"
    assert rows[0][-1] == rows[1][-1] and float(rows[0][-1]) > 0
