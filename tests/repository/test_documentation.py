"""README and docs are true: their code runs or says why not, their commands exist, their links lead somewhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documented import PAGES, RUN, blocks, name_of, words_of, write_world
from helpers import ROOT
from typer.testing import CliRunner

from kadapter.commands import app
from kadapter.trainers.common import usage

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUNNING = {block.page: None for block in BLOCKS if block.language in RUN and block.mark is None}
LONGEST = "docs/tutorial.md"  # trains adapters and a task
LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
PROGRAMS = {"train": "run_adapter", "task": "run_task"}


def test_every_page_says_of_code_that_no_test_runs_why_not():
    assert len(BLOCKS) > 50 and len(RUNNING) > 8
    marked = [block for block in BLOCKS if block.mark is not None]
    assert [block.text for block in marked if block.language not in RUN] == []
    for test in (name for block in marked for name in re.findall(r"tests/[\w/]+(?:\.py)?", block.why)):
        assert (ROOT / test).exists(), f"{test} is named as a test and is none"
    for block in marked:
        assert block.mark == "not run" or "tests/" in block.why, f"{block.page}: {block.why!r} names no test"


def test_no_page_hides_commands_in_indented_code():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        hidden = re.findall(r"^ {4}(?:python|kadapter|accelerate|from|import|model) .*", prose, flags=re.MULTILINE)
        assert hidden == [], name_of(page)


# ---- what is run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.thorough) if page == LONGEST else page for page in RUNNING]
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "copy", symlinks=True)  # a link is followed into the first world, only to read
    monkeypatch.chdir(tmp_path / "copy")
    namespace = {}
    for block in blocks(ROOT / page):
        if block.mark is not None or block.language not in RUN:
            continue
        if block.language == "python":
            exec(compile(block.text, page, "exec"), namespace)
        for command in block.commands:
            program, *words = words_of(command)
            assert program == "kadapter", f"{command!r} is not run; say why not"
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{command}\n{result.output}"


# ---- what exists ----------------------------------------------------------------------------------------------------


def trained_by(words):
    """The program of trainers/ that a command runs, and its flags."""
    if words[0] == "kadapter" and words[1] in PROGRAMS:
        return PROGRAMS[words[1]], words[2:]
    for number, word in enumerate(words):
        if match := re.fullmatch(r"trainers/(run_\w+)\.py", word):
            return match[1], words[number + 1 :]
    return None, []


def commands_of(pages):
    found = [(block, command) for page in pages for block in blocks(page) for command in block.commands]
    return [pytest.param(command, id=f"{block.page}: {command[:60]}") for block, command in found]


@pytest.mark.parametrize("command", commands_of(PAGES))
def test_a_command_of_a_page_has_a_program_and_flags_that_exist(command):
    words = words_of(command)
    files = [word for word in words if re.match(r"(trainers|experiments|benchmarks|recipes)/", word)]
    assert [file for file in files if not (ROOT / file).exists()] == []
    program, flags = trained_by(words)
    if program is not None and "..." not in words and "$" not in command:
        usage.check(program, flags)
    elif words[0] == "kadapter" and program is None:
        nested = words[1:3] if words[1] == "embeddings" else words[1:2]
        shown = CliRunner().invoke(app, [*nested, "--help"])
        assert shown.exit_code == 0, shown.output
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= set(re.findall(r"--[\w-]+", shown.output)), command


# ---- where links lead -----------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and Zensical name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"
        if page.is_relative_to(ROOT / "docs"):
            assert linked.is_relative_to(ROOT / "docs"), f"{target} is not on the site"


def test_every_page_of_docs_stands_in_the_navigation():
    listed = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


# ---- the site -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A copy of what the site is built of."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("zensical", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[docs]'")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("reference"))
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (folder / "mkdocs.yml").write_text(re.sub(r"nav:\n.*?(?=^theme)", "", settings, flags=re.MULTILINE | re.DOTALL))
    (folder / "docs" / "reference").mkdir()
    for path in (ROOT / "docs" / "reference").glob("*.md"):
        (folder / "docs" / "reference" / path.name).write_text(f"# {path.stem}\n", encoding="utf-8")
    return folder


def build(folder):
    command = [sys.executable, "-P", "-m", "zensical", "build", "--strict"]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.thorough
def test_the_site_builds_strictly_and_a_broken_link_or_reference_ends_the_build(site):
    done = build(site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "From your own triples" in (site / "site" / "tutorial" / "index.html").read_text(encoding="utf-8")
    page, wrong = site / "docs" / "wrong.md", {}
    wrong["page"] = "# Wrong\n\n[nowhere](nowhere.md)\n"
    wrong["heading"] = "# Wrong\n\n[no heading](results.md#no-such-heading)\n"
    wrong["reference"] = "# Wrong\n\n::: kadapter.modeling_kadapter.NoSuchModel\n"
    for what, text in wrong.items():
        page.write_text(text, encoding="utf-8")
        done = build(site)
        assert done.returncode != 0, f"a {what} that does not exist went unnoticed"


def test_the_names_in_the_reference_are_there():
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        names = re.findall(r"^::: (kadapter\.[\w.]+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert names, page
        for name in names:
            home, _, own = name.rpartition(".")
            found = importlib.import_module(
                name if importlib.util.find_spec(home) is None or own.endswith("_kadapter") else home
            )
            assert own.endswith("_kadapter") or getattr(found, own).__doc__, name
