"""The pages of the documentation, as a browser shows them: notebooks are left unrun, so that this takes a minute."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.docs
# What is wider than its place, page by page.
MEASURE = """<script>
(async () => {
  const cut = [];
  for (const page of %s) {
    const frame = document.createElement("iframe");
    frame.style.cssText = "width: %dpx; height: 900px";
    frame.src = page;
    document.body.append(frame);
    await new Promise(loaded => frame.onload = loaded);
    const inside = frame.contentDocument;
    if (inside.documentElement.scrollWidth > %d + 1) cut.push(page);
    for (const block of inside.querySelectorAll("%s"))
      if (block.clientWidth && block.scrollWidth > block.clientWidth + 1)
        cut.push(page + ": " + block.textContent.trim().slice(0, 60));
    frame.remove();
  }
  document.body.innerHTML = "<pre id=cut></pre>";
  document.getElementById("cut").textContent = JSON.stringify(cut);
})();</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("myst_nb", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "docs", str(folder)],
        cwd=ROOT,
        env=os.environ | {"DOCS_EXECUTE": "off"},
        check=True,
    )
    return folder


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_no_sentence_of_a_property_became_a_type(site):
    reference = {path.name: path.read_text() for path in (site / "api").glob("*.html")}
    assert "Pred(n) on validation" in re.sub(r"<[^>]*>", "", reference["neurons.html"])
    assert [name for name, text in reference.items() if ">Type<" in text] == []


def test_every_link_leads_to_a_page_and_to_its_place_there(site):
    texts = {path: path.read_text() for path in pages(site)}
    places = {
        path: {html.unescape(name) for name in re.findall(r'\bid="([^"]+)"', text)} for path, text in texts.items()
    }
    broken, n_links = [], 0
    for path, text in texts.items():
        for link in re.findall(r'<(?:a|img|link|script)\b[^>]*\b(?:href|src)="([^"]+)"', text):
            target, _, place = unquote(html.unescape(link)).partition("#")
            if re.match(r"[a-z]+:|//", target) or path.stem in ("search", "genindex"):
                continue
            there = (path.parent / target.partition("?")[0]).resolve() if target else path
            n_links += 1
            if not there.is_file() or (place and place not in places[there]):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == [] and n_links > 1000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize(("width", "blocks"), [(1280, "pre, .table-wrapper"), (400, "p, li")])
def test_no_line_is_cut_and_no_page_is_wider_than_its_window(site, width, blocks):
    names = json.dumps([path.relative_to(site).as_posix() for path in pages(site)])
    measure = site / "measure.htm"
    measure.write_text("<body>" + MEASURE % (names, width, width, blocks))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=200000", "--dump-dom", measure.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    found = re.search(r'<pre id="cut">(.*?)</pre>', shown, re.DOTALL)
    assert found is not None and json.loads(html.unescape(found[1])) == []
