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


SERVICE: Final = "rater/service.py"
BEGIN: Final = "rater/lua/_begin.lua"
COMMIT: Final = "rater/lua/_commit.lua"

_KILLS: Final = ("rater killed after_write", "rater killed before_write", "clients dropped", "rater killed")

_MUTATE: Final = """        mutation = self._mutation(job, method, descriptor, matches, plan_id)
        return Step(
            mutation_command(keys, mutation),
"""

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
                SERVICE,
                _MUTATE,
                """        mutation = self._mutation(job, method, descriptor, matches, plan_id)
        if method.name == "DebitBalance":
            self.later.append(mutation_command(keys, mutation))
            return Step(
                read_command([keys]),
                lambda reply: Outcome(
                    0,
                    format_micros(
                        (parse_account("", reply).credit_micros if reply else 0) - mutation.amount_micros
                    ).encode(),
                    False,
                ),
            )
        return Step(
            mutation_command(keys, mutation),
""",
            ),
            Edit(
                SERVICE,
                "        outcomes: list[Outcome | Undecided] = [Undecided.UNKNOWN] * len(jobs)\n",
                """        outcomes: list[Outcome | Undecided] = [Undecided.UNKNOWN] * len(jobs)
        later, self.later = self.later, []
        try:
            execute(self._store, later)
        except StoreUnavailable:
            pass
""",
            ),
            Edit(
                SERVICE,
                "        self._key_ttl_ms = key_ttl_ms\n",
                "        self._key_ttl_ms = key_ttl_ms\n        self.later: list[Command] = []\n",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "the key is claimed before the write, in a command of its own",
        (
            Edit(
                SERVICE,
                _MUTATE,
                """        mutation = self._mutation(job, method, descriptor, matches, plan_id)
        if mutation.request_id:
            token = keys.token_prefix + mutation.token.encode()
            write = Step(
                mutation_command(keys, mutation),
                lambda reply: self._finish_mutation(job, method, descriptor, keys, mutation, reply),
            )

            def known(reply: Reply) -> Outcome | Step:
                if reply is None:  # whoever claimed it is at it
                    return Outcome(0, b"0", True)
                stored = b"*" + reply.partition(b"\\n")[2]
                return self._finish_mutation(job, method, descriptor, keys, mutation, stored)

            return Step(
                (b"SET", token + b":claim", b"1", b"NX", b"PX", mutation.token_ttl_ms),
                lambda reply: write if reply == b"OK" else Step((b"GET", token), known),
            )
        return Step(
            mutation_command(keys, mutation),
""",
            ),
        ),
        _KILLS,
    ),
    Defect(
        "the balance is read first and written back later",
        (
            Edit(
                SERVICE,
                _MUTATE,
                """        mutation = self._mutation(job, method, descriptor, matches, plan_id)
        if method.name == "DebitBalance":
            return Step(
                read_command([keys]),
                lambda value: Step(
                    (
                        *mutation_command(keys, mutation),
                        parse_account("", value).credit_micros if value else 0,
                    ),
                    lambda reply: self._finish_mutation(job, method, descriptor, keys, mutation, reply),
                ),
            )
        return Step(
            mutation_command(keys, mutation),
""",
            ),
            Edit(
                "rater/lua/debit_balance.lua",
                "local left = credit - amount\n",
                "local left = ARGV[at + 4] - amount\n",
            ),
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
        (Edit("rater/link.py", 'f"{peer.id}-{seq}",', 'f"{peer.id}-{seq}-{monotonic_us()}",'),),
        ("rater killed after_write", "rater stopped after_write"),
    ),
    Defect(
        "the HTTP gateway drops the client's key",
        (
            Edit(
                "balancer/http_app.py",
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
                "                    answers.append(Answer(request, code, body, replayed))\n",
                """                    answers.append(Answer(request, code, body, replayed))
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
                "                self._complain(len(steps), error)\n                return outcomes\n",
                """                self._complain(len(steps), error)
                for index, _ in steps:
                    outcomes[index] = Outcome(0, b"0", False)
                return outcomes
""",
            ),
        ),
        ("store stopped", "store unreachable", "store killed"),
    ),
    Defect(
        "the store does not write its log",
        (Edit("common/embedded_store.py", '"appendonly": "yes"', '"appendonly": "no"'),),
        ("store killed",),
    ),
    Defect(
        "a reload of the tariff sets accounts back",
        (Edit("rater/lua/open_account.lua", "if ARGV[1] ~= '1' then\n", "if false then\n"),),
        ("tariff reloaded",),
    ),
    Defect(
        "keys are kept for seconds that were meant to be milliseconds",
        (Edit("rater/command.py", "key_ttl_ms=key_ttl_s * 1000", "key_ttl_ms=key_ttl_s"),),
        _KILLS,
    ),
    Defect(
        "too few replicas are enough",
        (Edit(SERVICE, "        if confirmed >= copies:\n", "        if confirmed >= 0:\n"),),
        ("replicas cut off and primary killed",),
        replicated=True,
    ),
)
