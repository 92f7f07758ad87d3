"""Whatever a user gets wrong is told in one line on stderr, with exit code 2 and no traceback."""

import shutil
import struct
import zlib

import pytest
from PIL import Image

from simignore.methods import METHODS


def complaint(result) -> str:
    """The one line of an error; fails if there is anything else."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("error: ").strip()


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def truncated(path) -> bytes:
    Image.effect_noise((64, 64), 50).save(path, "PNG")
    return path.read_bytes()[:900]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("text.png", lambda path: b"this is no image", "cannot be read as an image"),
        ("empty.png", lambda path: b"", "cannot be read as an image"),
        ("truncated.png", truncated, "truncated"),
        ("bomb.png", lambda path: png(60_000, 60_000), "too large to open safely"),
        ("large.png", lambda path: png(11_000, 10_000), "more than"),
        ("flat.png", lambda path: png(0, 10), "flat.png"),
        ("absent.png", None, "no image file"),
    ],
)
def test_images(ask, tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content(path))
    told = complaint(ask(image=path))
    assert name in told and ("large.png" in name or says in told)


def test_a_folder_is_no_image(ask, tmp_path):
    assert "no image file" in complaint(ask(image=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keep", "0"], "keep=0 would keep no image token"),
        (["--keep", "-1"], "keep=-1 would keep no image token"),
        (["--keep", "0.0"], "keep=0.0 is not a fraction"),
        (["--keep", "1.5"], "keep=1.5 is not a fraction in (0, 1]; for a count write keep=2"),
        (["--keep", "150%"], "keep=1.5 is not a fraction"),
        (["--keep", "nan"], "keep=nan is not a fraction"),
        (["--keep", "9999"], "there are only 16"),
        (["--keep", "17"], "there are only 16"),
        (["--keep", "some"], "neither a count (64) nor a fraction"),
        (["--threshold", "nan"], "not a finite number"),
        (["--threshold", "0.3", "--keep", "Mass(0.9)"], "--threshold 0.3 keeps at most --keep Mass(share=0.9"),
        (["--threshold", "0.3", "--set", "keep=many"], "keeps at most --keep 'many', which must be a count (64) or a"),
        (["--method", "nope"], f"no method 'nope'; there are {', '.join(sorted(METHODS))}"),
        (["--method", "fastv", "--seed", "3"], "method 'fastv' has no option seed; its options are keep, layer, hide"),
        (["--keep", "Mass(2)"], "share=2 of the scores' sum must be in (0, 1]"),
        (["--keep", "Most(2)"], "there are AtLeast, Mass, OfAll, Outliers, Schedule"),
        (["--layer", "middle"], "neither a layer's number (5) nor a share"),
        (["--layer", "1.5"], "layer=1.5 is no share"),
        (["--method", "fastv", "--layer", "0"], "layer=0"),
        (["--method", "fastv", "--layer", "9"], "layers 1 to 3"),
        (["--seed", "3"], "method 'simignore' has no option seed"),
        (["--hide", "blur"], "hide='blur' is none of 'drop', 'mask'"),
        (["--positions", "new"], "positions='new' is none of"),
        (["--span", "options"], "no span 'options' (it has no options)"),
        (["--set", "similarity"], "write NAME=VALUE"),
        (["--set", "similarity=jaccard"], "similarity='jaccard' is none of"),
        (["--set", "keep=True"], "neither a count nor a fraction"),
        (["--preset", "nope"], "no preset 'nope'"),
        (["--preset", "fastv", "--keep", "4", "--method", "fastv"], "leave out --method, --keep"),
        (["--preset", "simignore/llava-1.5-7b", "--options", "red,blue"], "layer 5"),
        (["--options", ",".join("x" * 27)], "27 options are more than the 26 letters"),
        (["--options", "red"], "at least two"),
        (["--options", "red,,blue"], "none of them empty"),
        (["--answer-as", "text"], "add --options"),
        (["--options", "red,blue", "--answer-as", "song"], "'song' is none of"),
        (["--out", "kept.txt"], "no picture format"),
        (["--out", "kept"], "no picture format"),
        (["--runs", "0"], "--runs 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--device", "abacus"], "none of auto, cpu, cuda"),
        (["--dtype", "int3"], "none of auto, float32"),
        (["--also", "absent.png"], "no image file at absent.png"),
    ],
)
def test_options(ask, arguments, says):
    assert says in complaint(ask(*arguments))


@pytest.mark.parametrize("question", ["", "   "])
def test_an_empty_question(ask, question):
    assert "the question is empty" in complaint(ask(question=question))


def test_a_question_without_letters_still_has_to_be_compared(ask):
    assert ask(question="?").exit_code == 0


def test_an_image_without_a_question(simignore, photo):
    assert "what about" in complaint(simignore("ask", photo))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "holds no config.json"),
        ('{"model_type": "bert"}', "model type 'bert' is none of aria"),
        ("{}", "model type None is none of aria"),
        ("no json", "config.json"),
        ('{"model_type": "llava"}', "cannot be loaded"),
    ],
)
def test_folders_that_are_no_model(simignore, photo, tmp_path, config, says):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert says in complaint(simignore("ask", photo, "What?", "--model", tmp_path))


def test_a_model_that_is_nowhere(simignore, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "no model folder at" in complaint(simignore("ask", photo, "What?", "--model", tmp_path / "absent"))
    assert "no model folder at ./absent" in complaint(simignore("ask", photo, "What?", "--model", "./absent"))


def test_a_name_that_the_hub_does_not_give(simignore, photo, monkeypatch):
    from transformers import PretrainedConfig

    def fail(name):
        raise OSError(f"cannot reach\nthe hub for {name}")

    monkeypatch.setattr(PretrainedConfig, "get_config_dict", fail)
    told = complaint(simignore("ask", photo, "What?", "--model", "some/absent-model"))
    assert "no model 'some/absent-model'" in told and "cannot reach the hub" in told


def test_a_torn_checkpoint(simignore, checkpoint, photo, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "torn")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be loaded" in complaint(simignore("ask", photo, "What?", "--model", folder))


def test_wrong_options_are_told_before_a_model_is_loaded(simignore, photo, monkeypatch):
    from simignore.cli import models

    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the model was loaded"))
    for wrong in (["--keep", "0"], ["--method", "nope"], ["--out", "kept.txt"], ["--options", "red"]):
        complaint(simignore("ask", photo, "What?", *wrong))
    complaint(simignore("ask", "absent.png", "What?"))
    complaint(simignore("ask", photo, ""))


def test_debug_shows_where_it_happened(ask):
    result = ask("--keep", "0", "--debug")
    assert isinstance(result.exception, ValueError) and "keep=0" in str(result.exception)


def test_faults_of_the_program_are_not_dressed_up(ask, monkeypatch):
    from simignore.cli import beside

    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(beside, "compare", broken)
    assert isinstance(ask().exception, RuntimeError)
