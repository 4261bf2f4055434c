"""`kadapter demo`: the page is served by the command and used in a browser without a screen."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from documented import write_world
from helpers import ROOT, run_python
from typer.testing import CliRunner

from kadapter.commands import app

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
MARKED = "[[Mira Voss]] was born in [[Tarnstad]]."


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


# ---- refusals -------------------------------------------------------------------------------------------------------


def sentence(*words):
    result = CliRunner().invoke(app, ["demo", *map(str, words)])
    assert result.exit_code == 1, result.output
    return result.stderr.strip().splitlines()[-1]


needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed: pip install '.[demo]'"
)


@pytest.mark.slow
def test_without_gradio_a_sentence_says_how_to_install_it(world):
    hidden = "import importlib.util\nfind = importlib.util.find_spec\n"
    hidden += "importlib.util.find_spec = lambda name, *more: None if name == 'gradio' else find(name, *more)\n"
    code = hidden + "from kadapter.commands import app\napp(sys.argv[1:])"
    done = run_python(code, world, "demo", world / "relations", package=True, check=False)
    assert done.returncode == 1
    assert "kadapter: the demo page needs gradio, which is not installed: pip install 'kadapter[demo]'" in done.stderr


@needs_gradio
def test_what_is_no_artifact_or_asks_for_more_than_a_text_is_refused(world):
    assert "there is no such directory" in sentence(world / "nowhere")
    assert "is asked about more than a text" in sentence(world / "choices")


# ---- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(world, tmp_path_factory):
    """Where the command serves a head with two adapters."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed: pip install '.[demo]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-P", "-m", "kadapter.commands", "demo", "relations", "kadapter-lin", "--port", port]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with (tmp_path_factory.mktemp("demo") / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=world, stdout=log, stderr=log, env=offline)
        try:
            yield wait_for(f"http://127.0.0.1:{port}/", process, log)
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_for(address, process, log):
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.seek(0) or log.read()
            time.sleep(0.3)
        else:
            return address
    raise AssertionError("the page never came")


@pytest.fixture(scope="module")
def opened(address, tmp_path_factory):
    """The page in a browser, and the addresses outside this machine that it asked for."""
    if BROWSER is None:
        pytest.skip("there is no Chromium on this machine")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright, which drives the browser, is not installed: pip install '.[test]'")
    from playwright.sync_api import sync_playwright

    outside = []
    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")), executable_path=BROWSER, args=FLAGS.split()
        )
        tab = context.new_page()
        tab.set_default_timeout(120_000)
        tab.on("request", lambda request: "127.0.0.1" in request.url or outside.append(request.url))
        tab.goto(address)
        yield tab, outside
        context.close()


def shown(tab, text, *chosen):
    """What the page shows of a text under these adapters."""
    for box in tab.locator("#adapters label").all():
        box.locator("input").set_checked(box.inner_text().strip() in chosen)
    tab.locator("#text textarea").fill(text)
    tab.evaluate("document.querySelector('#shown .demo')?.remove()")
    tab.locator("#show").click()
    tab.wait_for_selector("#shown .demo")
    return tab.locator("#shown .demo").inner_text()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_page_shows_predictions_with_and_without_each_adapter_and_what_each_adds(opened):
    tab, outside = opened
    shown(tab, MARKED, "fac", "lin")
    rows = [row.inner_text().split() for row in tab.locator("#predictions tr").all()]
    assert [row[0] for row in rows] == ["encoder", "fac", "lin", "fac+lin"]
    answers = [re.findall(r"(?:born|died|works) \d\.\d{3}", " ".join(row)) for row in rows]
    assert all(len(answer) == 1 for answer in answers) and len({answer[0] for answer in answers}) > 1
    tokens, heat = [], {}
    for row in tab.locator("#heat .row").all():
        tokens = row.locator("code").all_inner_texts()
        heat[row.locator("b").inner_text()] = list(map(float, row.locator("small").all_inner_texts()))
    assert "@" in " ".join(tokens) and "#" in " ".join(tokens)  # the marks of head and tail
    assert list(heat) == ["fac", "lin"] and all(len(shares) == len(tokens) for shares in heat.values())
    assert all(share > 0 for shares in heat.values() for share in shares) and heat["fac"] != heat["lin"]
    colours = tab.locator("#heat .cell").evaluate_all("cells => cells.map(cell => cell.style.backgroundColor)")
    assert len(set(colours)) > 3
    assert outside == []


@pytest.mark.slow
@pytest.mark.thorough
def test_adapters_that_are_not_chosen_are_not_shown(opened):
    tab, _ = opened
    shown(tab, MARKED, "lin")
    assert [row.split()[0] for row in tab.locator("#predictions tr th").all_inner_texts()] == ["encoder", "lin"]
    assert tab.locator("#heat .row").count() == 1
    assert "No adapter is chosen, so nothing moves." in shown(tab, MARKED)


@pytest.mark.slow
@pytest.mark.thorough
def test_an_entity_is_marked_by_selecting_it(opened):
    tab, _ = opened
    box = tab.locator("#text textarea")
    for before in ("", "\N{MATHEMATICAL BOLD CAPITAL A}, "):  # a letter of two code units
        box.fill(f"{before}Mira Voss was born.")
        box.press("Home")
        for _ in before:
            box.press("ArrowRight")
        for _ in range(len("Mira Voss ")):  # with the space after it, as people select
            box.press("Shift+ArrowRight")
        tab.locator("#mark").click()
        tab.wait_for_function("document.querySelector('#text textarea').value.includes('[[')")
        assert box.input_value() == f"{before}[[Mira Voss]] was born."


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is nothing to read: type a sentence."),
        (" \n ", "There is nothing to read: type a sentence."),
        ("a" * 10_000, "The text has 10,000 characters, and this page reads at most 2,000: shorten it."),
        ("Mira Voss was born.", "has 0 mentions in double square brackets, and the head reads 2"),
        ("[[Mira]] <script>harm()</script>", "<script>harm()</script>"),
        ("[[Mira]] saw [[Kell]] " + "again " * 80, "shorten"),
    ],
    ids=["nothing", "blank", "10,000 characters", "no mentions", "a script", "too many tokens"],
)
def test_what_the_page_cannot_read_is_answered_by_a_sentence(opened, text, said):
    tab, _ = opened
    answer = shown(tab, text, "fac", "lin")
    assert said in answer and "Traceback" not in answer and "Error" not in answer
    assert tab.locator("#shown [role=alert]").count() == 1 and tab.locator("#shown script").count() == 0
    assert "Predictions" in shown(tab, MARKED, "fac")  # and the page goes on


# ---- the Space ------------------------------------------------------------------------------------------------------


def test_the_space_runs_the_command_that_is_installed():
    settings = dict(
        re.findall(r"^(\w+): (.+)$", (ROOT / "demo" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert settings["sdk"] == "gradio" and (ROOT / "demo" / settings["app_file"]).is_file()
    assert "kadapter[demo]" in (ROOT / "demo" / "requirements.txt").read_text(encoding="utf-8")
