"""`kadapter train` and `task`: the programs through Accelerate, with all flags passed on; and a shell's completion."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from tiny_runs import flags, write_ground
from typer.testing import CliRunner

from kadapter import discovery
from kadapter.commands import app

COMMAND = [sys.executable, "-P", "-m", "kadapter.commands"]


def run(*words, **environment):
    kept = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept, timeout=400)


def test_help_says_what_the_command_stands_for_and_lists_the_flags_of_the_program():
    for name, program, flag in (("train", "run_adapter", "--adapter_name"), ("task", "run_task", "--task")):
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        words = " ".join(shown.output.split())
        assert f"accelerate launch -m kadapter.trainers.{program}" in words and f"Example: kadapter {name}" in words
        assert flag in words and "TrainingArguments" in words


def test_the_help_of_each_command_begins_with_what_it_does_and_an_example():
    lines = [[name] for name in discovery.available("kadapter.commands") if name != "embeddings"]
    for words in (*lines, ["embeddings", "import"], ["embeddings", "train"]):
        command = [word.replace("_", "-") for word in words]
        usage, purpose, example, *_ = CliRunner().invoke(app, [*command, "--help"]).output.split("\n\n")
        assert usage.startswith("Usage: ") and purpose.strip().endswith(".")
        assert example.strip().startswith(f"Example: kadapter {' '.join(command)} "), command


def test_an_unknown_flag_is_refused_before_anything_is_started():
    result = CliRunner().invoke(app, ["train", "--adapter_nmae", "fac"])
    assert result.exit_code == 1 and "running" not in result.output
    result = CliRunner().invoke(app, ["task", "--task", "nonsense"])
    assert result.exit_code == 1 and "running" not in result.output


@pytest.mark.slow
@pytest.mark.thorough
def test_an_adapter_is_trained_inspected_and_asked(tmp_path):
    ground, output = write_ground(tmp_path / "ground"), tmp_path / "fac"
    given = flags(ground, "factual", output, "--max_steps", 4, "--use_cpu", "True")
    done = run("train", *given)
    assert done.returncode == 0, done.stderr
    assert "running: accelerate launch --quiet -m kadapter.trainers.run_adapter --objective factual" in done.stderr
    shown = CliRunner().invoke(app, ["inspect", str(output), "--json"])
    training = json.loads(shown.stdout)["adapters"]["fac"]["training"]
    assert json.loads(shown.stdout)["results"]["eval_loss"] > 0
    assert (training["corpus"], training["objective"]) == ("trex", "factual") and training["results"]
    text = "[[Mira Voss]] works in [[Kell]] ."
    asked = CliRunner().invoke(app, ["predict", str(output / "pretraining_head"), text, "--json"])
    assert json.loads(asked.stdout)["answers"][0]["label"] in ("P937", "P19", "P20")
    again = run("train", *given)
    assert again.returncode != 0 and "Traceback" not in again.stderr
    assert str(output) in again.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_shell_completes_commands_and_options_within_a_moment():
    started = time.monotonic()
    asked = {"_KADAPTER_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert run(COMP_WORDS="kadapter in", **asked).stdout.split() == ["inspect"]
    options = run(COMP_WORDS="kadapter verify --b", **{**asked, "COMP_CWORD": "2"}).stdout.split()
    assert options == ["--backbone"]
    assert time.monotonic() - started < 20  # two processes on a busy machine; torch alone takes that long there
    assert "complete" in run(_KADAPTER_COMPLETE="source_bash").stdout


@pytest.mark.slow
def test_the_hf_command_runs_it_as_an_extension(tmp_path):
    installed = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-kadapter" / "hf-kadapter"
    installed.parent.mkdir(parents=True)
    (name, entry) = re.search(r"(hf-kadapter) = (.*)", (ROOT / "setup.cfg").read_text(encoding="utf-8")).groups()
    module, function = entry.split(":")
    code = f"from {module} import {function}; {function}()"  # by a shell, since Python may lie in a folder with spaces
    installed.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -c "{code}" "$@"\n', encoding="utf-8")
    installed.chmod(0o755)
    manifest = {"owner": "org", "repo": name, "repo_id": f"org/{name}", "short_name": "kadapter", "type": "python"}
    manifest |= {"executable_path": str(installed), "installed_at": "2026-11-29T00:00:00+00:00"}
    (installed.parent / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "huggingface_hub.cli.hf", name.removeprefix("hf-"), "inspect", "nowhere"]
    changed = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **changed})
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("kadapter: no config.json of a K-Adapter artifact at")


@pytest.mark.parametrize("words", [["--nonsense"], ["nonsense"], ["inspect"], ["predict", "x", "--top", "0"]])
def test_wrong_command_lines_are_refused_by_name(words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert any(part in result.stderr for part in ("No such", "Missing argument", "Invalid value"))
