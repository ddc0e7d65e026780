"""`python -m mechguard`, which `torchrun -m` needs."""

import subprocess
import sys

from mechguard.__main__ import main


def test_the_module_runs_the_command_line() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mechguard", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() and not found.stderr


def test_the_script_and_the_module_are_one() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="mechguard")
    assert script.load() is main
