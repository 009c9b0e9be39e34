"""Prepare batches in a background thread, and copy tensors to a device without waiting."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

P = TypeVar("P")
T = TypeVar("T")
_AHEAD = 2
"""Finished results that may wait for the consumer."""


@dataclass(frozen=True)
class _Ready(Generic[T]):
    """A result, and the event on the side stream after which it is complete; None on a CPU."""

    result: T
    event: torch.cuda.Event | None


class Prefetcher(Generic[P, T]):
    """Runs `make` over items in a background thread, two results ahead.

    NumPy and torch release the interpreter's lock while they work. So a thread is enough, and
    nothing is copied between processes. On a GPU the thread uses its own high-priority stream,
    so that its many small kernels run before training's few large ones.

    Args:
        items: consumed in the thread.
        make: called in the thread with each item.
        device: where `make` puts its results.
    """

    def __init__(self, items: Iterator[P], make: Callable[[P], T], device: torch.device) -> None:
        self._items = items
        self._make = make
        self._device = device
        # An exception is raised again by the consumer; None is the end.
        self._queue: queue.Queue[_Ready[T] | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self.waited = 0.0
        """Seconds that the consumer has waited for results."""

    def __iter__(self) -> Iterator[T]:
        thread = threading.Thread(target=self._produce, daemon=True)
        thread.start()
        try:
            while (result := self._next()) is not None:
                yield result
        # Also when the consumer stops early or fails.
        finally:
            self._stop.set()
            thread.join()

    def _next(self) -> T | None:
        """Return the next result, or None at the end; an error of the thread is raised here."""
        start = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return None
        # The consumer's stream waits for the side stream. The CPU does not wait.
        if item.event is not None:
            torch.cuda.current_stream(self._device).wait_event(item.event)
        return item.result

    def _produce(self) -> None:
        """Put results into the queue until the items end, an error occurs or the consumer stops."""
        try:
            with self._side_stream():
                for item in self._items:
                    result = self._make(item)
                    self._put(_Ready(result, self._record_event()))
                    if self._stop.is_set():
                        return
            self._put(None)
        # Whatever ends the thread must reach the consumer, which would otherwise wait forever.
        except BaseException as error:
            self._put(error)

    def _put(self, item: _Ready[T] | BaseException | None) -> None:
        # A consumer that has stopped takes nothing more from a full queue. So wait only briefly and
        # look at `_stop` again.
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _side_stream(self) -> AbstractContextManager[object]:
        if self._device.type != "cuda":
            return nullcontext()
        stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(stream)

    def _record_event(self) -> torch.cuda.Event | None:
        """Mark the end of the work on the side stream, for the consumer to wait for."""
        if self._device.type != "cuda":
            return None
        event: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        return event


def to_device(array: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device.

    A copy to a GPU goes through pinned memory and does not wait. A plain `.to(device)` would wait
    for everything queued on the stream, which takes long during training.
    """
    if device.type != "cuda":
        return array.to(device)
    return array.pin_memory().to(device, non_blocking=True)
