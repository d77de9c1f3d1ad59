"""One change of a batch, on its way to the store."""

from __future__ import annotations

import msgspec

from rater.accounts.mutation import Mutation
from rater.descriptor import Descriptor
from rater.store.keys import AccountKeys


class Change(msgspec.Struct, frozen=True, eq=False, gc=False):
    job: int
    """Its number in the batch."""
    keys: AccountKeys
    descriptor: Descriptor
    mutation: Mutation
