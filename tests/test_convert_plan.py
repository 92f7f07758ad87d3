"""Every tensor of an original checkpoint is accounted for; whatever does not fit is told, and then nothing is written."""

import os
import shutil
from pathlib import Path

import originals
import pytest
import torch
import transformers

from simignore.convert import MappingError, convert, plan, shards
from simignore.convert.layouts import LAYOUTS, TOWER, Rule


@pytest.fixture
def tower(tmp_path):
    return originals.save_tower(tmp_path / "clip", originals.llava().model)


def refused(tmp_path: Path, source: Path, kind: type[Exception] = ValueError, **how: object) -> str:
    """The message of a refusal; fails if anything was written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind) as error:
        convert(source, tmp_path / "out", **how)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_every_tensor_that_does_not_fit_is_listed(tmp_path):
    original = originals.mipha()
    state = original.state
    state["model.layers.9.mlp.fc1.weight"] = state.pop("model.layers.1.mlp.fc1.weight")
    state["model.image_newline"] = torch.zeros(32)
    state["model.mm_projector.0.weight"] = torch.zeros(32, 25)
    del state["lm_head.bias"], state["model.vision_tower.vision_model.embeddings.patch_embedding.bias"]
    with pytest.raises(MappingError) as error:
        convert(original.save(tmp_path / "mipha"), tmp_path / "out")
    found = {(problem.kind, problem.name) for problem in error.value.problems}
    assert found == {
        ("missing", "language_model.model.layers.1.mlp.fc1.weight"),
        ("missing", "language_model.lm_head.bias"),
        ("missing", "vision_tower.vision_model.embeddings.patch_embedding.bias"),
        ("left over", "model.layers.9.mlp.fc1.weight"),
        ("left over", "model.image_newline"),
        ("wrong shape", "model.mm_projector.0.weight"),
    }
    told = str(error.value)
    assert all(name in told for _, name in found) and "[32, 25] found, [32, 24] wanted" in told
    assert "3 missing, 2 left over, 1 wrong shape" in told and "nothing was written" in told
    assert "out" not in os.listdir(tmp_path)


def test_a_tower_that_is_not_there_is_named(tmp_path, tower):
    source = originals.llava(tower=False).save(tmp_path / "llava")
    told = refused(tmp_path, source)
    assert "openai/clip-vit-small-patch8-32" in told and "--vision-tower FOLDER" in told
    (tower / "model.safetensors").unlink()
    assert "holds no weights" in refused(tmp_path, source, OSError, vision_tower=tower)
    (tower / "config.json").write_text('{"model_type": "llama"}')
    (tower / "model.safetensors").write_bytes(b"")
    assert "cannot be read" in refused(tmp_path, source, vision_tower=tower)


def test_a_tower_of_unknown_size(tmp_path):
    told = refused(tmp_path, originals.llava().save(tmp_path / "llava"))
    assert "how large" in told and "--vision-tower" in told


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llava_mpt"}, "'llava_mpt', and there are tables for llava, llava_llama, mipha_phi, llava_phi"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio='anyres'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "LLaVA-1.6"),
        ({"mm_use_im_start_end": True}, "marks around an image"),
        ({"s2": True}, "one scale"),
        ({"mm_vision_tower": "facebook/dinov2"}, "neither a CLIP nor a SigLIP"),
        ({"mm_vision_tower": None, "text_config": {}}, "transformers layout already"),
        ({"mm_vision_tower": None}, "names no vision tower"),
        ({"hidden_size": "wide", "mm_vision_tower": "x/clip-vit-large-patch14-336"}, "cannot be used"),
        ({"torch_dtype": "int8"}, "dtype 'int8' is none of"),
    ],
)
def test_configs_that_cannot_be_converted(tmp_path, changes, says):
    original = originals.llava(**changes)
    if changes.get("mm_vision_tower", "") is None:
        del original.config["mm_vision_tower"]
    assert says in refused(tmp_path, original.save(tmp_path / "llava"))


def test_folders_that_are_no_checkpoint(tmp_path):
    assert "no folder at" in refused(tmp_path, tmp_path / "absent", OSError)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path, tmp_path / "empty", OSError)
    (tmp_path / "empty/config.json").write_text("[")
    assert "no JSON object" in refused(tmp_path, tmp_path / "empty")
    source = originals.mipha().save(tmp_path / "mipha")
    (source / "model.safetensors").unlink()
    assert "holds no weights" in refused(tmp_path, source, OSError)
    (source / "mm_projector.bin").touch()
    assert "a projector alone" in refused(tmp_path, source, OSError)
    (source / "adapter_config.json").touch()
    assert "LoRA" in refused(tmp_path, source, OSError)


def test_torn_and_missing_and_repeated_shards(tmp_path):
    source = originals.mipha().save(tmp_path / "mipha", "safetensors in shards")
    second = source / "model-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:300])
    assert "cannot be read" in refused(tmp_path, source)
    second.unlink()
    assert "shards that are not there: model-00002-of-00003.safetensors" in refused(tmp_path, source, OSError)
    shutil.copy(source / "model-00001-of-00003.safetensors", second)
    assert "an earlier shard holds too" in refused(tmp_path, source)
    second.write_bytes(whole)
    (source / "tokenizer.json").unlink()
    assert "tokenizer" in refused(tmp_path, source)


def test_a_sentencepiece_model_needs_two_packages(tmp_path, monkeypatch):
    source = originals.mipha().save(tmp_path / "mipha")
    (source / "tokenizer.json").rename(source / "tokenizer.model")
    monkeypatch.setattr(transformers.utils, "is_sentencepiece_available", lambda: False)
    monkeypatch.setattr(transformers.utils, "is_protobuf_available", lambda: False)
    assert "pip install sentencepiece protobuf" in refused(tmp_path, source)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_pickles_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = originals.mipha().save(tmp_path / "mipha", "bin")
    for content, says in (
        ({"a": Harmful()}, "more than tensors"),
        ({"a": 3}, "no tensors: a (int)"),
        ([1], "no state dict"),
    ):
        torch.save(content, source / "pytorch_model.bin")
        assert says in refused(tmp_path, source)
    (source / "pytorch_model.bin").write_bytes(b"torn")
    assert "pytorch_model.bin" in refused(tmp_path, source)


def test_a_target_that_is_there_is_left_alone(tmp_path):
    source = originals.mipha().save(tmp_path / "mipha")
    (tmp_path / "out").mkdir()
    mode = (tmp_path / "out").stat().st_mode
    convert(source, tmp_path / "out")  # empty: taken
    assert (tmp_path / "out").stat().st_mode == mode
    assert "not empty" in refused(tmp_path, source, OSError)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is there already"):
        convert(source, tmp_path / "file")


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    source = originals.mipha().save(tmp_path / "mipha")

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    assert "no space" in refused(tmp_path, source, OSError)
    monkeypatch.setattr(shards.Writer, "close", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["mipha"]


def test_a_plan_needs_names_and_shapes_only():
    rules = (Rule(r"(a|b)\.w", (r"new.\1",)), Rule(r"old\..+", why="old"), Rule(r"f", ("new.q", "new.k", "new.v")))
    wanted = {"new.a": (2, 3), "new.b": (4,), "new.q": (2, 5), "new.k": (2, 5), "new.v": (2, 5)}
    made = plan({"a.w": (2, 3), "b.w": (4,), "old.x": (1,), "f": (6, 5)}, rules, wanted)
    assert made.moves == {"a.w": ("new.a",), "b.w": ("new.b",), "f": ("new.q", "new.k", "new.v")}
    assert made.drops == {"old.x": "old"} and made.problems == ()
    bad = plan({"a.w": (3, 2), "c": (1,), "f": (6, 4)}, rules, wanted)
    assert [(p.kind, p.name) for p in bad.problems] == [
        ("wrong shape", "a.w"),
        ("left over", "c"),
        ("wrong shape", "f"),
        ("missing", "new.b"),
    ]
    twice = plan({"x.a": (1,), "y.a": (1,)}, (Rule(r".\.(a)", (r"\1",)),), {"a": (1,)})
    assert [(p.kind, p.name) for p in twice.problems] == [("left over", "y.a")]


def test_no_rule_hides_another():
    """A name that a rule maps must not be dropped by an earlier one: position embeddings are no position ids."""
    for rules in (*(layout.rules for layout in LAYOUTS), TOWER):
        made = plan(
            {"model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": (1,)}, rules, {}
        )
        assert not made.drops
