"""Runs of `generate` that take turns, token by token, so that what slows one slows all."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import StoppingCriteria

Run = Callable[["Turn"], object]


class Round:
    """Threads in a ring, of which one runs at a time."""

    def __init__(self, count: int) -> None:
        """Let the first one begin."""
        self.gates = [threading.Semaphore(int(i == 0)) for i in range(count)]
        self.running = set(range(count))

    def wait(self, place: int) -> None:
        """Until it is its turn."""
        self.gates[place].acquire()

    def hand_over(self, place: int) -> None:
        """To the next one that has not ended."""
        if self.running:
            later = [other for other in sorted(self.running) if other > place]
            self.gates[later[0] if later else min(self.running)].release()

    def end(self, place: int) -> None:
        """Its last turn is over."""
        self.running.discard(place)
        self.hand_over(place)


class Turn(StoppingCriteria):  # type: ignore[misc]
    """Hands over after every token, and never stops its run."""

    def __init__(self, around: Round, place: int) -> None:
        """Of the run at a place of a ring."""
        self.around, self.place = around, place

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """After a token."""
        self.around.hand_over(self.place)
        self.around.wait(self.place)
        return torch.zeros(len(input_ids), dtype=torch.bool)


def taken(runs: Mapping[str, Run]) -> dict[str, float]:
    """CPU seconds of each run, all of them run in turns, in the given order.

    Args:
        runs: by name; each is called with the criterion that it must hand to `generate`.
    """
    around = Round(len(runs))

    def timed(place: int, run: Run) -> float:
        torch.set_num_threads(1)  # OpenMP keeps a number for each thread
        around.wait(place)
        try:
            begun = time.thread_time()
            run(Turn(around, place))
            return time.thread_time() - begun
        finally:
            around.end(place)

    with ThreadPoolExecutor(len(runs)) as pool:
        futures = [pool.submit(timed, i, run) for i, run in enumerate(runs.values())]
        return dict(zip(runs, [future.result() for future in futures], strict=True))
