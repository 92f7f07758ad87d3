"""The benchmark of choosing runs at toy sizes, and its loops choose what the methods choose. No test judges speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from simignore.methods import METHODS


@pytest.fixture
def selection(monkeypatch):
    """The benchmark's module, imported from the checkout."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    import benchmarks.selection

    threads = torch.get_num_threads()
    yield benchmarks.selection
    torch.set_num_threads(threads)


def test_every_method_is_measured(selection, tmp_path):
    app, out = Typer(), tmp_path / "selection.json"
    app.command()(selection.main)
    done = CliRunner().invoke(
        app, ["--tokens", "36", "--width", "16", "--batch", "1", "--rounds", "2", "--threads", "1", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    (run,) = json.loads(out.read_text())["runs"]
    assert set(run["cases"]) == {*METHODS, *(f"{name}, loop" for name in selection.LOOPS)}
    assert all(case["seconds"]["median"] > 0 for case in run["cases"].values())
    assert all(run["cases"][name]["extra"] > 0 for name in METHODS)
    assert "loop over it at 36 tokens" in done.output


def test_what_takes_long_in_a_single_round_is_run_once(selection, monkeypatch):
    runs = []
    monkeypatch.setattr(selection, "peak", lambda run, device: runs.append(run()) or 4)
    monkeypatch.setattr(selection, "timed", lambda *_: {"seconds": 1.0})
    where = torch.device("cpu")
    for long, rounds, again in ((0.0, 1, False), (0.0, 2, True), (1e9, 1, True)):
        monkeypatch.setattr(selection, "LONG", long)
        case = selection.measured(["random"], 36, 16, 2, where, rounds, False, 0)["cases"]["random"]
        assert (case["seconds"]["median"] == 1.0) is again and case["extra"] > 0
    assert len(runs) == 3


@pytest.mark.parametrize("name", ["simignore", "divprune", "cdpruner"])
def test_the_loops_choose_what_the_methods_choose(selection, name):
    cut = selection.cut(name, 20, 32)
    seen = selection.view(cut, 90, 32, 1, torch.device("cpu"))
    assert cut.choose(seen).index[0].tolist() == selection.LOOPS[name](seen, 20)
