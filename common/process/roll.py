"""How `ratel up` replaces its children by new processes, one after the other, while clients are served."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import click

from common.process.supervisor import Child, NotReplaced, Supervisor

READY_WITHIN_S: Final = 60.0
"""For a successor: a rater reads a tariff of a million prefixes first."""


def roll(supervisor: Supervisor, look: Callable[[], None], is_ready: Callable[[], bool]) -> bool:
    """Replace every child that can be, in the order of their starts: raters, balancer, gateways. Raters come
    first, as they may be asked for what only a newer balancer knows. If the cluster was ready, each waits
    until it is again: with a new balancer it is not before the raters have found that.

    Says what it does. The first that does not come up ends it: False, and what was not replaced goes on.
    Raises what `look` raises.
    """
    was_ready = is_ready()
    began_s = time.monotonic()
    children = [child for child in supervisor.children if child.can_be_replaced]
    click.echo(f"replacing {len(children)} processes, one after the other")
    for child in children:
        try:
            _replace(child, look)
            if was_ready:
                _await_ready(look, is_ready)
        except NotReplaced as error:
            click.echo(f"  {child.name:10} {error}")
            click.echo("stopped there; what was not replaced goes on as before")
            return False
    click.echo(f"replaced after {time.monotonic() - began_s:.1f} s")
    return True


def _await_ready(look: Callable[[], None], is_ready: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + READY_WITHIN_S
    while not is_ready():
        if time.monotonic() > give_up_s:
            raise NotReplaced(f"is new, but the cluster was not ready again within {READY_WITHIN_S:g} s")
        look()


def _replace(child: Child, look: Callable[[], None]) -> None:
    before, began_s = child.pid, time.monotonic()
    try:
        child.replace(look, READY_WITHIN_S)
    except NotReplaced as error:
        raise NotReplaced(f"stays: {error}") from None
    click.echo(f"  {child.name:10} {before} is {child.pid} after {time.monotonic() - began_s:.1f} s")
