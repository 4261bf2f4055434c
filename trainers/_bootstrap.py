"""Make the checkout that a trainer is run from importable as the package `kadapter`, whether it is installed or not.

An installed kadapter elsewhere is not used: a file works with the code next to it.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("kadapter", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules["kadapter"] = module
spec.loader.exec_module(module)
