"""`python -m kadapter.commands` is the `kadapter` command."""

from . import app

app(prog_name="kadapter")
