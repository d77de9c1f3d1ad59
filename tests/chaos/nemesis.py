"""The nemesis: which faults in which order, and doing them while watching the clients get on.

The plan is a pure function of the seed. How far it gets depends on how long the clients take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Final, NamedTuple

from tests.chaos.books import now_us
from tests.chaos.fault import Fault, Scene

RECOVERED: Final = 100
"""So many more acknowledgements mean that service is back."""
PATIENCE_S: Final = 60.0


class Step(NamedTuple):
    """One fault, or two at a time."""

    faults: tuple[Fault, ...]
    hold_s: float
    pause_s: float
    """Before it."""
    choices: str
    """The seed of the choices that the faults make."""

    def __str__(self) -> str:
        names = " + ".join(fault.name for fault in self.faults)
        return f"pause {self.pause_s:.2f} s, {names}, hold {self.hold_s:.2f} s, choices {self.choices!r}"


class Struck(NamedTuple):
    """A step that was done."""

    step: Step
    began_us: int
    ended_us: int
    """Service was back by then."""


def plan(seed: int, faults: Sequence[Fault], *, overlapping: bool) -> Iterator[Step]:
    """The seed's steps, without end: every fault once in a random order, then in another, and so on."""
    random = Random(f"{seed}/nemesis")
    number = 0
    while True:
        deck = list(faults)
        random.shuffle(deck)
        while deck:
            chosen = [deck.pop()]
            if overlapping and random.random() < 0.5 and not chosen[0].alone:
                fits = (fault for fault in deck if fault.part != chosen[0].part and not fault.alone)
                other = next(fits, None)
                if other is not None:
                    deck.remove(other)
                    chosen.append(other)
            number += 1
            hold_s = max(random.uniform(*fault.hold_s) for fault in chosen)
            yield Step(tuple(chosen), hold_s, random.uniform(0.1, 0.8), f"{seed}/{number}")


def strike(step: Step, scene: Scene, acknowledged: Callable[[], int]) -> Struck:
    """Do a step, undo it, and wait until service is back."""
    time.sleep(step.pause_s)
    began_us = now_us()
    random = Random(step.choices)
    undoings = [fault.begin(scene, random) for fault in step.faults]
    time.sleep(step.hold_s)
    for undo in reversed(undoings):
        undo()
    scene.cluster.heal()
    goal = acknowledged() + RECOVERED
    give_up_s = time.monotonic() + PATIENCE_S
    while acknowledged() < goal:
        assert time.monotonic() < give_up_s, f"service is not back after: {step}"
        time.sleep(0.01)
    return Struck(step, began_us, now_us())
