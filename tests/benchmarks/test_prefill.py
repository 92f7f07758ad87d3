"""The speed benchmark runs, measures every case and says what it cannot do. No test judges how fast anything is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from simignore.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prefill(monkeypatch):
    """The benchmark's module, imported from the checkout."""
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.prefill

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield benchmarks.prefill
    torch.set_num_threads(threads)


@pytest.fixture
def run(prefill):
    app = Typer()
    app.command()(prefill.main)
    return lambda *words: CliRunner().invoke(app, ["--threads", "1", *words])


def test_one_round_measures_every_case(run, prefill, tmp_path):
    from benchmarks import own_work

    out = tmp_path / "prefill.json"
    done = run("--shape", "toy", "--rounds", "1", "--steps", "2", "--keep", "16", "--keep", "64", "--json", str(out))
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert {"date", "command", "versions", "hardware", "seed", "rounds", "shape"} <= result.keys()
    short, whole = result["runs"]
    cases = short["cases"]
    assert set(cases) == {"full", "native", "native again", "mask", "chain", *METHODS} - {"evs"}
    for name, one in cases.items():
        assert ("to_own_work" in one) == (name in METHODS or name in ("chain", "mask"))
    assert (
        cases["simignore"]["passed"] == 0
        and 0 < cases["fastv"]["passed"] < 1
        and 0 < cases["pyramiddrop"]["passed"] < 1
    )
    for one in cases.values():
        assert all(len(one[time]["raw"]) == 1 and one[time]["median"] > 0 for time in prefill.TIMES)
    assert cases["simignore"]["kv_bytes"] == cases["native"]["kv_bytes"] < cases["full"]["kv_bytes"]
    assert cases["full"]["kv_bytes"] == cases["mask"]["kv_bytes"] == whole["cases"]["simignore"]["kv_bytes"]
    assert {bar["limit"] for bar in short["bars"]} == {own_work.RATIO_BAR, own_work.SELECTION_BAR, own_work.OWN_BAR}
    assert "natively short" in done.output
    again = own_work.derived(
        json.loads(out.read_text())["runs"][0]
    )  # from raw times alone, which are kept to six figures
    for one, other in zip(again["bars"], short["bars"], strict=True):
        assert one["name"] == other["name"] and one["value"] == pytest.approx(other["value"], rel=1e-4)


def test_the_7b_preset_runs_when_it_is_made_small(prefill, tmp_path):
    shape = replace(
        prefill.SHAPES["llava-1.5-7b"],
        layers=3,
        width=64,
        heads=4,
        intermediate=96,
        vocabulary=100,
        tower_layers=2,
        tower_width=32,
        tower_heads=2,
        tower_intermediate=48,
        image_size=56,
    )
    model = prefill.model(shape, torch.device("cpu"))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    methods = {name: prefill.configured(name, 4, shape) for name in ("simignore", "fastv", "chain")}
    run = prefill.measure(shape, model, 3, 4, methods, rounds=1, steps=1)
    assert run["tokens"] == {"image": 16, "keep": 4, "full": 16 + 66}
    prefill.table(run)


def test_the_native_twin_shares_weights_and_computes_what_the_model_does(prefill):
    """With all image tokens kept, the twin is the model."""
    from benchmarks.shapes import native, prompts

    shape = prefill.SHAPES["toy"]
    model = prefill.model(shape, torch.device("cpu"))
    twin = native(model, shape.image_tokens)
    inputs = prompts(shape, 2, shape.image_tokens, torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, twin(**inputs).logits)
    assert {id(weight) for weight in twin.parameters()} == {id(weight) for weight in model.parameters()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shape", "huge"), "no shape 'huge'"),
        (("--shape", "toy", "--keep", "65"), "--keep 65"),
        (("--shape", "toy", "--method", "magic"), "no method 'magic'"),
    ],
)
def test_wrong_options_are_refused_readably(run, words, said):
    done = run(*words)
    assert done.exit_code == 2 and said in " ".join(done.output.replace("│", "").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_shape_is_refused_without_a_gpu(run):
    done = run("--shape", "llava-1.5-7b")
    assert done.exit_code == 2 and "no" in done.output and "GPU" in done.output


def test_own_work_by_hand_from_the_least_disturbed_rounds(prefill):
    from benchmarks.own_work import bars, own_work

    def times(*values):
        return {"prefill": list(values), "prefill_cpu": list(values)}

    raw = {
        "full": times(8, 8, 8, 8, 99),
        "native": times(4, 4, 4, 4, 50),
        "native again": times(4, 4, 4, 4, 4),
        "fastv": {**times(5.2, 5.2, 5.2, 5.2, 90), "selection": [0.0] * 5, "passed": [0.25]},
        "slow": {**times(5.3, 5.3, 5.3, 7, 90), "selection": [0.5] * 5, "passed": [0.0]},
    }
    found = {name: own_work(name, raw, 100) for name in ("fastv", "slow")}
    assert found["fastv"]["to_own_work_least"] == pytest.approx(5.2 / (4 + 0.25 * (8 - 4)))  # 1.04: a quarter passed
    assert found["slow"]["to_own_work_least"] == pytest.approx(5.3 / 4.5)
    assert found["fastv"]["pays_from"] == pytest.approx(0.2 / (3 / 100))  # 0.2 more, 0.03 won with each dropped token
    for one in found.values():
        one |= {
            "prefill_to_native": {"median": 1, "q1": 1, "q3": 1},
            "selection_to_full": {"median": 0, "q1": 0, "q3": 0},
        }
    told = {bar["name"]: (bar["holds"], bar["known"]) for bar in bars("fastv", found, raw)}
    assert told["fastv: prefill to natively short and its own work"] == (True, True)
    assert told["slow: prefill to natively short and its own work"] == (False, True)
