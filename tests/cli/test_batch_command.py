"""``simignore batch``: what is written is what the library answers, also after kill -9; nothing else is needed than PyTorch."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import simignore as library
from simignore.evaluate.batch import answer_table
from simignore.evaluate.benchmarks.scenes import draw
from simignore.evaluate.table import Table
from simignore.tiny.scenes import SPLITS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        draw(SPLITS["test"].start + number, 1).save(folder / f"{number}.png")
    return folder


def test_it_does_what_the_library_does_and_goes_on_after_kill_9(simignore, images, tmp_path):
    out, settings = tmp_path / "new" / "a.jsonl", ["--caption", "--batch-size", 1, "--keep", 49, "--set", "skip=1"]
    command = [sys.executable, "-c", "from simignore.cli import app; app()", "batch", images, *settings, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, started.stderr.read().decode()
    before = out.read_bytes()
    assert 0 < before.count(b"\n") < 6

    result = simignore("batch", images, *settings, "--out", out)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"6 answers in {out}\n", "")
    table = Table(images, question="Describe the image.")
    method = library.Simignore(keep=49, skip=1)
    expected = answer_table(*library.tiny.load(), table, method, table.items(), tmp_path / "b.jsonl", batch=1)
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert [json.loads(line) for line in out.read_text().splitlines()] == expected
    assert len(json.loads((tmp_path / "new" / "a.jsonl.config.json").read_text())["starts"]) == 2


def test_it_needs_neither_ray_nor_pyarrow_nor_pandas(simignore, images, tmp_path, monkeypatch):
    for package in ("ray", "pyarrow", "pandas"):
        monkeypatch.setitem(sys.modules, package, None)
    settings = ["--question", "Describe the image.", "--max-new-tokens", 4]
    assert simignore("batch", images, *settings, "--out", tmp_path / "a.csv").exit_code == 0
    assert (tmp_path / "a.csv").read_text().startswith("id,image,question,answer,error,")
    over = simignore("batch", images, *settings, "--out", tmp_path / "b.csv", "--ray", "local")
    assert over.exit_code == 2 and "pip install 'simignore[ray]'" in over.stderr
    written = simignore("batch", images, *settings, "--out", tmp_path / "b.parquet")
    assert written.exit_code == 2 and "pip install pyarrow" in written.stderr


def test_a_row_without_an_answer_is_told(simignore, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text(f"image,id\nbroken.png,one\n{images / '0.png'},two\n")
    out = tmp_path / "a.jsonl"
    result = simignore("batch", tmp_path / "t.csv", "--caption", "--max-new-tokens", 4, "--out", out)
    assert result.exit_code == 1 and result.stdout == f"1 answers in {out}\n"
    assert "1 of 2 rows have none, such as one" in result.stderr and "broken.png cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "row 1: it has no question; add a column question, or ask with --question or --caption"),
        (["--caption", "--question", "What?"], "leave out --question or --caption"),
        (["--caption", "--workers", 2], "--workers 2 is for Ray; add --ray local"),
        (["--caption", "--out", "a.txt"], "--out a.txt: .txt is none of .jsonl, .csv, .parquet"),
        (["--caption", "--keep", "0"], "keep=0 would keep no image token"),
        (["--caption", "--method", "nothing"], "no method 'nothing'"),
        (["--caption", "--answer-as", "song"], "'song' is none of"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(simignore, images, monkeypatch, tmp_path, arguments, says):
    monkeypatch.setattr("simignore.cli.models.load", lambda *given: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    result = simignore("batch", images, *arguments)
    assert result.exit_code == 2 and result.stdout == "" and says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_carries_an_example_and_loads_nothing_heavy(simignore):
    result = simignore("batch", "--help")
    assert result.exit_code == 0 and "Example: simignore batch" in " ".join(result.stdout.split())
    script = (
        "import sys; from simignore.cli import app\n"
        "sys.argv = ['simignore', 'batch', '--help']\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'PIL', 'ray', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
