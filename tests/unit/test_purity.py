"""The pure core stays pure: no sockets, clocks or stores, no floats, and layers that point one way.

What does no input or output can be tested without any, and gives the same answer every time.
Source: docs/architecture.md, "Pure core, thin shell".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

EXACT = (
    "common/money.py",
    "common/times.py",
    "rater/rating/call_cost.py",
    "rater/rating/intervals.py",
    "rater/journal/chain.py",
    "rater/journal/lines.py",
    "rater/model.py",
    "rater/rating/packed.py",
    "rater/rating/prefixes.py",
    "rater/rating/contest.py",
    "rater/rating/explain.py",
    "rater/rating/explain_spans.py",
    "rater/rating/quote.py",
    "rater/rating/spans.py",
    "rater/rating/schedule.py",
    "rater/rating/session_time.py",
    "rater/rating/snapshot.py",
)
"""Pure, and without floats."""

PURE = (
    *EXACT,
    "balancer/actions.py",
    "balancer/admission.py",
    "balancer/client_limits.py",
    "balancer/dispatch.py",
    "balancer/http/json.py",
    "balancer/http/message.py",
    "balancer/http/patience.py",
    "balancer/http/query.py",
    "balancer/http/reader.py",
    "balancer/http/openapi.py",
    "common/api/schemas.py",
    "balancer/sharing.py",
    "balancer/telemetry.py",
    "common/api/errors.py",
    "common/security/api_keys.py",
    "common/storage/cluster_map.py",
    "common/histogram.py",
    "common/errors.py",
    "common/rpc/jsonrpc.py",
    "common/rpc/jsonrpc_shapes.py",
    "common/security/keyring.py",
    "common/security/meters.py",
    "common/methods.py",
    "common/api/openrpc.py",
    "common/security/scopes.py",
    "common/wire.py",
    "loadtests/scaling/costs.py",
    "loadtests/scaling/model.py",
    "rater/descriptor.py",
    "rater/descriptor_reader.py",
    "rater/json_fields.py",
    "rater/telemetry.py",
    "rater/loader/check.py",
    "rater/loader/diff.py",
    "rater/loader/fields.py",
    "rater/loader/kinds.py",
    "rater/loader/plans.py",
    "rater/loader/items.py",
    "rater/loader/pieces.py",
    "rater/loader/quick.py",
    "rater/loader/rates.py",
    "rater/loader/strict_json.py",
    "rater/loader/report.py",
    "rater/store/users.py",
    "rater/tariffs/parts.py",
)

IMPURE = {
    "asyncio",
    "io",
    "os",
    "random",
    "redis",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
    "zmq",
}

FOREIGN = {"common": {"balancer", "rater"}, "balancer": {"rater"}, "rater": {"balancer"}}


def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def imported(path: str) -> Iterator[str]:
    """Absolute names of modules, wherever in the file the import stands."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(path: str) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def reached(path: str, seen: set[str]) -> None:
    """All of the project's modules that a module imports, directly or through others."""
    seen.add(path)
    for name in imported(path):
        for candidate in (name.replace(".", "/") + ".py", name.replace(".", "/") + "/__init__.py"):
            if candidate not in seen and (ROOT / candidate).is_file():
                reached(candidate, seen)


@pytest.mark.parametrize("path", PURE)
def test_pure_modules_import_nothing_that_does_input_or_output(path: str) -> None:
    modules: set[str] = set()
    reached(path, modules)
    for module in modules:
        assert not top_level(module) & IMPURE, f"{path} reaches {module}"


@pytest.mark.parametrize("path", EXACT)
def test_exact_modules_have_no_floats(path: str) -> None:
    for node in ast.walk(parse(path)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Div), f"{path} divides with /"
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), where
        assert not (isinstance(node, ast.Name) and node.id in ("float", "round")), where
        assert not (isinstance(node, ast.Attribute) and node.attr in ("total_seconds", "timestamp")), where


@pytest.mark.parametrize("folder", sorted(FOREIGN))
def test_a_part_does_not_import_the_parts_that_it_must_not_know(folder: str) -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / folder).rglob("*.py"))]
    assert paths
    for path in paths:
        assert not top_level(path) & FOREIGN[folder], path
