"""Create items in background threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Key = TypeVar("Key")
Item = TypeVar("Item")


def prefetch(
    create: Callable[[Key], Item], keys: Iterable[Key], workers: int, most_ahead: int | None = None
) -> Generator[Item, None, None]:
    """Yield the item of each key in order, while threads create the next ones.

    Args:
        create: Creates an item from its key alone.
        keys: Keys of the items, such as their numbers.
        workers: Threads; 0 creates each item when it is requested.
        most_ahead: Largest number of items created in advance; by default two per thread.
    """
    if workers == 0:
        yield from map(create, keys)
        return
    most_ahead = 2 * workers if most_ahead is None else most_ahead
    with _single_core_threads(workers) as pool:
        ahead: deque[Future[Item]] = deque()
        for key in keys:
            ahead.append(pool.submit(create, key))
            if len(ahead) > most_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextmanager
def _single_core_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose threads use one core each; work that has not started is cancelled at the end."""
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "samples", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # Torch keeps this number per thread, but a new thread inherits the last one that any thread has set.
        torch.set_num_threads(cores)
