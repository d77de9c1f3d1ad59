"""The status page in a real browser, in front of a real cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from common.about import About, NodeHealth, StoreHealth, encode
from common.wire import encode_about
from tests.e2e.browser import ENTER, TAB, Browser, missing
from tests.e2e.cluster import RATEL, SAMPLE_TARIFF, START_WITHIN_S, Cluster
from tests.integration.balancer_process import BalancerProcess
from tests.integration.fake_rater import FakeRater

pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"no {' and no '.join(missing)} on the PATH (Debian: chromium, chromium-driver)"
)

VIEWS = ("#cluster", "#try?cstmid=vdf&subj=rif&dest=0256&duration=7200", "#account?cstmid=vdf&subj=anna")
SHOWN = {
    "#cluster": "document.querySelector('#raters .badge')",
    "#try": "document.querySelector('#try-result .timeline')",
    "#account": "document.querySelector('#account-result table')",
}
CALL = {
    "CstmId": "vdf",
    "Subject": "rif",
    "DestinationPrefix": "0256",
    "TimeStart": "2012-02-02T17:30:00Z",
    "TimeEnd": "2012-02-02T18:30:00Z",
}
MARKUP = "<script>pwned=1</script><img src=x onerror=pwned=1>"

CONTRASTS = """
const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const light = (rgb) => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.map((part) => linear(part / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
    if (a === 1) return [r, g, b];
  }
  return [255, 255, 255];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
  if (['SCRIPT', 'NOSCRIPT', 'OPTION'].includes(node.tagName)) continue;
  const style = getComputedStyle(node);
  const text = parse(node instanceof SVGElement ? style.fill : style.color).slice(0, 3);
  const [one, other] = [light(text), light(behind(node))].sort((a, b) => b - a);
  found.push([(one + 0.05) / (other + 0.05), walker.currentNode.data.trim()]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def page(browser: Browser, sample_cluster: Cluster) -> Iterator[Callable[[str], Browser]]:
    """Opens a view in a window as wide as a desk's, and waits for it. Nothing may be complained of."""
    browser.prefer()
    browser.resize(1280)
    browser.console()

    def open_view(view: str) -> Browser:
        browser.open(f"{sample_cluster.http}/{view}")
        browser.wait(SHOWN[view.partition("?")[0]])
        return browser

    yield open_view
    assert browser.console() == []


def test_files_are_served_with_their_types_and_a_strict_policy(sample_cluster: Cluster) -> None:
    kinds = {"/": "text/html", "/web/main.js": "text/javascript", "/web/page.css": "text/css"}
    for path, kind in kinds.items():
        with urlopen(sample_cluster.http + path, timeout=30) as response:
            headers, body = response.headers, response.read()
        assert headers["content-type"] == f"{kind}; charset=utf-8"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        again = Request(sample_cluster.http + path, headers={"if-none-match": headers["etag"]})
        with pytest.raises(HTTPError) as known:
            urlopen(again, timeout=30)
        known.value.close()
        assert known.value.code == 304
        assert body
    assert sample_cluster.get("/web/none.js")[0] == 404
    assert sample_cluster.get("/web/../app.py")[0] == 404
    assert sample_cluster.request("POST", "/")[0] == 405


def test_the_cluster_is_shown_and_charts_move(
    page: Callable[[str], Browser], sample_cluster: Cluster
) -> None:
    browser = page("#cluster")
    browser.wait("document.querySelector('#link').dataset.state === 'live'")
    line = "document.querySelector('.chart .line').getAttribute('points')"
    before = browser.run(f"return {line}")
    with sample_cluster.client() as client:
        for _ in range(200):
            client.call("GetCost", CALL)
    browser.wait("[...document.querySelectorAll('#methods th')].some((th) => th.innerText === 'GetCost')")
    browser.wait("Number(document.querySelector('#tiles dd').innerText) > 0")
    browser.wait(line, truth=lambda points: points != before)
    assert browser.text("#raters tbody .badge") == "working"
    assert browser.text("#tariffs tbody tr").split() == ["vdf", "1"]
    assert "answers" in browser.text("#stores")
    assert "MiB" in browser.text("#stores")
    browser.run("document.querySelector('.chart details').open = true")
    browser.wait("[...document.querySelectorAll('.chart td')].some((td) => Number(td.innerText) > 0)")


def test_the_nodes_of_a_cluster_of_stores_are_shown(browser: Browser) -> None:
    mib = 1024 * 1024
    here, there = NodeHealth("h:1", True, mib, 8 * mib, 1), NodeHealth("h:2", True, 2 * mib)
    browser.resize(360)
    browser.console()
    with (
        BalancerProcess() as balancer,
        FakeRater(balancer.router_port, name="a") as one,
        FakeRater(balancer.router_port, name="b") as two,
    ):
        for rater, nodes in ((one, (here, there)), (two, (here, NodeHealth("h:2")))):
            rater.wait_for(lambda rater: rater.joined)
            store = StoreHealth(True, "redis+cluster://h:1", 3 * mib, 0, 300, nodes)
            rater.send_raw(encode_about(encode(About("1", 0, {}, store))))
        browser.open(f"http://127.0.0.1:{balancer.http_port}/#cluster")
        browser.wait("document.querySelector('#stores').innerText.includes('1 of 2 nodes does not answer')")
        lines = browser.text("#stores").splitlines()
        assert lines[lines.index("h:1") + 1] == "1 MiB of 8 MiB, 1 replica"
        assert lines[lines.index("h:2") + 1] == "does not answer"
        wide = browser.run("return document.documentElement.scrollWidth")
        assert wide == 360
        two.beating = False
        browser.wait("document.querySelector('#stores').innerText.includes('2 MiB, no replicas')")


def test_pause_stands_still(page: Callable[[str], Browser]) -> None:
    browser = page("#cluster")
    browser.run("document.querySelector('#pause').click()")
    shown = browser.text("#about")
    events = browser.run("return performance.now()")
    browser.wait("performance.now() - arguments[0] > 2500", events)
    assert browser.text("#about") == shown
    browser.run("document.querySelector('#pause').click()")
    browser.wait("document.querySelector('#about').innerText !== arguments[0]", shown)


def test_a_call_is_explained(page: Callable[[str], Browser]) -> None:
    browser = page("#cluster")
    browser.run("location.hash = '#try'")
    for field, text in (("cstmid", "vdf"), ("subj", "rif"), ("dest", "0256308200"), ("duration", "3600")):
        browser.type(f"#try-{field}", text)
    browser.run("document.querySelector('#try-start').value = '2012-02-02T17:30:00'")
    browser.type("#try-duration", ENTER)
    browser.wait("document.querySelector('#try-result .timeline')")
    assert browser.text(".price").startswith("540 cents")
    assert browser.text(".verdict .badge") == "has a price"
    blocks = browser.run("return [...document.querySelectorAll('.timeline b')].map((b) => b.innerText)")
    assert blocks == ["360", "180"]
    widths = browser.run("return [...document.querySelectorAll('.timeline li')].map((li) => li.clientWidth)")
    assert abs(widths[0] - widths[1]) <= 2
    assert "1800 s × 0.2 ÷ 1 s = 360" in browser.text("#try-result")
    loser = "document.querySelector('#try-result td details')"
    assert not browser.run(f"return {loser}.querySelector('ul').checkVisibility()")
    browser.run(f"{loser}.querySelector('summary').click()")
    assert browser.run(f"return {loser}.querySelector('ul').checkVisibility()")
    assert "0.1 per 1 s" in browser.text("#try-result td details ul")
    assert "How long they may talk" in browser.text("#try-result")
    assert "start=2012-02-02T17" in browser.run("return decodeURIComponent(location.hash)")


def test_what_is_wrong_with_a_call_is_said(page: Callable[[str], Browser]) -> None:
    browser = page("#cluster")
    browser.run("location.hash = '#try?cstmid=vdf&subj=rif&dest=0256&duration=long'")
    browser.wait("document.querySelector('#try-note').innerText.includes('expected a number')")
    browser.run("location.hash = '#account?cstmid=vdf&subj=nobody'")
    browser.wait("document.querySelector('#account-note').innerText.includes('no account')")
    assert all("404" in line or "400" in line for line in browser.console())  # that is how they are told


def test_an_account_is_shown_and_nothing_can_be_changed(
    page: Callable[[str], Browser], sample_cluster: Cluster
) -> None:
    with sample_cluster.client() as client:
        client.call("DebitSMS", {"CstmId": "vdf", "Subject": "anna", "Amount": 1, "RequestId": "shown-1"})
        account = client.call("Account", {"CstmId": "vdf", "Subject": "anna"})
    assert isinstance(account, dict)
    browser = page("#account?cstmid=vdf&subj=anna")
    text = browser.text("#account-result")
    assert f"{account['SmsCredit']}" in text
    assert "on-net" in text
    assert "evening" in text
    first = browser.text("#account-result .card:last-child tbody tr")
    assert "DebitSMS" in first
    assert "shown-1" in first
    assert browser.run("return document.querySelector('#credit-form, #block-button')") is None
    assert browser.run("return document.querySelector('#key-button').hidden")


def test_markup_in_names_stays_text(page: Callable[[str], Browser], sample_cluster: Cluster) -> None:
    command = [*RATEL, "account", "create", "vdf", MARKUP, "--bucket", f"{MARKUP}=60", "--plan", MARKUP]
    subprocess.run(
        [*command, "--store", sample_cluster.store_url], check=True, capture_output=True, timeout=60
    )
    with sample_cluster.client() as client:
        client.call("DebitSMS", {"CstmId": "vdf", "Subject": MARKUP, "Amount": 0, "RequestId": MARKUP})
    browser = page("#cluster")
    for view in ("account?", "try?dest=0256&"):
        browser.run(
            "location.hash = arguments[0] + new URLSearchParams({cstmid: 'vdf', subj: arguments[1]})",
            view,
            MARKUP,
        )
        name = view.partition("?")[0]
        browser.wait(f"document.querySelector('#{name}-result').innerText.includes(arguments[0])", MARKUP)
        assert browser.run(f"return document.querySelectorAll('#{name}-result :is(script, img)').length") == 0
    assert browser.run("return typeof pwned") == "undefined"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Callable[[str], Browser], browser: Browser, scheme: str) -> None:
    browser.prefer(scheme)
    for view in VIEWS:
        contrasts = page(view).run(CONTRASTS)
        assert len(contrasts) > 20
        assert [each for each in contrasts if each[0] < 4.5] == []
    back = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(15, 20, 25)") == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 768, 1024])
def test_nothing_is_wider_than_a_phone(page: Callable[[str], Browser], browser: Browser, width: int) -> None:
    browser.resize(width)
    for view in VIEWS:
        wide = page(view).run("return document.documentElement.scrollWidth")
        assert wide == width, view


def test_all_controls_are_reached_by_keyboard(page: Callable[[str], Browser]) -> None:
    for view in VIEWS:
        browser = page(view)
        wanted = browser.run(
            "return [...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]"
            ".filter((node) => node.checkVisibility()).length"
        )
        browser.run("seen = []; lit = new Set(); document.body.focus()")
        for _ in range(wanted + 10):  # a date has several fields
            browser.press(TAB)
            browser.run(
                "const node = document.activeElement;"
                "if (node === document.body) return;"
                "if (!seen.includes(node)) seen.push(node);"
                "if (getComputedStyle(node).outlineStyle !== 'none') lit.add(node)"
            )
        assert browser.run("return [seen.length, lit.size]") == [wanted, wanted]
    browser.run("document.querySelector('nav a').focus()")
    browser.press(ENTER)
    browser.wait("!document.querySelector('#view-cluster').hidden")
    unnamed = "[...document.querySelectorAll('input, select')].filter((node) => !node.labels.length).length"
    assert browser.run(f"return {unnamed}") == 0


def test_less_motion_where_that_is_preferred(page: Callable[[str], Browser], browser: Browser) -> None:
    moves = "return getComputedStyle(document.querySelector('.meter span')).transitionDuration"
    assert page("#cluster").run(moves) != "0s"
    browser.prefer(motion="reduce")
    page("#cluster")
    assert browser.run(moves) == "0s"
    browser.run(
        "drawn = 0; events = 0; const changes = {childList: true};"
        "new MutationObserver(() => { drawn += 1 }).observe(document.querySelector('.plot'), changes);"
        "new MutationObserver(() => { events += 1 }).observe(document.querySelector('#about'), changes)"
    )
    events, drawn = browser.wait("[events, drawn]", truth=lambda counts: counts[0] >= 5)
    assert drawn <= 2 < events


# --- with API keys ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("keyed")
    create(folder, "first", "--allow", "read")  # the file has to be there
    cluster = Cluster(
        folder / "data",
        *("--raters", "1", "--load", str(SAMPLE_TARIFF), "--tenant", "vdf"),
        *("--api-keys", str(folder / "api-keys.json")),
    )
    try:
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.stop()


def create(folder: Path, name: str, *words: str) -> str:
    command = [*RATEL, "apikey", "create", "--api-keys", str(folder / "api-keys.json"), "--name", name]
    done = subprocess.run(
        [*command, *(() if "--tenant" in words else ("--all-tenants",)), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


ELSEWHERE = {"x-forwarded-for": "192.0.2.1"}
"""As somebody on another host, behind a proxy: who is on this one may look without a key."""

OPERATOR = ("--allow", "read", "--allow", "debit", "--allow", "operator")


def test_who_has_no_operators_key_sees_nothing(keyed: Cluster) -> None:
    folder = keyed.data.parent
    keys = {
        "nobody": (None, 401),
        "reader": (create(folder, "reader", "--allow", "read"), 403),
        "operator of one tenant": (create(folder, "one", *OPERATOR, "--tenant", "vdf"), 403),
        "operator": (create(folder, "operator", *OPERATOR), 200),
    }
    for key, status in keys.values():
        headers = {"authorization": f"Bearer {key}"} if key else {}
        wait_for_key(keyed, headers)
        headers |= ELSEWHERE
        assert keyed.get("/status.json", headers)[0] == status
        request = Request(f"{keyed.http}/events", headers=headers)
        if status == 200:
            with urlopen(request, timeout=30) as response:
                assert response.headers["content-type"] == "text/event-stream"
        else:
            with pytest.raises(HTTPError) as refused:
                urlopen(request, timeout=30)
            refused.value.close()
            assert refused.value.code == status
        with urlopen(keyed.http + "/", timeout=30) as response:
            assert b"ratel_0" not in response.read()


def wait_for_key(cluster: Cluster, headers: dict[str, str]) -> None:
    """Until the front has read the file of keys anew."""
    give_up_s = time.monotonic() + START_WITHIN_S
    while headers and cluster.get("/whoami", headers)[0] != 200:
        assert time.monotonic() < give_up_s, "the key is not taken"
        time.sleep(0.05)


def test_an_operators_key_shows_all_and_gives_credit(keyed: Cluster, browser: Browser) -> None:
    key = create(keyed.data.parent, "at the page", *OPERATOR)
    wait_for_key(keyed, {"authorization": f"Bearer {key}"})
    browser.prefer()
    browser.resize(1280)
    browser.devtools("Network.enable")
    browser.devtools("Network.setExtraHTTPHeaders", headers=ELSEWHERE)
    browser.open(keyed.http + "/")
    browser.wait("document.querySelector('#link-text').innerText === 'needs a key'")
    assert browser.run("return document.querySelector('#raters').innerText") == ""
    browser.type("#key", key + ENTER)
    browser.wait(SHOWN["#cluster"])
    assert browser.run("return Object.keys(localStorage).length + document.cookie.length") == 0
    assert "ratel_" not in browser.run("return document.documentElement.outerHTML + location.href").replace(
        "ratel_…", ""
    )
    browser.run("location.hash = '#account?cstmid=vdf&subj=anna'")
    browser.wait("document.querySelector('#credit-form')")
    browser.type("#credit-amount", "25.5")
    browser.run("setTimeout(() => document.querySelector('#credit-form button').click(), 0)")
    assert browser.accept() == "Give 25.5 cents to anna of vdf?"
    browser.wait("document.querySelector('#credit-note').innerText.includes('1,525.5 cents now')")
    assert "1,525.5 cents" in browser.text("#account-result")
    account = keyed.get("/account", {"x-api-key": key}, cstmid="vdf", subj="anna")
    assert account[1]["Credit"] == 1525.5
    browser.run("document.querySelector('#key-button').click()")
    browser.run("document.querySelector('#key-forget').click()")
    browser.wait("document.querySelector('#credit-form') === null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operators_key_blocks_and_unblocks(keyed: Cluster, browser: Browser, scheme: str) -> None:
    key = create(keyed.data.parent, f"who blocks, {scheme}", "--allow", "read", "--allow", "operator")
    wait_for_key(keyed, {"authorization": f"Bearer {key}"})
    browser.prefer(scheme)
    browser.resize(1280)
    browser.devtools("Network.enable")
    browser.devtools("Network.setExtraHTTPHeaders", headers=ELSEWHERE)
    browser.open(keyed.http + "/#account?cstmid=vdf&subj=office")
    browser.run("sessionStorage.setItem('ratel-api-key', arguments[0])", key)
    browser.open(keyed.http + "/#account?cstmid=vdf&subj=office")
    button = "document.querySelector('#block-button')"
    for label, question, done, state in (
        ("Block account", "Block office of vdf? Debits", "Done: it is blocked.", True),
        ("Unblock account", "Unblock office of vdf? Debits", "Done: it is open.", False),
    ):
        browser.wait(f"{button}?.innerText === arguments[0]", label)
        assert (
            browser.run("return document.querySelector('#credit-form')") is None
        )  # that needs another right
        contrasts = browser.run(CONTRASTS)
        assert [each for each in contrasts if each[0] < 4.5] == []
        browser.run(f"{button}.focus()")
        browser.run(f"setTimeout(() => {button}.click(), 0)")
        assert browser.dismiss().startswith(question)
        assert account_of(keyed, key)["Blocked"] is not state
        browser.run(f"setTimeout(() => {button}.click(), 0)")
        assert browser.accept().startswith(question)
        browser.wait("document.querySelector('#block-note')?.innerText === arguments[0]", done)
        assert browser.run(f"return document.activeElement === {button}")
        assert browser.run("return document.querySelector('#block-note').getAttribute('role')") == "status"
        assert account_of(keyed, key)["Blocked"] is state
        badges = browser.run(
            "return [...document.querySelectorAll('#account-result dl .badge')].map((one) => one.innerText)"
        )
        assert badges == ["blocked" if state else "open"]
        assert "SetTerms" in browser.text("#account-result .card:last-child tbody tr")
    for width in (360, 1280):
        browser.resize(width)
        assert browser.run("return document.documentElement.scrollWidth") == width
    browser.run("sessionStorage.clear()")


def account_of(cluster: Cluster, key: str) -> Any:
    status, account = cluster.get("/account", {"x-api-key": key}, cstmid="vdf", subj="office")
    assert status == 200
    return account


def test_a_key_that_only_reads_shows_no_button(keyed: Cluster, browser: Browser) -> None:
    key = create(keyed.data.parent, "looks", "--allow", "read", "--allow", "Account", "--allow", "History")
    wait_for_key(keyed, {"authorization": f"Bearer {key}"})
    browser.open(keyed.http + "/#account?cstmid=vdf&subj=office")
    browser.run("sessionStorage.setItem('ratel-api-key', arguments[0])", key)
    browser.open(keyed.http + "/#account?cstmid=vdf&subj=office")
    browser.wait(SHOWN["#account"])
    assert browser.run("return document.querySelector('#credit-form, #block-button')") is None
    headers = {"x-api-key": key}
    assert keyed.get("/setterms", headers, cstmid="vdf", subj="office", blocked="true")[0] == 403
    browser.run("sessionStorage.clear()")
