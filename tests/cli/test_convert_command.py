"""``simignore convert``: what people and programs read of it, and that its folder can be asked."""

import json
import os
import subprocess
import sys

import originals
import pytest
import torch


@pytest.fixture
def mipha(tmp_path):
    return originals.mipha(bias=1.0, fused=True).save(tmp_path / "mipha", "bin in shards")


def plain(text: str) -> str:
    return " ".join(text.split())


def test_people_read_what_became_of_every_tensor_and_what_to_do_next(simignore, tmp_path):
    tower = originals.save_tower(tmp_path / "clip", originals.llava().model)
    source = originals.llava(tower=False).save(tmp_path / "llava")
    result = simignore("convert", source, tmp_path / "out", "--vision-tower", tower)
    assert (result.exit_code, result.stderr) == (0, "")
    told = plain(result.stdout)
    for part in (
        "Layout LLaVA-1.5",
        "mapped: language model 21",
        "mapped: projector 4",
        "mapped: vision tower 55",
        "dropped 2 rotary table, computed from the config",
        "the tower's text half, of which LLaVA has no use",
        f"Added to the tokenizer: <image> (id {originals.KNOWN}), <pad> (id {originals.KNOWN + 1}).",
        f"Vocabulary: {originals.KNOWN} rows, now 64, each new one the mean of the others.",
        f"Written: {tmp_path / 'out'}, 168 kB in float32",
        f"--model {tmp_path / 'out'}",
    ):
        assert part in told, part


def test_miphas_fused_attention_and_bias_are_told(simignore, mipha, tmp_path):
    told = plain(simignore("convert", mipha, tmp_path / "out").stdout)
    assert "4 of the original's were cut into query, key and value" in told
    assert "folded 1 the bias of the head" in told and "has no lm_head.bias" in told
    assert f"Vocabulary: {originals.KNOWN + 20} rows, enough for them." in told and "dropped 0" in told


def test_json_holds_the_report(simignore, mipha, tmp_path):
    result = simignore("convert", mipha, tmp_path / "out", "--json", "--dtype", "bfloat16")
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert found["target"] == str(tmp_path / "out") and found["dtype"] == "bfloat16"
    assert (found["fused"], found["folded"], found["dropped"]) == (4, 1, {})
    assert found["size"] == sum(
        tensor.numel() * 2 for name, tensor in originals.mipha().state.items() if name != "lm_head.bias"
    )


def test_what_was_written_can_be_asked(simignore, mipha, photo, tmp_path):
    simignore("convert", mipha, tmp_path / "out")
    asked = simignore("ask", photo, "what is this ?", "--model", tmp_path / "out", "--keep", 4, "--runs", 1, "--json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["image_tokens"] == {"full": 16, "reduced": 4}


def test_the_whole_list_is_told_and_nothing_written(simignore, tmp_path):
    original = originals.mipha()
    for name in [name for name in original.state if ".mlp." in name]:
        del original.state[name]
    original.state.update({f"model.extra.{number}": torch.zeros(2) for number in range(40)})
    result = simignore("convert", original.save(tmp_path / "mipha"), tmp_path / "out")
    lines = result.stderr.splitlines()
    assert result.exit_code == 2 and result.stdout == "" and os.listdir(tmp_path) == ["mipha"]
    assert sum(line.startswith("left over: model.extra.") for line in lines) == 40
    assert sum(line.startswith("missing: ") for line in lines) == 2 * 4 + 3 * 4 + 4
    assert lines[-1].startswith("error: the tensors of") and "24 missing, 40 left over" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent", "out"], "no folder at absent"),
        (["mipha", "mipha"], "is there already and not empty"),
        (["mipha", "out", "--dtype", "int3"], "dtype 'int3' is none of float16, bfloat16, float32"),
        (["llava", "out"], "does not hold its vision tower, 'openai/clip-vit-small-patch8-32'"),
    ],
)
def test_mistakes_are_told_in_one_line(simignore, mipha, tmp_path, monkeypatch, arguments, says):
    originals.llava(tower=False).save(tmp_path / "llava")
    monkeypatch.chdir(tmp_path)
    result = simignore("convert", *arguments)
    assert result.exit_code == 2 and result.stdout == "" and not (tmp_path / "out").exists()
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and says in result.stderr


def test_debug_shows_where_a_tensor_did_not_fit(simignore, tmp_path):
    original = originals.mipha()
    del original.state["lm_head.bias"]
    result = simignore("convert", original.save(tmp_path / "mipha"), tmp_path / "out", "--debug")
    assert isinstance(result.exception, ValueError) and "lm_head.bias" in str(result.exception)


def test_help_carries_an_example(simignore):
    assert "Example: simignore convert" in plain(simignore("convert", "--help").stdout)


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from simignore.cli import app, convert; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
