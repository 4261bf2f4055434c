"""Run the `kadapter` command as `python -m kadapter.commands`."""

from . import app

app(prog_name="kadapter")
