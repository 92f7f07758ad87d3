"""``simignore ask``: what it prints is what the library does, and the picture is of it."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
import models
import simignore as library
from simignore.figures.kept import bright_and_dark
from simignore.select import from_kept
from simignore.types import Answer

FACTS = {
    "images": list,
    "question": str,
    "context": (str, type(None)),
    "options": list,
    "model": str,
    "versions": dict,
    "device": str,
    "dtype": str,
    "prompt": str,
    "method": str,
    "compared_with": (dict, type(None)),
    "answer": dict,
    "image_tokens": dict,
    "prompt_tokens": dict,
    "prefill_seconds": dict,
    "prefill_ratio": float,
    "selection_seconds": float,
    "runs": int,
    "cache_bytes": dict,
    "grids": list,
    "kept": list,
    "score": (list, type(None)),
    "score_kind": (str, type(None)),
    "notes": list,
    "picture": (str, type(None)),
}


def facts(result):
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1 and result.stdout.endswith("}\n")
    return json.loads(result.stdout)


def directly(
    photo, method: library.Method | None, question: str = "What colour is the bus?", **words: object
) -> Answer:
    """The library's own answer about the picture, without the command line."""
    processor = checkpoints.processor()
    prompt = library.build(processor, photo, question, **words)
    return library.ask(models.model(), processor, prompt, method, max_new_tokens=3)


def test_json_holds_every_fact_in_plain_types(ask):
    found = facts(ask("--json", "--keep", "4"))
    assert found.keys() == FACTS.keys()
    assert [name for name, kind in FACTS.items() if not isinstance(found[name], kind)] == []
    for name in ("answer", "image_tokens", "prompt_tokens", "prefill_seconds", "cache_bytes"):
        assert found[name].keys() == {"full", "reduced"}
    assert found["image_tokens"] == {"full": 16, "reduced": 4}
    assert found["prompt_tokens"]["full"] - found["prompt_tokens"]["reduced"] == 12
    # 4 layers, 2 key-value heads of width 8, keys and values in float32
    assert found["cache_bytes"] == {
        side: found["prompt_tokens"][side] * 4 * 2 * 8 * 2 * 4 for side in ("full", "reduced")
    }
    assert found["prefill_seconds"]["full"] > 0 and 0 < found["selection_seconds"] < found["prefill_seconds"]["reduced"]
    assert found["prefill_ratio"] == found["prefill_seconds"]["reduced"] / found["prefill_seconds"]["full"]
    assert found["grids"] == [[4, 4]] and len(found["kept"]) == 4 and len(found["score"]) == 16
    assert found["versions"]["simignore"] == library.__version__ and found["versions"]["torch"] == torch.__version__
    assert (found["device"], found["dtype"], found["picture"], found["notes"][1:]) == ("cpu", "float32", None, [])
    assert found["notes"] == ["of the 96 x 32 image the model sees 32 x 32 only"]


@pytest.mark.parametrize(
    ("arguments", "method", "words"),
    [
        (["--keep", "0.25"], library.Simignore(keep=0.25), {}),
        ([], library.Simignore(keep=0.25), {}),
        (["--keep", "5", "--set", "similarity=dot"], library.Simignore(keep=5, similarity="dot"), {}),
        (["--threshold", "0.1"], library.Simignore(keep=library.AtLeast(0.1)), {}),
        (["--threshold", "0.1", "--keep", "3"], library.Simignore(keep=library.AtLeast(0.1, cap=3)), {}),
        (["--method", "random", "--seed", "7", "--keep", "50%"], library.Random(keep=0.5, seed=7), {}),
        (
            ["--method", "fastv", "--layer", "1", "--positions", "reindex"],
            library.FastV(layer=1, positions="reindex"),
            {},
        ),
        (["--hide", "mask", "--keep", "1"], library.Simignore(keep=1, hide="mask"), {}),
        (["--preset", "fastv"], library.preset("fastv"), {}),
        (
            ["--options", "red, blue,green", "--span", "options", "--context", "a hint", "--answer-as", "text"],
            library.Simignore(keep=0.25, span="options"),
            {"options": ["red", "blue", "green"], "context": "a hint", "answer": "text"},
        ),
        (["--options", "red, green|blue"], library.Simignore(keep=0.25), {"options": ["red, green", "blue"]}),
    ],
)
def test_it_does_what_the_library_does(ask, photo, arguments, method, words):
    found = facts(ask("--json", *arguments))
    reduced, full = directly(photo, method, **words), directly(photo, None, **words)
    assert found["method"] == repr(method)
    assert found["answer"] == {"full": full.text, "reduced": reduced.text}
    chosen = reduced.trace.selections[0]
    assert found["kept"] == chosen.index[0].tolist()
    assert found["score"] == pytest.approx(chosen.score[0].tolist())


def test_the_picture_shows_the_kept_tokens_on_what_the_model_saw(ask, photo, tmp_path):
    out = tmp_path / "new" / "kept.png"
    found = facts(ask("--json", "--keep", "5", "--out", out))
    assert found["picture"] == str(out)
    picture = Image.open(photo).convert("RGB")
    side, left, top = (
        min(picture.size),
        (picture.width - min(picture.size)) // 2,
        (picture.height - min(picture.size)) // 2,
    )
    seen = picture.crop((left, top, left + side, top + side))  # the processor looks at the centre square alone
    kept = np.zeros(16, dtype=bool)
    kept[found["kept"]] = True
    panel = np.asarray(bright_and_dark(seen, kept.reshape(4, 4), cell=(120, 120)))
    sheet = np.asarray(Image.open(out))
    places = np.argwhere((sheet[:-479, :-479] == panel[0, 0]).all(-1))
    assert any(np.array_equal(sheet[y : y + 480, x : x + 480], panel) for y, x in places)


def test_people_read_answers_tokens_time_and_memory(ask, photo):
    result = ask("--keep", "4", question="Is [red]this[/red] the bus?")
    assert result.exit_code == 0 and result.stderr == ""
    text = " ".join(result.stdout.split())
    assert "Question Is [red]this[/red] the bus?" in text
    assert directly(photo, library.Simignore(keep=4), "Is [red]this[/red] the bus?").text in text
    for part in (
        "image tokens 16 4 of 16",
        "of that with all image tokens",
        "KV cache",
        "the span 'user'",
        "one run of each",
    ):
        assert part in text


def test_a_threshold_nothing_reaches_is_told(ask):
    result = ask("--threshold", "5")
    assert "1 of 16" in result.stdout
    assert "no image token reached the threshold 5" in " ".join(result.stdout.split())


def test_several_images(ask, photo, tmp_path):
    found = facts(ask("--json", "--also", photo, "--keep", "8", "--out", tmp_path / "two.png"))
    assert found["grids"] == [[4, 4], [4, 4]] and found["image_tokens"] == {"full": 32, "reduced": 8}
    assert found["images"] == [str(photo), str(photo)]
    with Image.open(tmp_path / "two.png") as drawn:
        assert drawn.height > 2 * 480


def test_several_runs_are_counted(ask):
    assert facts(ask("--json", "--runs", "3"))["runs"] == 3  # the last --runs counts


def test_other_dtypes(ask):
    assert facts(ask("--json", "--dtype", "bfloat16"))["dtype"] == "bfloat16"


def test_the_bundled_picture_and_model_are_the_default(simignore, photo, monkeypatch):
    import simignore.tiny as tiny

    monkeypatch.setattr(tiny, "example", lambda: photo, raising=False)
    monkeypatch.setattr(tiny, "EXAMPLE_QUESTION", "Which colour?", raising=False)
    monkeypatch.setattr(tiny, "load", lambda device, dtype: (models.model(), checkpoints.processor()), raising=False)
    short = ["--json", "--runs", 1, "--max-new-tokens", 2]
    found = facts(simignore("ask", *short))
    assert (found["images"], found["question"], found["model"]) == ([str(photo)], "Which colour?", "tiny")
    assert facts(simignore("ask", "What is this?", *short))["question"] == "What is this?"
    assert facts(simignore("ask", "example", "What is this?", *short))["images"] == [str(photo)]
    assert facts(simignore("ask", "example", *short))["question"] == "Which colour?"


@dataclass(frozen=True)
class Every(library.Method):
    """Keep every so-manieth token. It scores the first half only."""

    step: int = 2

    def choose(self, view: library.View) -> library.Selection:
        places = torch.arange(view.valid.shape[1])
        score = torch.where(places < 8, places.float(), torch.nan)
        return from_kept((places % self.step == 0)[None], score[None])


def test_a_new_method_is_on_the_command_line_by_itself(ask, simignore, monkeypatch, tmp_path):
    monkeypatch.setitem(library.METHODS, "every", Every)
    found = facts(ask("--json", "--method", "every", "--set", "step=5", "--out", tmp_path / "kept.png"))
    assert found["kept"] == [0, 5, 10, 15] and found["compared_with"] is None
    assert found["method"] == repr(Every(keep=0.25, step=5))
    assert found["score"] == [*range(8), *[None] * 8] and found["score_kind"] == "score"
    assert "Keep every so-manieth token." in " ".join(simignore("list", "methods", "--json").stdout.split())


SEEN, LAST = "attention in the vision tower", "attention of the last prompt token"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (library.Simignore(keep=4), "cosine similarity"),
        (library.Simignore(keep=4, similarity="manhattan"), "minus manhattan distance"),
        (library.Simignore2(keep=4, similarity="dot"), f"geometric mean of dot product and {SEEN}"),
        (library.Simignore2(keep=4, attention=0), "cosine similarity"),
        (library.CDPruner(keep=4), "relevance to the text, 0 to 1"),
        (library.SparseVLM(keep=4), "attention of the words that resemble the image"),
        (library.PyramidDrop(keep=4), LAST),
        (library.UniformGrid(keep=4), ""),
        (library.Diverse(library.FastV(keep=4)), LAST),
        (library.Merged(library.Diverse(library.FasterVLM(keep=4))), SEEN),
        (library.FrameBudget(library.EVS(keep=4)), "change since the frame before"),
        (
            library.Product(library.Simignore(keep=4), library.Received(keep=4)),
            "geometric mean of cosine similarity and attention received in the vision tower",
        ),
        (library.Chain(library.DivPrune(keep=9), library.FastV(keep=4)), LAST),  # the first of them that has scores
        (library.Chain(library.Simignore(keep=9), library.FastV(keep=4)), "cosine similarity"),
    ],
    ids=str,
)
def test_the_caption_says_what_the_scores_are(method, kind):
    assert method.score_kind == kind


@pytest.mark.parametrize("name", library.METHODS)
def test_every_method_that_has_scores_names_them(name):
    kind = library.METHODS[name]
    assert kind.score_name != "score" or "score_kind" in vars(kind)
    assert kind.score_name or not kind.scored


def test_ask_tells_what_the_scores_are(ask, tmp_path):
    out = tmp_path / "kept.png"
    found = facts(ask("--json", "--method", "simignore2", "--keep", "4", "--out", out))
    assert found["score_kind"] == f"geometric mean of cosine similarity and {SEEN}" and out.is_file()
    assert facts(ask("--json", "--method", "uniform-grid", "--keep", "4"))["score_kind"] is None
