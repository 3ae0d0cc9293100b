"""Fixtures of the command's tests: the command itself, called in this process."""

import pytest

from modeling_pir.cli.main import main


@pytest.fixture
def run(capsys):
    """Runs the command; gives its exit code, output and messages."""

    def run_pir(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_pir
