"""Prepare batches in a background thread, and copy tensors to a device without waiting."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch
from torch import Tensor

P = TypeVar("P")
T = TypeVar("T")
_AHEAD = 2


class Prefetcher(Generic[P, T]):
    """Runs `make` over items in a thread, two results ahead, and measures the wait for them.

    NumPy and torch release the interpreter's lock while they work, so a thread is enough and no
    memory is copied between processes. On a GPU the thread uses a high-priority stream of its own,
    so that its many small kernels run before training's few large ones.
    """

    def __init__(self, items: Iterator[P], make: Callable[[P], T], device: torch.device) -> None:
        self._items = items
        self._make = make
        self._device = device
        self._queue: queue.Queue[tuple[T, torch.cuda.Event | None] | BaseException | None] = (
            queue.Queue(_AHEAD)
        )
        self._stop = threading.Event()
        self.waited = 0.0
        """Seconds that the consumer has waited."""

    def __iter__(self) -> Iterator[T]:
        thread = threading.Thread(target=self._produce, daemon=True)
        thread.start()
        try:
            while (item := self._next()) is not None:
                yield item
        finally:
            self._stop.set()
            thread.join()

    def _next(self) -> T | None:
        start = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return None
        result, ready = item
        if ready is not None:
            torch.cuda.current_stream(self._device).wait_event(ready)
        return result

    def _produce(self) -> None:
        try:
            with self._side_stream():
                for item in self._items:
                    self._put((self._make(item), self._record_event()))
                    if self._stop.is_set():
                        return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[T, torch.cuda.Event | None] | BaseException | None) -> None:
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
    """Return a tensor on a device. A copy to a GPU goes through pinned memory and does not wait.

    A plain `.to(device)` would wait for everything queued on the stream, which during training is
    long.
    """
    if device.type != "cuda":
        return array.to(device)
    return array.pin_memory().to(device, non_blocking=True)
