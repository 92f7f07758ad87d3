"""What the untouched model gives a head to learn from, computed once and kept: a head then learns in minutes.

As long as nothing is learnt under the cut, a head's losses read image tokens, the decoder's flow and regions, and all of these
stay as they are while it learns. So each example runs through the model once, and through the head as often as is wanted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from simignore.train.collator import Collator, padded
from simignore.train.data import Example
from simignore.train.student import Student

Record = dict[str, Tensor]
ABOUT = "prepared.json"
OFTEN = ("flow", "layers", "measure", "into")  # what only matters where flow is learnt
FILL = {"where": torch.nan, "query": 0, "words": 0}


class Prepared(Dataset[Record]):
    """The records of :func:`prepare`, read from their files as they are asked for.

    A record holds ``visual`` [N, D] in bfloat16, ``query`` [M] ids, and where they were wanted ``flow`` [N], ``where`` [N, 3],
    ``needed`` [N], ``words`` [W, M'] with ``words_valid``, and ``shows`` [N, W].
    """

    def __init__(self, folder: Path, count: int, batch: int) -> None:
        self.folder, self.count, self.batch = folder, count, batch
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < self.count:
            raise IndexError(f"record {number} of {self.count}")
        shard, row = divmod(number, self.batch)
        if shard not in self._open:
            self._open[shard] = safe_open(_shard(self.folder, shard), "pt")  # mapped, not read
        file = self._open[shard]
        own = [name for name in file.keys() if name.startswith(f"{row}.")]  # noqa: SIM118
        return {name.partition(".")[2]: file.get_tensor(name) for name in own}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker opens the files itself


def prepare(
    student: Student,
    collator: Collator,
    examples: Dataset[Example],
    folder: Path,
    count: int,
    about: Mapping[str, Any],
    batch: int = 28,
    tick: Callable[[int], None] = lambda done: None,
) -> Prepared:
    """Run the first ``count`` examples through the model and keep in ``folder`` what a head learns from.

    What is there already is not computed again, so a run that was killed goes on, and several runs may share a folder: about
    says what the records follow from beside the examples, and tick is called with the number of examples that are done. Raises
    ValueError for a folder of other records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there: int = len(examples)  # type: ignore[arg-type]
    count = min(count, there)
    wanted = {
        "flow": bool(student.objective.flow),
        "where": bool(student.head.hops),
        "regions": collator.regions,
    }
    told = {"examples": _fingerprint(examples, min(batch, there)), "batch": batch, **wanted}
    if (digest := getattr(examples, "digest", None)) is not None:  # of a file, all of it
        told["file"] = digest
    _check(folder, {**about, **told})
    for shard, start in enumerate(range(0, count, batch)):
        file = _shard(folder, shard)
        if not _holds(file, wanted):
            _save(_records(student, collator([examples[n] for n in range(start, min(start + batch, there))])), file)
        tick(min(start + batch, count))
    return Prepared(folder, count, batch)


def gathered(records: Sequence[Record]) -> dict[str, Any]:
    """Records as one batch for a :class:`Student`, padded on the right."""
    seen: dict[str, Tensor] = {"valid": _stacked([torch.ones(len(one["visual"]), dtype=torch.bool) for one in records])}
    batch: dict[str, Any] = {}
    for name in [name for name in records[0] if all(name in one for one in records)]:  # see `_holds`
        stacked = _stacked([one[name] for one in records], FILL.get(name, 0))
        if name in ("visual", "flow", "where"):
            seen[name] = stacked
        else:
            batch[name] = stacked
    batch["query"], batch["query_valid"] = padded([one["query"] for one in records], 0)
    return {**batch, "seen": seen}


def _records(student: Student, batch: dict[str, Any]) -> list[Record]:
    """One record for each sample of a batch of the collator's."""
    device = next(student.base.parameters()).device
    moved = {name: _moved(value, device) for name, value in batch.items()}
    seen = student.look(student.given(moved["inputs"]), moved["labels"], moved["asking"])
    found = []
    for b, real in enumerate(seen["valid"]):
        n = int(real.sum())
        one = {"visual": seen["visual"][b, :n].bfloat16(), "query": batch["query"][b][batch["query_valid"][b]]}
        one |= {name: seen[name][b, :n] for name in ("flow", "where") if name in seen}
        one |= {name: batch[name][b, :n] for name in ("needed", "shows") if name in batch}
        one |= {name: batch[name][b] for name in ("words", "words_valid") if name in batch}
        found.append({name: value.cpu().contiguous() for name, value in one.items()})
    return found


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: _moved(one, device) for name, one in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _stacked(rows: Sequence[Tensor], fill: float = 0) -> Tensor:
    """Tensors of one rank as one, each in the corner of its row."""
    shape = [max(row.shape[axis] for row in rows) for axis in range(rows[0].dim())]
    out = torch.full((len(rows), *shape), fill, dtype=rows[0].dtype)
    for place, row in zip(out, rows, strict=True):
        place[tuple(slice(0, size) for size in row.shape)] = row
    return out


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def _holds(file: Path, wanted: Mapping[str, bool]) -> bool:
    """Whether a file is there with all that is wanted: in a shared folder it may be of a run that wanted less."""
    if not file.exists():
        return False
    with safe_open(file, "pt") as shard:
        names = set(shard.keys())
    return all(f"0.{'needed' if name == 'regions' else name}" in names for name, want in wanted.items() if want)


def _fingerprint(examples: Dataset[Example], count: int) -> str:
    """Of how many examples there are and of what the first ones say: the same words for data may stand for other files."""
    told = [len(examples)]  # type: ignore[arg-type]
    for example in (examples[number] for number in range(count)):
        told += [example.words, example.answer, example.regions]  # type: ignore[list-item]
    return f"{zlib.crc32(repr(told).encode()):08x}"


def _save(records: Sequence[Record], file: Path) -> None:
    """Written beside, under a name that no other run takes, and renamed, so that no kill leaves half a file."""
    beside = _beside(file)
    save_file({f"{row}.{name}": value for row, one in enumerate(records) for name, value in one.items()}, beside)
    beside.replace(file)


def _beside(file: Path) -> Path:
    return file.with_suffix(f".{token_hex(4)}.part")


def _check(folder: Path, about: dict[str, Any]) -> None:
    """The folder is empty, or holds records of the same kind; those with flow or places serve who wants none."""
    strange = any(folder.glob("*.safetensors"))  # looked for first: another run may begin at this moment
    file, told = folder / ABOUT, json.loads(json.dumps(about))
    if not file.exists():
        if strange:
            raise ValueError(f"{folder} holds files of something else; name an empty folder with --prepared")
        beside = _beside(file)
        beside.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        beside.replace(file)
        return
    there = json.loads(file.read_text())
    if "file" not in there:  # prepared before files had digests
        told.pop("file", None)
    spare = {name for name in ("where", "regions") if not told[name]} | set(() if told["flow"] else OFTEN)
    if changed := sorted(name for name in {*told, *there} - spare if told.get(name) != there.get(name)):
        raise ValueError(
            f"{folder} was prepared with another {', '.join(changed)}; take the same, or name another folder with --prepared"
        )
