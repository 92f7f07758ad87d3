"""Evaluation beyond one machine: whole batches of questions go over Ray Data to workers that each hold the model.

A row of the data set is one batch of questions, the same as in a single process, so padding, rounding and answers are the same
too. Results come back as they are ready and are put into order before they are kept. What starts, feeds, restarts and stops the
workers is Ray Data's: a worker that is killed is started anew and its batch answered again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from simignore.evaluate.answering import Answerer, Told
from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.harness import Facts, Result, in_turn, started, unanswered
from simignore.evaluate.identity import about
from simignore.methods import Method
from simignore.surroundings import surroundings

LOCAL = "local"
BLOCKS = 2000  # rows are spread over at most so many; what is in one block is answered again together
_USERS = (ValueError, KeyError, OSError)  # errors that a user can cause

Answers = Callable[[Any], Any]
Make = Callable[[Any, Any], Answers]  # (model, processor) -> what answers one task


class Load(Protocol):
    """How a worker comes by its model and processor; pickled, and called once in each worker. device: auto, cpu or cuda."""

    @property
    def device(self) -> str: ...

    def __call__(self) -> tuple[Any, Any]: ...


def sweep_on_ray(
    load: Load,
    benchmark: Benchmark,
    methods: Mapping[str, Method | None],
    items: Sequence[Item],
    *,
    batch: int = 16,
    folders: Mapping[str, Path] = MappingProxyType({}),
    name: str = "",
    address: str = LOCAL,
    tick: Callable[[int], None] = lambda count: None,
    workers: int | None = None,
) -> dict[str, Result]:
    """Like :func:`simignore.evaluate.harness.sweep`, with the same results and the same folders, so that a run may be begun in
    one way and go on in the other.

    load: makes the model in each worker; ``simignore.cli.models.Loader`` does. address: "local" for workers on this machine,
    "auto" or ``host:port`` for a cluster that runs, on a machine of which this is called. workers: how many; by default as many
    as the cluster has room for: one per GPU, or without GPUs as many as its CPUs allow, each with as many threads as this
    process would use. Images have to be at the same path on each machine.
    Raises ValueError and OSError as ``sweep`` does; ValueError where Ray is not installed, where the cluster lacks what
    ``load`` needs, or where workers hold different models; OSError for a cluster that cannot be reached or that fails.
    """
    with connected(address):
        facts = look(load, name)
        with started(facts, benchmark, methods, items, batch=batch, folders=folders, tick=tick) as runs:
            left = unanswered(runs, len(items), batch)
            tasks = [(names, items[start : start + batch]) for start, names in left.items()]
            make = partial(_Sweeper, benchmark, dict(methods))
            for answered in spread(load, make, tasks, facts, name=name, workers=workers):
                for row_name, told, seconds in answered:
                    runs[row_name].add(told, seconds)
                    tick(len(told))
            return {row_name: run.result() for row_name, run in runs.items()}


class _Sweeper:
    """Answers a batch under the methods that are left for it, as a single process would."""

    def __init__(self, benchmark: Benchmark, methods: Mapping[str, Method | None], model: Any, processor: Any) -> None:
        self.answerer, self.methods = Answerer(model, processor, benchmark), methods

    def __call__(self, task: tuple[list[str], Sequence[Item]]) -> list[tuple[str, list[Told], float]]:
        names, part = task
        return list(in_turn(self.answerer, self.answerer.ready(part), {name: self.methods[name] for name in names}))


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to Ray, closed at the end unless there was one before. "local" starts Ray on this machine, for this run."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f"--ray {address} needs Ray Data ({error}): pip install 'simignore[ray]'") from error
    own = not ray.is_initialized()
    if own:
        _reachable(address)
    try:
        if own:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **_alone(address == LOCAL))
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs is raised as well
        yield
    except ray.exceptions.RayError as error:
        raise OSError(
            f"the work on Ray ({address}) broke off; what was answered is kept, and the same command goes on there: {error}"
        ) from error
    except ConnectionError as error:
        raise OSError(
            f"--ray {address}: no cluster lets us in ({error}); start one, set its token, or use --ray local"
        ) from error
    finally:
        if own:
            ray.shutdown()


def _reachable(address: str) -> None:
    """Find out within seconds what Ray itself tells after minutes. Raises ValueError for what is no address, OSError for one
    where nothing answers."""
    if address in (LOCAL, "auto") or "://" in address:
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"--ray {address!r} is no address; write local, auto or host:port, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise OSError(
            f"--ray {address}: nothing answers there ({error}); start a cluster, or use --ray local"
        ) from error


def _alone(here: bool) -> dict[str, Any]:
    return {"include_dashboard": False} if here else {}


@dataclass(frozen=True)
class Needs:
    """What one worker reserves, and how many there is room for."""

    cpus: int
    gpus: int
    room: int

    @property
    def threads(self) -> int | None:
        """Threads that a worker computes with; None leaves them alone, where a GPU computes."""
        return None if self.gpus else self.cpus


def needs(device: str) -> Needs:
    """One GPU for each worker where the cluster has some and ``device`` allows; else as many CPUs as this process would use
    threads, because rounding may depend on their number, or as many as the largest machine has.

    Raises ValueError for "cuda" where the cluster has no GPU.
    """
    import ray
    import torch

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if device == "cuda" and not gpus:
        raise ValueError(
            "--device cuda: the Ray cluster has no GPU; use --device cpu, or start its nodes with --num-gpus"
        )
    if gpus and device != "cpu":
        return Needs(1, 1, gpus)
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    if not any(cpus):
        raise ValueError("the Ray cluster has neither a CPU nor a GPU to give; start its nodes with --num-cpus")
    threads = min(torch.get_num_threads(), max(cpus))
    return Needs(threads, 0, sum(own // threads for own in cpus))


def look(load: Load, name: str) -> Facts:
    """Load the model once in the cluster, and say what it is: what a folder's ``config.json`` holds of it.

    Raises ValueError for whatever is wrong with it.
    """
    import ray

    wanted = needs(load.device)
    seen = ray.remote(_seen).options(num_cpus=wanted.cpus, num_gpus=wanted.gpus).remote(load, name, wanted.threads)
    told = ray.get(seen)
    if "failed" in told:
        raise ValueError(told["failed"])
    here = surroundings()
    there = {**told["surroundings"], "date": here["date"], "command": here["command"]}
    return Facts(told["about"], {**there, "ray": {"version": ray.__version__, "workers": wanted.room}})


def _seen(load: Load, name: str, threads: int | None) -> dict[str, Any]:
    try:
        model, processor = _loaded(load, threads)
    except _USERS as error:
        return {"failed": _said(error)}
    return {"about": about(model, name, processor), "surroundings": surroundings(model)}


def spread(
    load: Load, make: Make, tasks: Sequence[Any], facts: Facts, *, name: str = "", workers: int | None = None
) -> Iterator[Any]:
    """What the workers make of each task, in the order of the tasks, each as soon as it and those before it are there.

    A worker that dies is started again by Ray Data, and its task answered again, as often as it takes.

    make: gives what answers, from a model and its processor; called once in each worker. facts: what :func:`look` said; a
    worker with another model is refused. Raises ValueError for what goes wrong in a worker by the user's fault.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers}: at least 1 worker has to answer")
    if not tasks:
        return
    import ray

    quiet()
    wanted = needs(load.device)
    rows = [{"number": number, "task": ray.cloudpickle.dumps(task)} for number, task in enumerate(tasks)]
    answered = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map_batches(
        _Worker,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(workers or max(1, wanted.room), len(rows))),
        fn_constructor_args=(load, make, dict(facts.about), name, wanted.threads),
        num_cpus=wanted.cpus,
        num_gpus=wanted.gpus,
    )
    for result in in_order((row["number"], row["result"]) for row in answered.iter_rows()):
        told = ray.cloudpickle.loads(result)
        if "failed" in told:
            raise ValueError(told["failed"])
        yield told["done"]


class _Worker:
    """One worker: it loads the model once and answers task after task. Ray Data calls it with one row at a time."""

    def __init__(self, load: Load, make: Make, expected: Mapping[str, Any], name: str, threads: int | None) -> None:
        model, processor = _loaded(load, threads)
        self.work = make(model, processor)
        here = about(model, name, processor)
        other = {key: (value, here.get(key)) for key, value in expected.items() if here.get(key) != value}
        self.problem = f"the workers do not hold the same model: {other}; let them load the same files" if other else ""

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        import numpy
        from ray import cloudpickle

        results = numpy.empty(len(rows["task"]), dtype=object)
        for place, task in enumerate(rows["task"]):
            results[place] = cloudpickle.dumps(self._told(cloudpickle.loads(task)))
        return {"number": rows["number"], "result": results}

    def _told(self, task: Any) -> dict[str, Any]:
        if self.problem:
            return {"failed": self.problem}
        try:
            return {"done": self.work(task)}
        except _USERS as error:
            return {"failed": _said(error)}


def _loaded(load: Load, threads: int | None) -> tuple[Any, Any]:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return load()


def _said(error: BaseException) -> str:
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def in_order(results: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Results with the numbers 0, 1, 2 ... that come in any order, by their numbers, each as early as it can be given."""
    held: dict[int, Any] = {}
    following = 0
    for number, result in results:
        held[int(number)] = result
        while following in held:
            yield held.pop(following)
            following += 1


def quiet() -> None:
    """No progress bars and no reports of Ray Data's own: whoever calls shows how far it is."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


__all__ = ["LOCAL", "Load", "Needs", "connected", "in_order", "look", "needs", "spread", "sweep_on_ray"]
