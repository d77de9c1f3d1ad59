"""Defects that a chaos run must catch: what a hurried hand could do to the rules that keep money correct.

Each is an exact replacement of text in the tree. A test applies them all to the present tree, so that
they can't rot.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Edit(NamedTuple):
    path: str
    old: str
    """Stands there exactly once."""
    new: str


class Defect(NamedTuple):
    name: str
    edits: tuple[Edit, ...]
    faults: tuple[str, ...] = ()
    """Those that bring it out; none are all. It only saves time: a full deck has them, too."""
    replicated: bool = False
    """It shows only where changes wait for replicas."""
    gateways: bool = False
    """It shows only where clients go through gateways, or speak ZeroMQ."""


SERVICE: Final = "rater/work/service.py"
STEPS: Final = "rater/work/request_steps.py"
BEGIN: Final = "rater/lua/_begin.lua"
COMMIT: Final = "rater/lua/_commit.lua"
DEBIT: Final = "rater/lua/debit_balance.lua"

_KILLS: Final = ("rater killed after_write", "rater killed before_write", "clients dropped", "rater killed")

_CHANGE: Final = """        else:
            change = self._change(index, job, method, descriptor, account_keys(tenant, subject))
            work.changes.append(change)
"""
_READ_FIRST: Final = "        elif name in PLAN_METHODS:\n"
_AFTER_THE_READ: Final = """                if tariff is None:
                    further.changes.append(self._steps.planned_change(index, job, descriptor, account))
"""
_SILENT_STORE: Final = """                self._complain(len(work.places()), error)
                return
"""
_ROUND: Final = "            try:\n                commands = work.commands()\n"

DEFECTS: Final = (
    Defect(
        "the token is not stored",
        (Edit(COMMIT, "    call('SET', KEYS[key + 2], mark .. outcome, 'PX', ARGV[at + 2])\n", ""),),
        _KILLS,
    ),
    Defect(
        "a debit is taken twice",
        (
            Edit(
                "rater/lua/debit_balance.lua",
                "--@include _commit.lua\n",
                "--@include _commit.lua\n"
                "    credit = credit - amount\n"
                "    changed = pack('<i8i8i8i8i8i8', seq, credit, sms, traffic, volume_discount, received)\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "the reply is sent before the commit",
        (
            Edit(
                STEPS,
                _CHANGE,
                """        elif name == "DebitBalance":
            keys = account_keys(tenant, subject)
            self.later.append(self._change(index, job, method, descriptor, keys))
            work.read(index, keys.account, descriptor, None)
"""
                + _CHANGE,
            ),
            Edit(
                SERVICE,
                _AFTER_THE_READ,
                """                if tariff is None and job.method.name == "DebitBalance":
                    left = (account.credit_micros if account else 0) - descriptor.amount_micros
                    outcomes[index] = Outcome(0, format_micros(left).encode())
                elif tariff is None:
                    further.changes.append(self._steps.planned_change(index, job, descriptor, account))
""",
            ),
            Edit(
                SERVICE,
                "from common.logs import Throttle\n",
                "from common.logs import Throttle\nfrom common.money import format_micros\n",
            ),
            Edit(
                SERVICE,
                "        jobs, outcomes = flight.jobs, flight.outcomes\n",
                """        jobs, outcomes = flight.jobs, flight.outcomes
        later = Round()
        later.changes, self._steps.later = self._steps.later, []
        try:
            if later:
                yield from round_trip(self._store, later.commands())
        except StoreUnavailable:
            pass
""",
            ),
            Edit(
                STEPS,
                "        self._key_ttl_ms = key_ttl_ms\n",
                "        self._key_ttl_ms = key_ttl_ms\n        self.later: list[Change] = []\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "the key is claimed before the write, in a command of its own",
        (
            Edit(
                SERVICE,
                _ROUND,
                """            try:
                yield from self._claim(work, outcomes)
            except StoreUnavailable:
                return
            if not work:
                return
"""
                + _ROUND,
            ),
            Edit(
                SERVICE,
                "    def _round_trip(\n",
                """    def _claim(
        self, work: Round, outcomes: list[Outcome | Undecided]
    ) -> Generator[None, None, None]:
        while self._store.unread:
            yield
        named = [change for change in work.changes if change.mutation.request_id]
        tokens = [change.keys.token_prefix + change.mutation.token.encode() for change in named]
        claims = self._store.execute(
            [
                (b"SET", token + b":claim", b"1", b"NX", b"PX", change.mutation.token_ttl_ms)
                for change, token in zip(named, tokens, strict=True)
            ]
        )
        known = self._store.execute([(b"GET", token) for token in tokens])
        for change, claim, outcome in zip(named, claims, known, strict=True):
            if claim is None and outcome is None:  # whoever claimed it is at it
                outcomes[change.job] = Outcome(0, b"0", True)
                work.changes.remove(change)

    def _round_trip(
""",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "the balance is read first and written back later",
        (
            Edit(STEPS, _READ_FIRST, '        elif name in (*PLAN_METHODS, "DebitBalance"):\n'),
            Edit(
                SERVICE,
                _AFTER_THE_READ,
                """                if tariff is None:
                    change = self._steps.planned_change(index, job, descriptor, account)
                    if change.mutation.method == "DebitBalance":
                        read = replace(change.mutation, plan_id=str(account.credit_micros))
                        change = replace(change, mutation=read)
                    further.changes.append(change)
""",
            ),
            Edit(
                SERVICE,
                "from redis.exceptions import ResponseError\n",
                "from msgspec.structs import replace\nfrom redis.exceptions import ResponseError\n",
            ),
            Edit(
                "rater/accounts/mutations.py",
                '    "DebitSeconds": _matches,\n',
                '    "DebitSeconds": _matches,\n    "DebitBalance": lambda mutation: (mutation.plan_id,),\n',
            ),
            Edit(DEBIT, "'DebitBalance', 4\n", "'DebitBalance', 5\n"),
            Edit(DEBIT, "local left = credit - amount\n", "local left = ARGV[at + 4] - amount\n"),
        ),
        _KILLS,
    ),
    Defect(
        "the script does not check the deadline",
        (Edit(BEGIN, "if ARGV[at + 3] ~= '0' then\n", "if false then\n"),),
        ("all raters stopped",),
    ),
    Defect(
        "the fingerprint is not compared",
        (
            Edit(
                BEGIN,
                "      elseif sub(known, 1, #mark) == mark then\n",
                "      elseif true then\n        mark = string.match(known, '^[^\\n]*\\n')\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "each attempt of the balancer has a token of its own",
        (
            Edit(
                "balancer/dispatch.py",
                "                    request.key,\n",
                '                    request.key or f"g:{id(self)}-{request.seq}-{now_us}",\n',
            ),
            Edit(
                "balancer/actions.py",
                "self.params, self.key, self.work",
                'self.params, self.key or f"g:{id(self)}-{self.seq}-{self.sent_us}", self.work',
            ),
        ),
        ("rater killed after_write", "rater stopped after_write"),
    ),
    Defect(
        "the HTTP gateway drops the client's key",
        (
            Edit(
                "balancer/http/app.py",
                '_idempotency_key(request.values(b"idempotency-key")) if method.mutates else ""',
                '""',
            ),
        ),
        _KILLS,
    ),
    Defect(
        "a replay is answered with the balance of now",
        (
            Edit(
                BEGIN,
                "        replies[place] = '*' .. sub(known, #mark + 1)\n",
                "        replies[place] = '*' .. sub(known, #mark + 1)\n"
                "        if OP == 'DebitBalance' and sub(known, #mark + 1, #mark + 2) == 'OK' then\n"
                "          save()\n"
                "          local left = unpack_at('<i8', call('GET', KEYS[key]), 17)\n"
                "          replies[place] = '*OK ' .. format('%.0f', left)\n"
                "        end\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "a refusal is not stored",
        (
            Edit(
                "rater/lua/_refuse.lua",
                "try('SET', KEYS[key + 2], mark .. refusal, 'PX', ARGV[at + 2])\n",
                "{}\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "a journal line is missing",
        (
            Edit(
                "rater/lua/_journal.lua",
                "    if seq % 64 == 0 then\n",
                "    if OP == 'DebitSMS' and amount == 7e6 then\n"
                "      line = ''\n"
                "    elseif seq % 64 == 0 then\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "the balancer mixes up two replies",
        (
            Edit(
                "balancer/dispatch.py",
                "                answers.append(new_tuple(Answer, (request, code, body, replayed)))\n",
                """                answers.append(new_tuple(Answer, (request, code, body, replayed)))
                if seq % 500 == 0 and len(answers) > 1:
                    (one, *reply), (other, *rest) = answers[-2:]
                    answers[-2:] = [Answer(one, *rest), Answer(other, *reply)]
""",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "no answer of the store is taken for success",
        (
            Edit(
                SERVICE,
                _SILENT_STORE,
                """                self._complain(len(work.places()), error)
                for index in work.places():
                    outcomes[index] = Outcome(0, b"0", False)
                return
""",
            ),
        ),
        ("store stopped", "store unreachable", "store killed"),
    ),
    Defect(
        "an error of a whole list is told to each request in it as its refusal",
        (
            Edit(
                SERVICE,
                "                    further.alone += changes\n",
                """                    for change in changes:
                        outcomes[change.job] = failed(BelowFloor(amount="1", credit="0", min_credit="0"))
""",
            ),
            Edit(SERVICE, "    DeadlineExceeded,\n", "    BelowFloor,\n    DeadlineExceeded,\n"),
        ),
        ("store full", "store without replicas"),
    ),
    Defect(
        "a list writes the account behind its first request only",
        (Edit(COMMIT, "    changed = balances", "    changed = changed or balances"),),
        _KILLS,
    ),
    Defect(
        "each balancer that a gateway asks makes a key of its own",
        (
            Edit(
                "balancer/zmq_gateway.py",
                'f"{TOKEN_KEY}{client.life}-{seq}"',
                'f"{TOKEN_KEY}{self._router.id}-{client.life}-{seq}"',
            ),
        ),
        ("balancer killed", "balancer stopped"),
        gateways=True,
    ),
    Defect(
        "the balancer drops the key that a gateway passes on",
        (
            Edit(
                "balancer/zmq_gateway.py",
                "        if not key and (method is None",
                "        if (method is None",
            ),
        ),
        _KILLS,
        gateways=True,
    ),
    Defect(
        "the store does not write its log",
        (Edit("common/storage/embedded_store.py", '"appendonly": "yes"', '"appendonly": "no"'),),
        ("store killed",),
    ),
    Defect(
        "a reload of the tariff sets accounts back",
        (
            Edit("rater/lua/open_account.lua", "if ARGV[1] == '0' then\n", "if false then\n"),
            Edit("rater/lua/open_account.lua", "if ARGV[1] == '2' then\n", "if false then\n"),
        ),
        ("tariff reloaded",),
    ),
    Defect(
        "a blocked account is debited",
        (Edit(DEBIT, "--@include _blocked.lua\n", ""),),
        ("tariff reloaded",),
    ),
    Defect(
        "whoever changes an account's terms writes back the balances that were read before",
        (
            Edit(
                "rater/accounts/admin.py",
                "    [replies], missing = make(store, [mutation_command(keys, mutation)], durability)\n",
                """    [value] = store.execute([("GET", keys.account)])
    [replies], missing = make(store, [mutation_command(keys, mutation)], durability)
    if mutation.method == "SetTerms":
        store.execute([("SETRANGE", keys.account, 16, value[16:56])])
""",
            ),
        ),
        ("tariff reloaded",),
    ),
    Defect(
        "keys are kept for seconds that were meant to be milliseconds",
        (Edit("rater/command.py", "key_ttl_ms=key_ttl_s * 1000", "key_ttl_ms=key_ttl_s"),),
        _KILLS,
    ),
    Defect(
        "too few replicas are enough",
        (
            Edit(
                "common/storage/durability.py",
                "        if confirmed >= self.copies:\n",
                "        if confirmed >= 0:\n",
            ),
        ),
        ("replicas cut off and primary killed",),
        replicated=True,
    ),
)
