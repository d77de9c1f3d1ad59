"""The keys that are valid now, and what each is good for.

A `Grant` is what a key gives. It lives as long as its key does, so a connection may hold on to it: when the
file is read anew the same object is changed, and one whose key is gone is ended. The time is an argument
(seconds since 1970 for expiry, a monotonic one for rates).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.errors import Forbidden, Unauthorized, encode_error
from common.methods import BY_NAME, Group, Method
from common.rpc.jsonrpc import Call
from common.security.api_keys import ALL, KeyFile, KeyRecord, Limits, id_of, is_key
from common.security.meters import Meter, take
from common.security.scopes import bind

UNKNOWN: Final = Unauthorized(detail="the API key is not known here")
"""For no key, an unknown id and a wrong secret alike: the difference is nobody's business."""

MISSING: Final = Unauthorized(detail="an API key is needed")
EXPIRED: Final = Unauthorized(detail="the API key has expired")
REVOKED: Final = Unauthorized(detail="the API key was revoked")

_new_tuple = tuple.__new__
"""Makes a `Call` in half the time."""

Refused = tuple[int, bytes]
"""The slot of a call, and the error that it is answered with."""


class Grant:
    """What a client with a certain key may do."""

    def __init__(self, record: KeyRecord) -> None:
        self.id = record.id
        self.ended: Unauthorized | None = None
        """Why it is good for nothing any more."""
        self.meters: tuple[Meter, ...] = ()
        self._forbidden: dict[str, bytes] = {}
        self.update(record)

    def update(self, record: KeyRecord) -> None:
        self.record = record
        self.tenants = None if record.tenants == (ALL,) else frozenset(record.tenants)
        self._expires_s = record.expires_s
        self.ended = None if record.revoked is None else REVOKED
        self._methods = {name: self._bound(BY_NAME[name]) for name in record.methods}

    def _bound(self, method: Method) -> Method:
        """The method as raters are to be asked for it."""
        if self.tenants is None:
            return method
        return method._replace(name=bind(method.name, self.tenants))

    def check(self, now_s: float) -> None:
        """Raises Unauthorized when it is no longer good."""
        if self.ended is not None:
            raise self.ended
        if self._expires_s is not None and now_s >= self._expires_s:
            raise EXPIRED

    @property
    def may_watch(self) -> bool:
        """Whether it is an operator's of all tenants: how the service does names every one of them."""
        return self.tenants is None and any(BY_NAME[name].group is Group.OPERATOR for name in self._methods)

    def method(self, method: Method) -> Method:
        """The method for the tenants of the key. Raises Forbidden."""
        bound = self._methods.get(method.name)
        if bound is None:
            raise Forbidden(what=f"the method {method.name}")
        return bound

    def sort_out(self, calls: Sequence[Call], mono_s: float) -> tuple[list[Call], list[Refused]]:
        """The calls that may be carried out, for the key's tenants, and those that may not."""
        methods = self._methods
        refused: list[Refused] = []
        try:  # method[0] is its name, and that takes longer
            allowed = [_new_tuple(Call, (slot, methods[method[0]], params)) for slot, method, params in calls]
        except KeyError:
            allowed = [
                Call(slot, methods[method.name], params)
                for slot, method, params in calls
                if method.name in methods
            ]
            refused = [
                (slot, self._forbid(method.name)) for slot, method, _ in calls if method.name not in methods
            ]
        if self.meters and allowed:
            admitted, error = take(self.meters, len(allowed), mono_s)
            refused += [(call.slot, error) for call in allowed[admitted:]]
            del allowed[admitted:]
        return allowed, refused

    def _forbid(self, name: str) -> bytes:
        error = self._forbidden.get(name)
        if error is None:
            error = self._forbidden[name] = encode_error(Forbidden(what=f"the method {name}"))
        return error


class Keyring:
    def __init__(self, file: KeyFile) -> None:
        self._grants: dict[str, Grant] = {}
        self._meters: dict[str, Meter] = {}
        """By whose they are. They stay when the file is read anew: what is in flight is still counted."""
        self.replace(file)

    def replace(self, file: KeyFile) -> None:
        """What the file says from now on, for those too that came in by what it said before."""
        before, self._grants = self._grants, {}
        meters, self._meters = self._meters, {}
        for record in file.keys:
            grant = before.pop(record.id, None)
            if grant is None or grant.record.sha256 != record.sha256:
                if grant is not None:
                    grant.ended = REVOKED
                grant = Grant(record)
            elif grant.record != record:
                grant.update(record)
            grant.meters = self._meters_of(record, file, meters)
            self._grants[record.id] = grant
        for grant in before.values():
            grant.ended = REVOKED

    def _meters_of(self, record: KeyRecord, file: KeyFile, before: dict[str, Meter]) -> tuple[Meter, ...]:
        limits = {f"key {record.id}": record.limits}
        if len(record.tenants) == 1 and record.tenants != (ALL,):
            [tenant] = record.tenants
            limits[f"tenant {tenant!r}"] = file.limits.get(tenant) or file.limits.get(ALL)
        return tuple(
            self._meter(whose, limit, before) for whose, limit in limits.items() if limit is not None
        )

    def _meter(self, whose: str, limits: Limits, before: dict[str, Meter]) -> Meter:
        meter = self._meters.get(whose) or before.get(whose) or Meter(whose, limits)
        if meter.limits != limits:
            meter.limits = limits
        self._meters[whose] = meter
        return meter

    def verify(self, key: str, now_s: float) -> Grant:
        """What the key is good for. Raises Unauthorized."""
        key_id = id_of(key)
        grant = self._grants.get(key_id) if key_id is not None else None
        # What has not the form of a key may be long, and is not worth hashing.
        matches = is_key(key if key_id is not None else "", grant.record.sha256 if grant else None)
        if grant is None or not matches:
            raise UNKNOWN
        grant.check(now_s)
        return grant

    def valid(self, now_s: float) -> int:
        """How many keys are good for something now."""
        count = 0
        for grant in self._grants.values():
            try:
                grant.check(now_s)
            except Unauthorized:
                continue
            count += 1
        return count
