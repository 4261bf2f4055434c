"""Make `kadapter` importable when a trainer is run as a file of a checkout that is not installed."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("kadapter") is None:
    spec = importlib.util.spec_from_file_location(
        "kadapter", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["kadapter"] = module
    spec.loader.exec_module(module)
