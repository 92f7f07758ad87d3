"""Over Ray: the same answers in the same files as in one process, also when a worker is killed in the middle."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest

import simignore
from simignore import FastV, Simignore
from simignore.cli.models import Loader
from simignore.evaluate import sweep
from simignore.evaluate.batch import answer_table, answer_table_on_ray
from simignore.evaluate.benchmarks.scenes import Scenes
from simignore.evaluate.table import Table

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from simignore.evaluate import ray as over  # noqa: E402

METHODS = {"all": None, "simignore": Simignore(keep=0.25), "fastv": FastV(keep=0.25, layer=2)}
SCENES = Scenes(per_kind=1)
ITEMS = SCENES.items()[:10]
BATCH = 4  # 3 batches, the last of them smaller


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def tiny():
    return simignore.tiny.load()


def mortal(folder: Path, after: int):
    """Loads the bundled model; the first worker to generate for the ``after``-th time is killed in the middle of that."""

    class Mortal:  # of this function, so that it is pickled by value: workers cannot import tests
        device = "cpu"

        def __call__(self):
            model, processor = Loader("tiny", "cpu")()
            generate, calls, mark = model.generate, [], folder / "killed"
            with (folder / "loads").open("a") as loads:
                loads.write(f"{os.getpid()}\n")

            def once_deadly(*args, **kwargs):
                calls.append(1)
                if len(calls) == after and not mark.exists():
                    mark.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                return generate(*args, **kwargs)

            model.generate = once_deadly
            return model, processor

    return Mortal()


def killed_and_replaced(folder: Path) -> bool:
    loads = (folder / "loads").read_text().split()
    return (folder / "killed").read_text() in loads[:-1] and len(set(loads)) > 1


def record(folder: Path) -> tuple[bytes, dict, dict]:
    """Everything in a run's folder that may not depend on where it was computed."""
    config, metrics = (json.loads((folder / name).read_text()) for name in ("config.json", "metrics.json"))
    del config["starts"], metrics["last_start"]
    return (folder / "predictions.jsonl").read_bytes(), config, metrics


def folders(path: Path) -> dict[str, Path]:
    return {name: path / name for name in METHODS}


def test_a_killed_worker_changes_nothing_and_either_way_goes_on_with_the_other(tiny, tmp_path):
    alone, spread, begun = tmp_path / "alone", tmp_path / "spread", tmp_path / "begun"
    expected = sweep(*tiny, SCENES, METHODS, ITEMS, batch=BATCH, folders=folders(alone), name="tiny")

    ticks: list[int] = []
    load = mortal(tmp_path, after=5)  # in the second batch, under its second method
    settings = {"batch": BATCH, "name": "tiny", "workers": 1}
    found = over.sweep_on_ray(load, SCENES, METHODS, ITEMS, folders=folders(spread), tick=ticks.append, **settings)
    assert killed_and_replaced(tmp_path)
    assert {name: result.rows for name, result in found.items()} == {n: r.rows for n, r in expected.items()}
    assert {name: result.metrics for name, result in found.items()} == {n: r.metrics for n, r in expected.items()}
    assert [record(spread / name) for name in METHODS] == [record(alone / name) for name in METHODS]
    assert sum(ticks) == len(ITEMS) * len(METHODS)

    # begun over Ray, stopped, and ended in one process
    predictions = spread / "fastv" / "predictions.jsonl"
    predictions.write_bytes(predictions.read_bytes()[:-30])
    (spread / "fastv" / "metrics.json").unlink()
    sweep(*tiny, SCENES, METHODS, ITEMS, batch=BATCH, folders=folders(spread), name="tiny")
    assert record(spread / "fastv") == record(alone / "fastv")

    # begun in one process, stopped after the first batch of one method, and ended over Ray
    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(*tiny, SCENES, METHODS, ITEMS, batch=BATCH, folders=folders(begun), name="tiny", tick=stop)
    assert len((begun / "all" / "predictions.jsonl").read_text().splitlines()) == BATCH
    over.sweep_on_ray(Loader("tiny", "cpu"), SCENES, METHODS, ITEMS, folders=folders(begun), **settings)
    assert [record(begun / name) for name in METHODS] == [record(alone / name) for name in METHODS]


def test_a_table_over_ray(tiny, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, item in enumerate(ITEMS[:7]):
        item.images[0]().save(images / f"{number}.png")
    (images / "3.png").write_bytes(b"this is no image")
    table = Table(images, question="Describe the image.", max_new_tokens=24)
    items, method = table.items(), Simignore(keep=0.25)
    alone, spread = tmp_path / "alone.jsonl", tmp_path / "spread.jsonl"
    expected = answer_table(*tiny, table, method, items, alone, batch=2, name="tiny")
    load = mortal(tmp_path, after=3)
    assert answer_table_on_ray(load, table, method, items, spread, batch=2, name="tiny", workers=1) == expected
    assert killed_and_replaced(tmp_path)
    assert spread.read_bytes() == alone.read_bytes() and [n for n, row in enumerate(expected) if "error" in row] == [3]


def test_what_the_user_got_wrong_is_said_as_in_one_process(tmp_path):
    with pytest.raises(OSError, match="no model folder at") as alone:
        Loader(str(tmp_path / "none"))()
    with pytest.raises(ValueError) as spread:
        over.sweep_on_ray(Loader(str(tmp_path / "none")), SCENES, METHODS, ITEMS)
    assert str(spread.value) == str(alone.value)
    with pytest.raises(ValueError, match="--device cuda: the Ray cluster has no GPU"):
        over.sweep_on_ray(Loader("tiny", "cuda"), SCENES, METHODS, ITEMS)


@pytest.mark.parametrize(
    ("machines", "device", "needs"),
    [
        ([{"CPU": 8.0}, {"CPU": 3.0}], "auto", over.Needs(2, 0, 5)),
        ([{"CPU": 1.0}], "auto", over.Needs(1, 0, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}], "auto", over.Needs(1, 1, 3)),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}], "cuda", over.Needs(1, 1, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], "cpu", over.Needs(2, 0, 4)),
    ],
)
def test_a_worker_takes_one_gpu_or_as_many_cpus_as_this_process_has_threads(monkeypatch, machines, device, needs):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": machine} for machine in machines])
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert over.needs(device) == needs
    assert over.needs(device).threads == (None if needs.gpus else needs.cpus)


def test_an_address_where_no_cluster_is(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with (
        pytest.raises(ValueError, match="'nonsense' is no address; write local, auto or host:port"),
        over.connected("nonsense"),
    ):
        pass
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(OSError, match=f"--ray {address}: nothing answers there"), over.connected(address):
            pass


def test_results_are_put_into_order_as_early_as_possible():
    seen = []

    def results():
        for number in (1, 0, 3, 4, 2):
            seen.append(number)
            yield number, "abcde"[number]

    found = over.in_order(results())
    assert next(found) == "a" and seen == [1, 0]
    assert "".join(found) == "bcde"
