"""The page in a real browser: nothing is loaded, nothing overflows, all is legible, all figures are seen, it prints.

The page itself has no script. What is asked of it, a frame around it asks.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import made_up
import pytest

from edgekd.report import page
from edgekd.report.page import significant

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
    "--hide-scrollbars",
    "--proxy-server=http://127.0.0.1:9",
)
PHONE, PAPER, DESK = 360, 703, 1280  # CSS pixels; paper: A4 less its margins
# what Chromium asks for by itself, whatever it shows; fonts and libraries come from other names
THE_BROWSERS_OWN = (
    ".google.com",
    ".gvt1.com",
    "update.googleapis.com",
    "-pa.googleapis.com",
    "autofill.googleapis.com",
)
SCHEMES = {"dark": "0", "light": "1"}
ASK = (Path(__file__).parent / "browser" / "ask.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Runs a headless Chromium on a page; what it printed, and what its console said. Absent, the tests are skipped."""
    command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if command is None:
        return pytest.fail("chromium is missing") if os.environ.get("CI") else pytest.skip("chromium is not installed")

    def run(address, *flags):
        profile = tmp_path_factory.mktemp("chromium")
        done = subprocess.run(
            [command, *FLAGS, f"--user-data-dir={profile}", *flags, address],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]

    return run


@pytest.fixture(scope="session", params=["as built", "with devices"])
def html(request, tiny_bundle, chromium):
    """The tiny bundle's page as built; and with other kernels, receipts and all that may go wrong."""
    said = page.read(tiny_bundle)
    if request.param == "with devices":
        there = made_up.on_target()
        said |= {"on_target": there, "on_target_says": "3 variants were judged there.", "receipts": made_up.receipts()}
        said["aa"] |= {"ratio": 1.021, "stable": False}
        said["budgets"] |= {"memory_mib": 1.0}
        said["target_figures"]["latency_p50"] |= {"kind": "predicted", "value": 31.0, "interval": [20.0, 130.0]}
    return said, page.render("report.html", said)


@pytest.fixture(scope="session")
def seen(chromium, tmp_path_factory):
    """What a frame around a page finds of it, at a width in CSS pixels and in a colour scheme: see browser/ask.js."""

    @functools.cache
    def see(text, width, scheme="light"):
        path = tmp_path_factory.mktemp("frame") / "frame.html"
        whole = json.dumps(text).replace("</", "<\\/")
        path.write_text(
            '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><pre></pre>'
            f'<iframe style="width:{width}px;height:900px;border:0"></iframe>'
            f"<script>const page = {whole};\n{ASK}</script>",
            encoding="utf-8",
        )
        dumped, console = chromium(
            path.as_uri(),
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            "--window-size=1400,1000",
            "--dump-dom",
        )
        found = re.search(r"<pre>(.*?)</pre>", dumped, flags=re.DOTALL)
        return json.loads(unescape(found[1])) | {"console": console}

    return see


@pytest.fixture
def asked(seen, html):
    """The same of the report's page; `printed`: as on paper."""

    def ask(width, scheme="light", *, printed=False):
        return seen(html[1].replace("@media print", "@media all") if printed else html[1], width, scheme)

    return ask


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_overflows(asked, width):
    found = asked(width)
    assert found["inner"] == width
    assert found["wide"] <= width
    assert found["over"] == []
    assert found["console"] == []


def test_tables_fit_the_desk_and_the_paper(asked):
    assert asked(DESK)["cut"] == []
    printed = asked(PAPER, printed=True)
    assert printed["cut"] == []
    assert printed["over"] == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_all_text_is_legible(asked, scheme, width):
    found = asked(width, scheme)
    assert found["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    assert found["texts"] > 150
    assert found["faint"] == []


def test_what_is_asked_can_fail(seen, html):
    bad = (
        html[1].replace("--soft: #56616e", "--soft: #b9c0c8").replace("<main>", '<main><p style="width:900px">wide</p>')
    )
    found = seen(bad, PHONE)
    assert found["faint"]
    assert found["wide"] > PHONE
    assert "P." in found["over"]


def test_it_can_be_read_aloud(asked):
    found = asked(DESK)
    assert found["lang"] == "en"
    assert found["heads"][0] == 1
    assert found["heads"].count(1) == 1
    assert all(deeper - above <= 1 for above, deeper in pairwise(found["heads"]))
    assert found["drawings"]
    assert all(drawing == ["img", True] for drawing in found["drawings"])
    assert len(found["ids"]) == len(set(found["ids"]))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_what_matters_is_seen(asked, html, width):
    said, seen = html[0], re.sub(r"\s+", " ", asked(width)["text"])
    summary, ships = said["summary"], said["choice"]["recipe"]
    assert summary["verdict"][1:] in seen
    wanted = [f"{summary['speedup']:.2f}x", f"{summary['smaller']:.1f}x", f"{summary['retained']:.1%}"]
    wanted += [f"{figure['kind']}" for figure in said["target_figures"].values()]
    wanted += [figure["how"] for figure in said["target_figures"].values()]
    wanted += [figure["host"] for figure in said["target_figures"].values() if figure["host"]]
    wanted += [
        f"{significant(figure['value'])} {figure['unit']}"
        for name, figure in said["target_figures"].items()
        if name != "accuracy" and figure["value"] is not None
    ]
    wanted += [f"p50 {significant(said['latency_quantiles_ms'][ships][50])} ms", said["choice"]["why"]]
    wanted += [
        f"{layer['sqnr_db']:.1f} dB"
        for layer in sorted(said["diagnosis"]["layers"], key=lambda layer: layer["sqnr_db"])[:5]
    ]
    for trial in said["trials"]:
        wanted += [trial["name"]] if trial["failed"] else [trial["name"], f"{trial['speed']:.2f}x"]
    if said_of_devices(html):
        wanted += [
            "▲ −7.2 points there",
            "14 of 180 flip",
            "0.44x",
            "unstable",
            "▲ throttled",
            "of another model",
            "Memory over budget",
            "reaches past it",
        ]
    assert [words for words in wanted if words not in seen] == []


class Recorder(BaseHTTPRequestHandler):
    """A proxy that lets nothing through and notes which hosts were asked for."""

    asked: set[str]

    def do_GET(self):
        self.asked.add(urlsplit(self.path).hostname or self.path.partition(":")[0])
        self.send_error(404)

    do_CONNECT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_no_request_leaves(chromium, html, tmp_path, asked):
    assert asked(DESK)["loaded"] == []

    def hosts(text):
        found = type("Found", (Recorder,), {"asked": set()})
        with ThreadingHTTPServer(("127.0.0.1", 0), found) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            path = tmp_path / "page.html"
            path.write_text(text, encoding="utf-8")
            _, console = chromium(
                path.as_uri(),
                f"--proxy-server=http://127.0.0.1:{proxy.server_port}",
                "--proxy-bypass-list=<-loopback>",
                "--dump-dom",
            )
            proxy.shutdown()
        return {host for host in found.asked if not host.endswith(THE_BROWSERS_OWN)}, console

    assert hosts(html[1]) == (set(), [])
    intruder = '<img src="http://intruder.test/x.png">'
    assert hosts(intruder)[0] == {"intruder.test"}, "the proxy sees what a page asks for"
    smuggled, console = hosts(html[1].replace("</main>", f"{intruder}</main>"))
    assert smuggled == set(), "the page's own policy lets nothing in"
    assert "intruder.test" in "".join(console)


def test_it_prints_on_few_pages(chromium, html, tmp_path):
    path, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(html[1], encoding="utf-8")
    chromium(path.as_uri(), "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    pages = len(re.findall(rb"/Type /Page\b", paper.read_bytes()))
    assert 1 <= pages <= (6 if said_of_devices(html) else 4)


def said_of_devices(html):
    return html[0].get("receipts") is not None
