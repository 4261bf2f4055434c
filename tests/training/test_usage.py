"""How to call a trainer, and mistakes in calling it, are told before anything heavy is imported."""

import os
import re
import resource
import subprocess
import sys

import pytest
from helpers import ROOT
from transformers import HfArgumentParser

from kadapter import data_builders
from kadapter.trainers import pretraining, probes, tasks
from kadapter.trainers.common.arguments import RunArguments
from kadapter.trainers.common.locality import LocalityArguments
from kadapter.trainers.downstream.arguments import TaskArguments, TaskCorpusArguments, TaskRunArguments
from kadapter.trainers.fact_probing.arguments import ProbeArguments
from kadapter.trainers.injection.arguments import InjectionArguments
from kadapter.trainers.many_adapters.variants import KINDS
from kadapter.trainers.run_multitask import CorporaArguments, MultitaskArguments

pytestmark = pytest.mark.slow

ARGUMENTS = {
    "run_adapter": KINDS,
    "run_task": (TaskCorpusArguments, TaskArguments, TaskRunArguments),
    "run_multitask": (CorporaArguments, MultitaskArguments, RunArguments),
    "run_probe": (ProbeArguments,),
    "run_injection": (InjectionArguments, LocalityArguments, RunArguments),
}
CHOICES = {
    "run_adapter": (pretraining, data_builders),
    "run_task": (tasks, data_builders),
    "run_multitask": (pretraining, data_builders),
    "run_probe": (probes,),
    "run_injection": (data_builders,),
}


def call(program, *argv, module=False):
    """Run a trainer; return its process when it has ended, and the CPU seconds that it took."""
    how = ["-m", f"kadapter.trainers.{program}"] if module else [str(ROOT / "trainers" / f"{program}.py")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *how, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=os.sep)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize("program", ARGUMENTS)
@pytest.mark.parametrize("module", [False, True], ids=["file", "module"])
def test_help_comes_within_two_seconds_with_ours_first_and_all_that_can_be_chosen(program, module):
    done, seconds = call(program, "--help", module=module)
    assert (done.returncode, done.stderr) == (0, "") and seconds < 2
    words = [line.split()[0] for line in done.stdout.splitlines() if re.match("  [^ ]", line)]
    for package in CHOICES[program]:
        assert set(package.available()) <= set(words)
    parser = HfArgumentParser(ARGUMENTS[program])
    known = {action.dest for action in parser._actions} - {"help"}
    known = {name for name in known if not (name.startswith("no_") and name.removeprefix("no_") in known)}
    listed = [word.removeprefix("--") for word in words if word.startswith("--")]
    assert set(listed) - {"recipe"} >= known and len(listed) == len(set(listed))
    for ours in ("backbone", "output_dir", "bf16") if "learning_rate" in listed else ():
        assert listed.index(ours) < listed.index("learning_rate")


@pytest.mark.parametrize(
    ("program", "argv", "sentence"),
    [
        ("run_adapter", ["--objectiv", "x"], "'--objectiv' is no flag; did you mean '--objective'?"),
        ("run_adapter", ["--my-secret=hf_abc"], "'--my_secret' is no flag"),
        ("run_adapter", ["--corpus", "conllo"], "no corpus 'conllo'; there are ['conllu'"),
        ("run_adapter", ["--objective=factul"], "did you mean 'factual'?"),
        ("run_adapter", ["--recipe", "lin_ewt_minlm"], "there is no recipe 'lin_ewt_minlm', and no file of that name"),
        (
            "run_adapter",
            ["--corpus", "conllu", "--data_dir", "x", "--backbone", "y"],
            ": --objective, --adapter_name must",
        ),
        ("run_task", [], "--task, --backbone, --data_dir must be given"),
        ("run_task", ["--task", "fewrell"], "did you mean 'fewrel'?"),
        ("run_probe", ["--probe", "lama_trexx"], "did you mean 'lama_trex'?"),
        ("run_probe", ["--probe", "cloze", "--learning_rate", "1"], "'--learning_rate' is no flag"),
        ("run_multitask", ["--objectives", "factual", "syntax", "--do_train"], "no objective 'syntax'; there are"),
    ],
)
def test_a_wrong_flag_or_name_is_refused_within_two_seconds(program, argv, sentence):
    done, seconds = call(program, *argv)
    assert done.returncode == 1 and done.stderr.startswith(f"{program}: ") and sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "hf_abc" not in done.stderr and seconds < 2


def test_help_tells_a_flag_with_its_choices_and_its_default():
    text = call("run_task", "--help")[0].stdout
    assert "--eval_split validation|test" in text and "--fusion add|concat|gated" in text
    assert "Classes of an episode. (default 5)" in text and "--task STR" in text
