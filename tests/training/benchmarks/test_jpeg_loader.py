"""The benchmark of the loader runs, on small images."""

import re

from training.benchmarks.jpeg_loader import main


def test_both_ways_are_printed_side_by_side(capsys):
    main(["--side", "32", "--num-images", "64", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["in a loader process", "all in one process"]
    for line in lines:
        now, before, times = map(float, re.findall(r"[\d.]+", line))
        assert abs(now / before - times) < 0.05
