"""Random mutations against a plain model of an account: state and journal are equal after each.

The model is written from docs/rating.md in Python's integers and shares nothing with the scripts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.money import LIMIT, MICRO, price_of
from rater.accounts.mutation import Mutation, MutationResult, PlanChanged, Refused
from rater.accounts.mutations import mutation_command, parse_account, parse_mutation_reply
from rater.accounts.opening import open_command
from rater.model import MAX_BUCKETS, Account, Bonus, Bucket, Plan, spendable_micros
from rater.store import scripts
from rater.store.keys import account_keys
from tests.stored import account_fields, bucket_texts, line_fields

DESTINATIONS = ("a", "b", "c d\n", "é{:}")
SUBJECTS = count()

small = st.integers(-200, 200)
quantity = st.one_of(small, small, st.integers(-LIMIT, LIMIT), st.sampled_from((LIMIT, -LIMIT, 0)))
seconds_us = quantity.map(abs)
buckets = st.builds(
    Bucket,
    st.sampled_from(DESTINATIONS),
    seconds_us,
    st.integers(-1, 1),
    st.sampled_from((0, 1, 333_333_333, 500_000_000, 1_000_000_000, LIMIT)),
)
bonuses = st.builds(Bonus, quantity, quantity, quantity, st.none() | buckets)
plans = st.builds(
    Plan,
    st.sampled_from(("p", "q\n")),
    quantity,
    quantity,
    st.one_of(st.integers(0, 100), seconds_us),
    bonuses,
    st.lists(buckets, max_size=4).map(tuple),
)
ACCOUNTS = st.builds(
    Account,
    st.just(""),
    quantity,
    quantity,
    quantity,
    quantity,
    quantity,
    st.integers(0, 31),
    st.sampled_from(("", "p", "q\n")),
    st.booleans(),
    st.none() | quantity,
    st.one_of(st.lists(buckets, max_size=6), st.just([Bucket("a", 1, 0, 0)] * MAX_BUCKETS)).map(tuple),
)
MATCHES = st.dictionaries(st.sampled_from(DESTINATIONS), st.integers(1, 3)).map(lambda d: tuple(d.items()))
METHODS = {
    "DebitBalance": {},
    "DebitSMS": {},
    "DebitSeconds": {"destination": st.sampled_from(("1", "2")), "matches": MATCHES},
    "AddVolumeDiscountSeconds": {},
    "ResetVolumeDiscountSeconds": {"amount_micros": st.just(0)},
    "AddRecievedCallSeconds": {"plan": st.none() | plans},
    "ResetUserBudget": {"amount_micros": st.just(0), "plan": st.none() | plans},
}
MUTATIONS = st.one_of(
    *(
        st.fixed_dictionaries(
            {
                "method": st.just(method),
                "amount_micros": quantity,
                "token": st.integers(0, 12).map(str),
                **fields,
            }
        )
        for method, fields in METHODS.items()
    )
)


class No(Exception):
    """The model's refusal; its text is the name of the error."""


def in_range(*values: int) -> None:
    if any(abs(value) > LIMIT for value in values):
        raise No("OutOfRange")


@dataclass
class Model:
    account: Account
    seq: int = 1
    tokens: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def apply(self, m: Mutation) -> tuple[Any, bool]:
        """The result or the name of the refusal, and whether it is a replay."""
        fingerprint = (m.method, m.amount_micros, m.destination)
        if m.token in self.tokens:
            known, outcome = self.tokens[m.token]
            return (outcome, True) if known == fingerprint else ("KeyReused", False)
        if m.method in ("AddRecievedCallSeconds", "ResetUserBudget") and m.plan_id != self.account.plan:
            return PlanChanged(self.account.plan), False
        outcome: int | str
        try:
            outcome, self.account = getattr(self, m.method)(m)
            self.seq += 1
        except No as no:
            outcome = str(no)
        self.tokens[m.token] = (fingerprint, outcome)
        return outcome, False

    def changed(self, result: int, **changes: Any) -> tuple[int, Account]:
        values = {name: getattr(self.account, name) for name in Account.__struct_fields__}
        return result, Account(**(values | changes))

    def DebitBalance(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        left = self.account.credit_micros - m.amount_micros
        floor = self.account.min_credit_micros
        if m.amount_micros > 0 and floor is not None and left < floor:
            raise No("BelowFloor")
        in_range(left)
        return self.changed(left, credit_micros=left)

    def DebitSMS(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        left = self.account.sms_micros - m.amount_micros
        if m.amount_micros > 0 and left < 0:
            raise No("InsufficientSms")
        in_range(left)
        return self.changed(left, sms_micros=left)

    def AddVolumeDiscountSeconds(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        total = self.account.volume_discount_us + m.amount_micros
        in_range(total)
        return self.changed(total, volume_discount_us=total)

    def ResetVolumeDiscountSeconds(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        return self.changed(0, volume_discount_us=0)

    def ResetUserBudget(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        if not m.plan_id or m.plan is None:
            raise No("NoTariffPlan")
        plan = m.plan
        return self.changed(
            0, sms_micros=plan.sms_micros, traffic_micros=plan.traffic_micros, buckets=plan.buckets
        )

    def DebitSeconds(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        precision = dict(m.matches)
        held = list(self.account.buckets)
        order = sorted(
            (i for i, bucket in enumerate(held) if bucket.destination in precision),
            key=lambda i: (
                -held[i].priority,
                -precision[held[i].destination],
                held[i].price_nanos,
                held[i].destination,
            ),
        )
        rest, cost = m.amount_micros, 0
        left = sum(held[i].seconds_us for i in order) - rest
        if rest > 0 and left < 0:
            raise No("InsufficientSeconds")
        if rest < 0 and not order:
            raise No("NoBucket")
        for i in order if rest > 0 else order[:1]:
            taken = min(rest, held[i].seconds_us)
            price = price_of(abs(taken), held[i].price_nanos, MICRO)
            cost += price if taken > 0 else -price
            rest -= taken
            held[i] = Bucket(
                held[i].destination, held[i].seconds_us - taken, held[i].priority, held[i].price_nanos
            )
        in_range(left, cost, *(bucket.seconds_us for bucket in held))
        spendable = spendable_micros(self.account)
        if spendable is not None and cost > spendable:
            raise No("InsufficientCredit")
        credit = self.account.credit_micros - cost
        in_range(credit)
        return self.changed(left, credit_micros=credit, buckets=tuple(held))

    def AddRecievedCallSeconds(self, m: Mutation) -> tuple[int, Account]:  # noqa: N802
        plan = m.plan or Plan("")
        total, times = self.account.received_us + m.amount_micros, 0
        in_range(total)
        if 0 < plan.received_limit_us <= total:
            times, total = divmod(total, plan.received_limit_us)
        bonus, account = plan.bonus, self.account
        gains = [times * gain for gain in (bonus.credit_micros, bonus.sms_micros, bonus.traffic_micros)]
        after = [account.credit_micros, account.sms_micros, account.traffic_micros]
        after = [balance + gain for balance, gain in zip(after, gains, strict=True)]
        in_range(*gains, *after)
        held = list(account.buckets)
        if times and bonus.bucket and bonus.bucket.seconds_us:
            new = bonus.bucket
            gain = new.seconds_us * times
            in_range(gain)
            for i, old in enumerate(held):
                if (old.destination, old.priority, old.price_nanos) == (
                    new.destination,
                    new.priority,
                    new.price_nanos,
                ):
                    held[i] = Bucket(old.destination, old.seconds_us + gain, old.priority, old.price_nanos)
                    break
            else:
                held.append(Bucket(new.destination, gain, new.priority, new.price_nanos))
            in_range(*(bucket.seconds_us for bucket in held))
            if len(held) > MAX_BUCKETS:
                raise No("TooManyBuckets")
        return self.changed(
            total,
            received_us=total,
            credit_micros=after[0],
            sms_micros=after[1],
            traffic_micros=after[2],
            buckets=tuple(held),
        )


def balances(account: Account) -> dict[str, str]:
    return {
        name: str(micros)
        for name, micros in (
            ("credit", account.credit_micros),
            ("sms", account.sms_micros),
            ("traffic", account.traffic_micros),
            ("volume_discount", account.volume_discount_us),
            ("received", account.received_us),
        )
    }


def bucket_text(bucket: Bucket) -> str:
    return f"{bucket.seconds_us} {bucket.priority} {bucket.price_nanos} {bucket.destination}"


def expected_fields(model: Model) -> dict[str, str]:
    account = model.account
    fields = balances(account) | {
        "seq": str(model.seq),
        "reset_day": str(account.reset_day),
        "plan": account.plan,
        "type": "postpaid" if account.postpaid else "prepaid",
    }
    if account.min_credit_micros is not None:
        fields["min_credit"] = str(account.min_credit_micros)
    for i, bucket in enumerate(account.buckets):
        fields[f"bucket:{i}"] = bucket_text(bucket)
    return fields


def check_last_line(line: dict[str, bytes], m: Mutation, model: Model, before: Account) -> None:
    after = model.account
    wanted = {
        "seq": str(model.seq),
        "op": m.method,
        "amount": str(m.amount_micros),
        "token": m.token,
    } | balances(after)
    assert {name: line.pop(name).decode() for name in wanted} == wanted
    held = line.pop("buckets", None)
    if before.buckets != after.buckets or m.method in ("DebitSeconds", "ResetUserBudget"):
        assert held is not None
        assert bucket_texts(held) == [bucket_text(bucket) for bucket in after.buckets]
    if m.method == "DebitSeconds":
        assert int(line.pop("cost")) == before.credit_micros - after.credit_micros
    if "bonus" in line:
        times, taken, credit, sms, traffic = map(int, line.pop("bonus").split())
        assert times > 0
        assert taken == before.received_us + m.amount_micros - after.received_us
        assert credit == after.credit_micros - before.credit_micros
        assert (sms, traffic) == (
            after.sms_micros - before.sms_micros,
            after.traffic_micros - before.traffic_micros,
        )
    assert not line


def mutation_of(values: dict[str, Any], subject: str, live_plan: str) -> Mutation:
    plan = values.get("plan")
    plan_id = plan.id if plan else live_plan
    return Mutation(tenant="m", subject=subject, token_ttl_ms=3_600_000, plan_id=plan_id, **values)


def outcome_of(outcome: Any) -> tuple[Any, bool]:
    if isinstance(outcome, MutationResult):
        return outcome.value_micros, outcome.replayed
    if isinstance(outcome, Refused):
        return type(outcome.error).__name__, outcome.replayed
    return outcome, False


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(start=ACCOUNTS, steps=st.lists(MUTATIONS, min_size=1, max_size=25))
def test_any_sequence_of_mutations_does_what_the_model_does(
    store: Any, start: Account, steps: list[dict[str, Any]]
) -> None:
    subject = str(next(SUBJECTS))
    keys = account_keys("m", subject)
    model = Model(start)
    assert scripts.execute(store, [open_command(keys, start)]) == [b"Opened"]
    for values in steps:
        before = model.account
        mutation = mutation_of(values, subject, before.plan)
        [reply], value, length, last = scripts.execute(
            store,
            [
                mutation_command(keys, mutation),
                ("GET", keys.account),
                ("XLEN", keys.journal),
                ("XREVRANGE", keys.journal, "+", "-", "COUNT", 1),
            ],
        )
        seq = model.seq
        assert outcome_of(parse_mutation_reply(mutation, reply)) == model.apply(mutation)
        assert account_fields(value) == expected_fields(model)
        assert length == model.seq
        if model.seq > seq:
            check_last_line(line_fields(last[0][1]), mutation, model, before)
        assert parse_account("", value) == model.account
