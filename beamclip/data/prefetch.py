"""From the host's memory to a device's."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch
from torch import Tensor

# Making things in a thread, ahead of who uses them.


P = TypeVar("P")
T = TypeVar("T")
_AHEAD = 2


class Prefetcher(Generic[P, T]):
    """Runs `make` over the items in a thread of its own, `_AHEAD` results ahead, and measures the wait for them.

    NumPy and torch let go of the interpreter while they work, so a thread is enough and no memory is copied between processes.
    On a GPU the thread works on a stream of its own, whose many small kernels go before training's few large ones.
    """

    def __init__(self, items: Iterator[P], make: Callable[[P], T], device: torch.device) -> None:
        self._items, self._make, self._device = items, make, device
        self._queue: queue.Queue[tuple[T, torch.cuda.Event | None] | BaseException | None] = (
            queue.Queue(_AHEAD)
        )
        self._stop = threading.Event()
        self.waited = 0.0
        """Seconds the consumer has stood still."""

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
                for place in self._items:
                    self._put((self._make(place), self._mark()))
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

    def _mark(self) -> torch.cuda.Event | None:
        return (
            torch.cuda.current_stream(self._device).record_event()
            if self._device.type == "cuda"
            else None
        )


def to_device(array: Tensor, device: torch.device) -> Tensor:
    """To a GPU through pinned memory: the GPU copies when its turn comes, and the thread that asked goes on at once.

    A plain `.to(device)` would wait for all that its stream was given before, and beside training that is long.
    """
    return (
        array.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else array.to(device)
    )
