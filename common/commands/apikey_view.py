"""How API keys look, as a table and as JSON: all that may be seen of them, never the keys themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.security.api_keys import ALL, KeyFile, KeyRecord, Limits


def key_state(record: KeyRecord, now_s: float) -> str:
    if record.revoked is not None:
        return "revoked"
    expires_s = record.expires_s
    return "expired" if expires_s is not None and now_s >= expires_s else "valid"


def shown_key(record: KeyRecord, now_s: float) -> dict[str, Any]:
    """What may be seen of a key."""
    return {
        "id": record.id,
        "name": record.name,
        "state": key_state(record, now_s),
        "tenants": record.tenants,
        "allow": record.allow,
        "methods": record.methods,
        "created": record.created,
        "expires": record.expires,
        "revoked": record.revoked,
        "limits": record.limits,
    }


def tenants_text(record: KeyRecord) -> str:
    return "all tenants" if record.tenants == (ALL,) else ", ".join(record.tenants)


def limits_text(limits: Limits | None) -> str:
    if limits is None:
        return ""
    parts = []
    if limits.rate is not None:
        burst = f", {limits.burst} at once" if limits.burst is not None else ""
        parts.append(f"{limits.rate:g}/s{burst}")
    if limits.in_flight is not None:
        parts.append(f"{limits.in_flight} in flight")
    return "; ".join(parts)


def show_table(console: Console, file: KeyFile, shown: Iterable[dict[str, Any]]) -> None:
    table = Table()
    for heading in ("Id", "Name", "State", "Tenants", "Allowed", "Created", "Expires", "Limits"):
        table.add_column(heading, no_wrap=heading == "Id")
    for record, row in zip(file.keys, shown, strict=True):
        cells = (record.id, record.name, row["state"], tenants_text(record), ", ".join(record.allow))
        times = (record.created[:10], (record.expires or "never")[:10], limits_text(record.limits))
        table.add_row(*map(escape, (*cells, *times)))
    console.print(table)
    for tenant, limits in file.limits.items():
        console.print(f"tenant {escape(tenant)}: {limits_text(limits)}")
