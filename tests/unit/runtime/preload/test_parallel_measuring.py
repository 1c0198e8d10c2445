"""Measurements in processes of their own, here of a fresh one: a test's process may have threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(measurements: str) -> subprocess.CompletedProcess[str]:
    """Measures in a process without threads, and prints the context bytes that were found."""
    script = f"""
        import os
        from acestage.planning import StageMemory
        from services.runtime.preload.parallel_measuring import measure_all

        def memory(number):
            return StageMemory(number, 0, {{"none": os.getpid()}}, {{}})

        def fail():
            raise ZeroDivisionError("a defect")

        found = measure_all({measurements})
        print([memory.context_bytes for memory in found])
        print(len({{memory.weights_bytes["none"] for memory in found}} - {{os.getpid()}}))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )


def test_results_come_in_order_each_from_a_process_of_its_own() -> None:
    ended = run("[lambda number=number: memory(number) for number in range(100)]")
    assert ended.stdout.splitlines() == [str(list(range(100))), "100"], ended.stderr


def test_even_a_single_one_is_from_a_process_of_its_own() -> None:
    ended = run("[lambda: memory(1)]")
    assert ended.stdout.splitlines() == ["[1]", "1"], ended.stderr


def test_a_failure_is_logged_and_told() -> None:
    ended = run("[lambda: memory(1), fail]")
    assert ended.returncode == 1
    assert "ZeroDivisionError: a defect" in ended.stderr
    assert "InternalError: a model could not be measured: the process ended with exit code 1" in ended.stderr
