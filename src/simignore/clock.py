"""Time spent on a device, without making the host wait for it while the model runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the time of the spans it measures. On a GPU the figure is the device's own, read when it is asked for."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._host = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        """Measure what runs inside."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            yield
            self._host += time.perf_counter() - start
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self.device)
        begin.record(stream)
        yield
        end.record(stream)
        self._spans.append((begin, end))

    def seconds(self) -> float:
        """Seconds in all; on a GPU this waits until the measured work is done."""
        total = self._host
        for begin, end in self._spans:
            end.synchronize()
            total += begin.elapsed_time(end) / 1000
        return total


def added(*readings: Callable[[], float]) -> Callable[[], float]:
    """One reading of several clocks."""
    return lambda: sum(reading() for reading in readings)
