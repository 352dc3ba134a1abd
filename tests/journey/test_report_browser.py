"""The report in a real browser: headless Chromium."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from limla.reporting import report
from limla.results import write_predictions
from tests.unit.reported import NONE, PGD, condition, rows_with, write_data, write_results

CHROMIUM = Path("/usr/bin/chromium")
WIDTH = 1366
# a laptop's window; what the page says about itself is read back from the DOM
PROBE = """<script>
for (const details of document.querySelectorAll("details")) details.open = true;
(async () => {
// printing draws every plot; scrolling to each would wait for frames that a busy machine does not give in time
dispatchEvent(new Event("beforeprint"));
dispatchEvent(new Event("afterprint"));
for (let tries = 0; tries < 100 && document.querySelectorAll(".plot .scatterlayer").length <
  document.querySelectorAll(".plot").length; tries++) await new Promise((done) => setTimeout(done, 100));
await new Promise((done) => setTimeout(done, 500));
const root = document.documentElement;
const drawn = [...document.querySelectorAll(".plot")].filter((e) => e.querySelector(".scatterlayer .trace"));
const wide = [...document.querySelectorAll("svg[role=img], .plot, .legend, img, p, h1, h2, h3, figcaption")]
  .filter((e) => !e.closest(".scroll") && e.getBoundingClientRect().right > root.clientWidth + 1);
const inPage = [...document.querySelectorAll("svg[role=img]")];
const flat = inPage.filter((e) => e.getBoundingClientRect().height < 40);
const texts = [...document.querySelectorAll("svg[role=img] text, .plot .main-svg text")].filter((e) => e.textContent);
const small = texts.filter((e) => e.getBoundingClientRect().height < 7);
const outside = texts.filter((e) => {
  const own = e.getBoundingClientRect(), all = e.closest("svg").getBoundingClientRect();
  return own.left < all.left - 4 || own.right > all.right + 4;
});
const lost = [...document.images].filter((e) => !e.naturalWidth);
root.dataset.probe = JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth, wide: wide.length, flat: flat.length, small: small.length,
  outside: outside.map((e) => e.textContent), lost: lost.length, svgs: inPage.length,
  plots: document.querySelectorAll(".plot").length, undrawn: document.querySelectorAll(".plot").length - drawn.length,
  headings: document.querySelectorAll("h2").length,
});
})();
</script></body>"""

# what a reader does: points at a value, and hides a line with a click on the legend
ACTIONS = """<script>
(async () => {
const plot = document.querySelector(".plot");
plot.scrollIntoView();
for (let tries = 0; tries < 40 && !plot.querySelector(".scatterlayer .trace"); tries++)
  await new Promise((done) => setTimeout(done, 50));
const place = plot.data.findIndex((trace) => trace.hovertext);
Plotly.Fx.hover(plot, [{ curveNumber: place, pointNumber: 0 }]);
const told = [...plot.querySelectorAll(".hovertext tspan")].map((e) => e.textContent);
const button = plot.closest("figure").querySelector(".legend button");
const shown = () => plot.data.filter((t) => t.legendgroup === button.dataset.series).map((t) => t.visible);
const states = [shown()];
for (let clicks = 0; clicks < 2; clicks++) {
  button.click();
  await new Promise((done) => setTimeout(done, 300));
  states.push(shown());
}
document.documentElement.dataset.probe = JSON.stringify({ told, states });
})();
</script></body>"""

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser on this machine ({CHROMIUM})")


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the browser headless, offline and with a profile of its own."""
    return subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={WIDTH},900",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def probe(folder: Path, page: Path, script: str = PROBE) -> dict[str, Any]:
    """What the browser measured of the page, and that it had nothing to complain about."""
    copy = page.with_name("probed.html")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy.write_text(text.replace("</body>", script), encoding="utf-8")
    found = chromium(folder, "--virtual-time-budget=20000", "--dump-dom", copy.as_uri())
    assert "CONSOLE" not in found.stderr
    match = re.search(r'data-probe="([^"]*)"', found.stdout)
    assert match is not None, found.stderr[-2000:]
    return json.loads(html.unescape(match[1]))


def test_the_probe_sees_what_is_wrong(tmp_path: Path) -> None:
    """A page with an error, a missing picture and a wide line: what the other tests look for would be found."""
    page = tmp_path / "wrong.html"
    page.write_text('<body><p style="width:3000px">x</p><img src="no.png"><script>f()</script></body>')
    broken = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert "CONSOLE" in broken.stderr
    page.write_text('<body><p style="width:3000px">x</p><img src="data:image/png;base64,AAAA"></body>')
    found = probe(tmp_path, page)
    assert (found["wide"], found["lost"], found["overflow"] != 0) == (1, 1, True)


@pytest.mark.slow
def test_a_full_report_fits_a_laptop(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    for quality in ("1", "10", "1+10+50"):
        for attack in (NONE, PGD):
            cell = condition(10, attack, train_codec="jpeg", train_quality=quality, checkpoint_id=f"q{quality}")
            write_predictions(results, cell, rows_with(30))
    page = report(results, write_data(tmp_path / "flowers"), tmp_path / "report.html")
    found = probe(tmp_path, page)
    assert found == {
        "overflow": 0,
        "wide": 0,
        "flat": 0,
        "small": 0,
        "outside": [],
        "lost": 0,
        "svgs": 3,  # two matrices, classes
        "plots": 16,  # four subjects: quality, rate, reliability; trained on one grid, by attack; PSNR, SSIM
        "undrawn": 0,
        "headings": 4,
    }


def test_plots_tell_values_and_hide_lines(tmp_path: Path) -> None:
    page = report(write_results(tmp_path / "results"), None, tmp_path / "report.html")
    found = probe(tmp_path, page, ACTIONS)
    assert found["told"] == ["no attack", "q1", "35.0% [24.2, 47.6]", "n = 60"]
    assert [set(state) for state in found["states"]] == [{True}, {False}, {True}]
    assert len(found["states"][0]) >= 2  # the line and its band


@pytest.mark.slow
def test_many_qualities_classes_and_long_names_fit_too(tmp_path: Path) -> None:
    results = tmp_path / "results"
    long_name = "my_package.some_module.with_a_long_name:make_the_network_of_my_dreams"
    for quality in (None, *range(5, 100, 7)):
        for eps in (0.0, 2 / 255, 4 / 255, 8 / 255):
            attack = (*PGD[:2], eps, PGD[3]) if eps else NONE
            write_predictions(results, condition(quality, attack, model=long_name), rows_with(30))
    names = [f"a_class_name_that_does_not_want_to_end_{number}" for number in range(3)]
    data = write_data(tmp_path / "flowers", names=names)
    found = probe(tmp_path, report(results, data, tmp_path / "report.html"))
    assert (found["overflow"], found["wide"], found["small"], found["outside"]) == (0, 0, 0, [])


@pytest.mark.slow
def test_it_draws_under_its_own_policy_without_a_network(tmp_path: Path) -> None:
    """The page as it is: its scripts are those it names, and the browser has nothing to complain about."""
    page = report(
        write_results(tmp_path / "results"), write_data(tmp_path / "flowers"), tmp_path / "report.html"
    )
    found = chromium(
        tmp_path,
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={WIDTH},9000",  # plots are drawn when they come into view
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    )
    assert "CONSOLE" not in found.stderr
    assert 'data-drawn="yes"' in found.stdout
    assert 'class="main-svg"' in found.stdout
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", "<script>f()</script></body>"))
    refused = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert "Content Security Policy" in refused.stderr  # a script that came in otherwise does not run


@pytest.mark.slow
def test_it_prints(tmp_path: Path) -> None:
    page = report(
        write_results(tmp_path / "results"), write_data(tmp_path / "flowers"), tmp_path / "report.html"
    )
    printed = tmp_path / "report.pdf"
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={printed}", page.as_uri())
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert 2 <= pages <= 12
