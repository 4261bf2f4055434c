"""Commands answer before torch and transformers are imported, which takes seconds."""

import json
import re

import pytest
import typer
from helpers import ASK, make_model, run_python, save_backbone

from kadapter import KAdapterForSequenceClassification
from kadapter.commands import app


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for number, name in enumerate(("fac", "lin")):
        backbone = save_backbone(folder / f"backbone{number}", seed=number)
        make_model(backbone, name).save_pretrained(folder / name)
    make_model(folder / "backbone0", "both").save_pretrained(folder / "of-both")
    text = make_model(folder / "backbone0", "fac", model_class=KAdapterForSequenceClassification)
    text.save_pretrained(folder / "text")
    (folder / "runs").mkdir()
    (folder / "vectors").write_text("1 2\na 0.5 0.5\n", encoding="utf-8")
    (folder / "cut").mkdir()
    (folder / "cut" / "config.json").write_bytes((folder / "fac" / "config.json").read_bytes())
    (folder / "cut" / "model.safetensors").write_bytes((folder / "fac" / "model.safetensors").read_bytes()[:40])
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "nested").mkdir()
    (folder / "nested" / "config.json").write_text("[" * 5000)
    return folder


REFUSED = {
    "a part that is not there": (["fac", "nowhere"], "no config.json"),
    "a single adapter": (["fac"], "only one adapter"),
    "the same adapter twice": (["fac", "fac"], "is in another part already"),
    "adapters of two backbones": (["fac", "lin"], "was made for another backbone"),
    "another model": (["fac", "other"], "holds a model of type 'bert'"),
    "weights cut short": (["cut", "lin"], "damaged or cut short"),
    "a configuration nested without end": (["nested", "lin"], "is not a JSON file"),
}


@pytest.mark.parametrize(("names", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_compose_is_refused_at_once(parts, tmp_path, names, reason):
    arguments = ["compose", *(parts / name for name in names), "-o", tmp_path / "out"]
    done = run_python(ASK, tmp_path, *arguments, package=True, bare=True)
    assert reason in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines() == ["code 1", "heavy []"]
    assert not (tmp_path / "out").exists()


def test_used_directories_and_help_are_answered_at_once(parts, tmp_path):
    used = run_python(
        ASK, tmp_path, "compose", parts / "fac", parts / "lin", "-o", parts / "other", package=True, bare=True
    )
    assert "is in use already" in used.stderr and used.stdout.splitlines()[-1] == "heavy []"
    shown = run_python(ASK, tmp_path, "compose", "--help", package=True, bare=True)
    assert "Compose adapters" in shown.stdout and shown.stdout.splitlines()[-1] == "heavy []"


# ---- all commands ---------------------------------------------------------------------------------------------------


# Of each command a call whose input is not there, and what is said of it.
MISSING = {
    "card": (["nowhere"], "there is no directory 'nowhere'"),
    "compose": (["nowhere", "fac", "-o", "out"], "there is no such directory"),
    "convert": (["--artifact", "nowhere", "-o", "out"], "there is no such directory"),
    "demo": (["nowhere"], "nowhere|needs gradio"),
    "embeddings import": (["nowhere", "-o", "out"], "there is no 'nowhere'"),
    "embeddings train": (["--triples", "nowhere", "-o", "out"], "there is no file 'nowhere'"),
    "export": (["nowhere", "-o", "out"], "there is no such directory"),
    "inspect": (["nowhere"], "there is no such directory"),
    "predict": (["nowhere", "Kell."], "there is no such directory"),
    "probe-text": (["Kell <mask>.", "nowhere"], "there is no such directory"),
    "push": (["nowhere", "org/fac"], "there is no directory 'nowhere'"),
    "report": (["nowhere"], "there is no directory 'nowhere'"),
    "task": (["--task", "nowhere"], "no task 'nowhere'"),
    "train": (["--recipe", "nowhere"], "there is no recipe 'nowhere'"),
    "verify": (["nowhere"], "there is no such directory"),
}
# Of each that imports torch or matplotlib a call that works, as far as its first line.
WORKING = {
    "card": ["fac"],
    "compose": ["fac", "of-both", "-o", "out"],
    "convert": ["--artifact", "fac", "-o", "out"],
    "embeddings import": ["vectors", "-o", "out"],
    "export": ["fac", "-o", "out"],
    "inspect": ["fac"],
    "inspect several": ["./fac+lin"],
    "predict": ["text", "Kell."],
    "probe-text": ["Kell <mask>.", "fac"],
    "push": ["fac", "org/fac"],
    "report": ["runs"],
    "train": ["--help"],
    "verify": ["fac"],
}
# Ends the process at the first line of a command, and tells what it had imported by then.
FIRST_LINE = """
import os, sys
class First:
    def __init__(self, stream):
        self.stream = stream
    def write(self, text):
        if text.strip():
            heavy = sorted({"torch", "transformers", "matplotlib"} & set(sys.modules))
            self.stream.write(f"{text.strip()}\\nheavy {heavy}\\n")
            self.stream.flush()
            os._exit(0)
    def __getattr__(self, name):
        return getattr(self.stream, name)
sys.stderr = First(sys.stdout)
sys.stdout = First(sys.stdout)
from kadapter.commands import app
app(sys.argv[1:])
"""


def names_of_commands():
    """The names of all commands, those of groups with the name of their group."""
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        yield from [f"{name} {own}" for own in command.commands] if hasattr(command, "commands") else [name]


def test_the_tests_below_know_all_commands():
    assert {*MISSING, "list"} == set(names_of_commands())
    assert {name.removesuffix(" several") for name in WORKING} <= set(MISSING)


@pytest.mark.parametrize("name", MISSING)
def test_every_command_refuses_what_is_not_there_before_anything_heavy_is_imported(parts, name):
    arguments, reason = MISSING[name]
    done = run_python(ASK, parts, *name.split(), *arguments, package=True, bare=True)
    *_, code, heavy = done.stdout.splitlines()
    assert heavy == "heavy []" and (code == "code 1" or code.startswith("code run_")), (
        done.stdout
    )  # a program's sentence
    assert re.search(reason, done.stderr + code) and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", WORKING)
@pytest.mark.thorough
def test_every_command_says_what_it_does_before_anything_heavy_is_imported(parts, name):
    words = name.removesuffix(" several").split()
    done = run_python(FIRST_LINE, parts, *words, *WORKING[name], package=True, bare=True)
    assert done.stdout.splitlines()[-1] == "heavy []" and "Traceback" not in done.stdout, done.stdout
