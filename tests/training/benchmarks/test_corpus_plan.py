"""The plan is arithmetic that a reader can check by head."""

import pytest

from training.benchmarks.corpus_plan import main, make_plan


def test_numbers_that_can_be_checked_by_head():
    plan = make_plan(
        pairs=1_000_000, pairs_per_second=100, bytes_per_pair=10_000, gpus=4, batch_size=1000, epochs=2, num_workers=2,
        shard_bytes=1e9, shuffle_buffer=100,
    )  # fmt: skip
    assert plan["corpus_bytes"] == 1e10 and plan["readers"] == 8
    assert plan["shards"] == 16 and plan["rows_per_shard"] == 62_500  # 10 GB in 1 GB shards, rounded up to the readers
    assert plan["steps"] == 2000
    assert plan["gpu_hours"] == pytest.approx(20_000 / 3600) and plan["hours"] == pytest.approx(5000 / 3600)
    assert plan["bytes_per_second"] == 4e6 and plan["buffer_bytes"] == 8e6 and plan["replay_bytes"] == 1.25e9


def test_the_command_prints_its_inputs_as_inputs(capsys):
    main(["--pairs", "100e6", "--pairs-per-second", "2500", "--bytes-per-pair", "60e3"])
    printed = capsys.readouterr().out
    assert "100,000,000 pairs; 2,500 pairs/s on one GPU and 60 kB a pair, as given" in printed
    assert "6.00 TB" in printed and "24,414" in printed and "11.1 GPU-hours" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", "0"], "pairs is 0"),
        (["--pairs", "10"], "fewer than one batch of 4096"),
        (["--pairs", "1e6", "--gpus", "3"], "cannot be shared equally by 3 GPUs"),
    ],
)
def test_bad_numbers_get_one_sentence(options, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main([*options, "--pairs-per-second", "1", "--bytes-per-pair", "1"])
