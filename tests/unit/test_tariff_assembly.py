"""How the objects of a load belong together: duplicates, tenants, references, what is carried over."""

from __future__ import annotations

import pytest

from rater.model import Destination, Plan, Tariff
from tests.unit.tariff_sample import (
    BUDGETS,
    DESTINATIONS,
    PLANS,
    RATES,
    FakeActive,
    errors_of,
    one_error,
    read,
    sample_files,
)

# --- duplicates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (RATES, "duplicate rate of tenant 'vdf' for subject 'rif' and prefix '0256'"),
        (DESTINATIONS, "duplicate destination of tenant 'vdf' 'net'"),
        (PLANS, "duplicate tariff plan of tenant 'vdf' 'evening'"),
        (BUDGETS, "duplicate user budget of tenant 'vdf' 'rif'"),
    ],
)
def test_duplicates_are_found_across_files_with_both_places(file: str, said: str) -> None:
    files = sample_files()
    files["more.json"] = [{**files[file][0], "CstmId": "vdf"}]
    assert one_error(files) == f"more.json[0] (line 2): {said}; the first one is {file}[0] (line 2)"


def test_the_same_ids_of_other_tenants_are_no_duplicates() -> None:
    files = sample_files()
    files["more.json"] = [{**files[RATES][0], "CstmId": "other"}]
    assert errors_of(files, "vdf") == []


# --- tenants and references -----------------------------------------------------------------------------


def test_objects_without_a_tenant_belong_to_the_one_given() -> None:
    files = sample_files()
    files[BUDGETS][0]["TariffPlanId"] = ""
    loads, report = read(files, "other")
    assert report.errors == []
    other, vdf = loads
    assert (other.tenant, len(other.destinations), len(other.plans), len(other.budgets)) == ("other", 2, 1, 1)
    assert (vdf.tenant, len(vdf.rates), len(vdf.destinations)) == ("vdf", 1, 0)


def test_without_rates_objects_belong_to_the_only_active_tenant() -> None:
    files = {DESTINATIONS: sample_files()[DESTINATIONS]}
    [load], report = read(files, active=FakeActive({"vdf": Tariff("vdf")}))
    assert report.errors == []
    assert load.tenant == "vdf"


@pytest.mark.parametrize(
    ("rates_of", "active", "said"),
    [
        (("a", "b"), FakeActive(), "the rates of this load are of 2 tenants: 'a', 'b'"),
        (
            (),
            FakeActive({"a": Tariff("a"), "b": Tariff("b")}),
            "the active tariffs are of 2 tenants: 'a', 'b'",
        ),
        ((), FakeActive(), "the active tariffs are of no tenant"),
        ((), FakeActive(reachable=False), "the store could not be asked"),
    ],
)
def test_an_unclear_tenant_is_an_error_that_names_the_option(
    rates_of: tuple[str, ...], active: FakeActive, said: str
) -> None:
    rate = sample_files()[RATES][0]
    files = {
        RATES: [{**rate, "CstmId": tenant} for tenant in rates_of],
        DESTINATIONS: sample_files()[DESTINATIONS],
    }
    error = one_error(files, active=active)
    assert error.startswith("destinations.json[0] (line 2): names no CstmId (so do 1 other objects), and ")
    assert said in error
    assert error.endswith("say whose they are with --tenant")


def test_kinds_that_the_load_does_not_hold_are_carried_over() -> None:
    [load], _ = read(sample_files())
    assert load.tariff is not None
    new = {DESTINATIONS: [{"Id": "net", "Prefixes": ["0799"]}, {"Id": "national", "Prefixes": ["0"]}]}
    [load_after], report = read(new, active=FakeActive({"vdf": load.tariff}))
    assert (report.errors, report.warnings) == ([], [])
    after = load_after.tariff
    assert after is not None
    assert (after.rates, after.plans) == (load.tariff.rates, load.tariff.plans)
    assert after.destinations == (Destination("net", ("0799",)), Destination("national", ("0",)))


def test_budgets_alone_publish_nothing_and_may_name_active_plans() -> None:
    files = {BUDGETS: sample_files()[BUDGETS]}
    active = Tariff("vdf", (), (Destination("national", ("0",)),), (Plan("evening"),))
    [load], report = read(files, active=FakeActive({"vdf": active}))
    assert (report.errors, report.warnings) == ([], [])
    assert load.tariff is None
    assert len(load.accounts) == 1


def test_a_plan_that_is_nowhere_is_an_error_and_one_that_can_not_be_looked_up_is_not() -> None:
    files = {BUDGETS: sample_files()[BUDGETS]}
    error = one_error(files, "vdf")
    assert error.endswith("TariffPlanId 'evening' is not in this load or the active tariff")
    assert errors_of(files, "vdf", FakeActive(reachable=False)) == []


def test_a_plan_that_this_load_replaces_does_not_count() -> None:
    files = sample_files()
    files[PLANS][0]["Id"] = "night"
    active = FakeActive({"vdf": Tariff("vdf", plans=(Plan("evening"),))})
    assert "not in the plans of this load, which replace all others" in one_error(files, active=active)


def test_a_file_that_could_not_be_read_does_not_make_references_dangle() -> None:
    files = sample_files()
    files[PLANS] = b"["
    assert one_error(files).startswith("tariff_plans.json (line 1): the file ends")
