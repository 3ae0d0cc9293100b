"""What is told of a failure on Ray; the runs themselves are in test_parquet_shards.py."""

import pytest

from modeling_pir.inference.ray_workers import failure_reason

REPORT = """\x1b[36mray::MapBatches(_Worker)()\x1b[39m (pid=7, ip=10.0.0.1)
  File "embed_files.py", line 80, in read_file
    raise ValueError("x")
ValueError: /data/a.tif holds complex numbers, not colours: convert it to RGB first.

The above exception was the direct cause of the following exception:

  File "map_transformer.py", line 1, in __call__
ray.exceptions.UserCodeException: UDF failed to process a data block.
"""


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (REPORT, "ValueError: /data/a.tif holds complex numbers, not colours: convert it to RGB first."),
        ("...\ntorch.cuda.OutOfMemoryError: CUDA out of memory.\n", "OutOfMemoryError: CUDA out of memory."),
        ("The node died.\nIts memory was full.\n", "Its memory was full."),
    ],
)
def test_failure_on_ray_names_the_file_and_the_cause(report, reason):
    assert failure_reason(report) == reason
