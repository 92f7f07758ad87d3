"""The doctor finds healthy models healthy, and a broken engine broken."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from typer.testing import CliRunner
from zoo import CASES, DISCOVERED, Case

import checkpoints
from simignore.cli import app
from simignore.doctor import examine, tokens_per_image
from simignore.reduced import reduced
from simignore.splice import call, runs
from simignore.types import Selection

# those whose processors need no more than words and pictures; SmolVLM's looks into its video processor
EVERY = {n: case for n, case in {**CASES, **DISCOVERED}.items() if not case.options and n != "smolvlm"}


def processor(case: Case) -> Any:
    """The case's processor with a chat template, as real ones have."""
    made = copy.copy(case.shared_processor())
    made.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        + (case.image or "")
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    return made


@pytest.mark.parametrize("name", EVERY)
def test_every_family_is_found_healthy(name):
    case = EVERY[name]
    if case.model_type == "deepseek_vl":
        pytest.skip("two pictures side by side are one to a family that is not in the table")
    findings = list(examine(case.model(), processor(case)))
    assert [finding.result for finding in findings] == ["holds"] * 5, findings


def test_a_broken_engine_is_found_out(monkeypatch):
    case = CASES["llava-clip-llama"]
    model, made = case.model(), processor(case)

    def results():
        return {finding.guarantee: finding.result for finding in examine(model, made)}

    with monkeypatch.context() as broken:  # positions close up although they should be kept
        broken.setattr(
            runs, "take_places", lambda x, rows, dim: (x * 0) + runs.torch.arange(rows.shape[1]) if dim == -1 else x
        )
        assert results()["dropping is masking"] == "broken"
    with monkeypatch.context() as broken:  # one token more than was asked for
        honest = call._to_host
        broken.setattr(call, "_to_host", lambda chosen: honest(_one_more(chosen)))
        assert results()["the promised count stays, and all text"] == "broken"
    with monkeypatch.context() as broken:  # what one sample keeps depends on its neighbours
        broken.setattr("simignore.methods.random.Random.score", lambda self, view: runs.torch.rand(view.valid.shape))
        assert results()["a batch gives each sample what it gets alone"] == "broken"
    assert set(results().values()) == {"holds"}


def _one_more(chosen: Selection) -> Selection:
    source = chosen.source.clone()
    gone = (source == -1).float().argmax(1)
    source[range(len(source)), gone] = gone
    places = runs.torch.arange(source.shape[1])
    kept = source == places
    index = runs.torch.nn.utils.rnn.pad_sequence(
        [row.nonzero()[:, 0] for row in kept], batch_first=True, padding_value=-1
    )
    return Selection(index, source, chosen.score)


def test_tokens_are_counted_for_pictures_of_several_shapes():
    case = CASES["qwen2-vl"]
    found = tokens_per_image(case.model(), processor(case))
    assert all(
        count == int(rows) * int(columns) for count, grids in found.values() for rows, columns in [grids.split(" x ")]
    )
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].model_type not in ("llava", "vipllava")])
def test_a_reduced_model_has_the_same_structure(name):
    """Of a config that is small already only layers can go; kinds of layers stay, and the features still have their layer."""
    config = CASES[name].model().config
    small = reduced(config)
    text, whole = small.get_text_config(), config.get_text_config()
    assert set(getattr(text, "layer_types", None) or []) == set(getattr(whole, "layer_types", None) or [])
    assert text.num_hidden_layers <= whole.num_hidden_layers and type(small) is type(config)


def test_the_command_tells_what_it_found_and_fails_where_something_is_broken(tmp_path, monkeypatch):
    folder = checkpoints.save(tmp_path / "model")
    result = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["parts"]["decoder"] == "model.language_model (LlamaModel)" and found["image_token"] == 99
    assert found["tokens_per_image"]["640 x 480"] == [16, "4 x 4"]
    assert {finding["result"] for finding in found["findings"]} == {"holds"} and len(found["findings"]) == 5
    text = " ".join(CliRunner().invoke(app, ["doctor", str(folder)]).stdout.split())
    assert "LLaVA-1.5" in text and "random weights at reduced size" in text and "dropping is masking" in text
    monkeypatch.setattr(
        runs, "take_places", lambda x, rows, dim: (x * 0) + runs.torch.arange(rows.shape[1]) if dim == -1 else x
    )
    broken = CliRunner().invoke(app, ["doctor", str(folder)])
    assert broken.exit_code == 1 and "guarantees are broken" in broken.stderr


def test_the_doctor_names_what_cannot_be_served(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    result = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert result.exit_code == 2 and "'bert'" in result.stderr
