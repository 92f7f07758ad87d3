"""The command line as a whole: help, version, lists."""

import json
import subprocess
import sys

import pytest

import simignore as library
from simignore.families import FAMILIES
from simignore.methods import PRESETS


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ask", "--help"], ["list", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    script = (
        "import sys, atexit\n"
        "heavy = 'torch', 'transformers', 'numpy', 'PIL', 'safetensors', 'tokenizers'\n"
        "atexit.register(lambda: print('LOADED', sorted(set(heavy) & set(sys.modules))))\n"
        "from simignore.cli import app\n"
        f"sys.argv = ['simignore', *{arguments!r}]\n"
        "app()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LOADED []")


def test_version(simignore):
    assert simignore("--version").stdout == f"simignore {library.__version__}\n"


@pytest.mark.parametrize("command", [[], ["ask"], ["list"]])
def test_every_help_carries_an_example(simignore, command):
    result = simignore(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: simignore {(command or ['ask'])[0]}" in " ".join(result.stdout.split())


def test_the_help_of_ask_names_the_options_that_methods_share_and_list_the_others(simignore):
    from dataclasses import fields

    from simignore.cli.ask import ask

    typed = ask.__wrapped__.__annotations__
    beyond = {field.name for kind in library.METHODS.values() for field in fields(kind)} - set(typed)
    told = " ".join(simignore("list", "methods").stdout.split())
    assert beyond and all(f"{option}=" in told or f"{option}," in told for option in beyond)  # these go through --set


def test_lists_as_json(simignore):
    found = json.loads(simignore("list", "--json").stdout)
    assert [row["name"] for row in found["methods"]] == list(library.METHODS)
    assert {row["name"]: row["method"] for row in found["presets"]} == {name: str(m) for name, m in PRESETS.items()}
    assert [row["model_type"] for row in found["families"]] == list(FAMILIES)
    rows = {row["name"]: row for row in found["methods"]}
    assert rows["fastv"]["cuts"] == "in the decoder, before layer 2" and rows["fastv"]["reads"] == "decoder attention"
    assert rows["visionzip"]["merges"] and not rows["visionzip"]["text_guided"] and rows["simignore"]["text_guided"]
    assert all(row["source"] for row in found["methods"])
    assert rows["simignore"]["cuts"] == "before the decoder" and "similarity=cosine" in rows["simignore"]["options"]
    assert all(row["what"].endswith(".") for row in found["methods"])


def test_lists_for_people(simignore):
    whole = simignore("list").stdout
    for name in [*library.METHODS, *PRESETS, *FAMILIES]:
        assert name in whole
    only = simignore("list", "families").stdout
    assert "llava" in only and "fastv" not in only


def test_an_unknown_list(simignore):
    result = simignore("list", "cats")
    assert result.exit_code == 2 and "there are methods, presets, families" in result.stderr


def test_an_unknown_option_is_refused(simignore):
    assert simignore("ask", "--kepe", "3").exit_code == 2
