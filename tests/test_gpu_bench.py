"""The bench of a GPU: rehearsed on the CPU, refused without a GPU, stopped by a wrong number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu
from search import lane_steps
from search.dimensions import CELLS

ROOT = Path(__file__).parent.parent


def test_the_rehearsal_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU the same code trains up to 4 networks of each cell, and its table has every K."""
    assert gpu.main(["--device", "cpu"]) == 0
    said, complaints = capsys.readouterr()
    assert complaints == ""
    assert said.startswith("A rehearsal on a CPU")
    for cell in CELLS:
        lines = re.findall(rf"^\| {cell} \| (\d+) \| (.*) \|$", said, re.MULTILINE)
        assert [count for count, _ in lines][:1] == ["1"]
        assert {count for count, _ in lines} <= {"1", "2", "4"}
        assert all(re.match(r"\d+ \(\d+\.\d x, 0\.0 GiB\)$", words) for _, words in lines)
        assert re.search(rf"^\| {cell} \| best \| \d+\.\d times torch\.nn", said, re.MULTILINE)


def test_without_a_gpu_it_says_what_it_needs() -> None:
    """One line and exit code 2, and no table."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench.gpu needs an NVIDIA GPU and a torch built for it")


def test_a_wrong_number_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks whose gradients are not clipped end the bench before anything is timed."""
    monkeypatch.setattr(lane_steps, "clip", lambda *_: None)
    monkeypatch.setattr(gpu, "PLAIN", gpu.replace(gpu.PLAIN, gradient_clipping=0.01))
    assert gpu.main(["--device", "cpu"]) == 1
    said, complaints = capsys.readouterr()
    (line,) = complaints.splitlines()
    assert re.fullmatch(
        r"bench\.gpu: losses of rnn in torch\.float64 differ from .*; nothing of it is timed", line
    )
    assert "| rnn |" not in said
