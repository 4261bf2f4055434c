"""Make the checkout that a trainer is run from as a file the package `kadapter`, installed or not.

Another, installed kadapter is not used: a file works with the code beside it.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("kadapter", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
module = importlib.util.module_from_spec(spec)
sys.modules["kadapter"] = module
spec.loader.exec_module(module)
