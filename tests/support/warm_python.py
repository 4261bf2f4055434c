"""Runs scripts in processes forked from one that has imported PyTorch, since importing it takes seconds of each.

It has imported nothing that knows kadapter or reads the Hub's settings, so a script finds neither more nor less of
them than in a new interpreter. Each line that it reads is a script as JSON; each that it prints is an exit status.
"""

import importlib
import json
import os
import runpy
import signal
import sys

SECONDS = 300
# What transformers imports of others, directly or through PyTorch.
IMPORTED = ("torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.checkpoint")
IMPORTED += ("torch.export", "scipy.optimize", "sklearn", "jinja2", "PIL.Image", "regex", "yaml", "safetensors.torch")


def wait_for_a_script():
    """Return the next script in a process forked for it; end when nobody asks for more."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def become(script):
    """Make this process what `python script.py` would be."""
    signal.alarm(SECONDS)
    os.chdir(script["folder"])
    os.environ.clear()
    os.environ.update(script["environment"])
    for number, path, mode in ((0, os.devnull, "r"), (1, script["stdout"], "w"), (2, script["stderr"], "w")):
        with open(path, mode, encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    sys.argv = script["command"]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(sys.argv[0]), *filter(None, paths)]


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    become(wait_for_a_script())
    runpy.run_path(sys.argv[0], run_name="__main__")
