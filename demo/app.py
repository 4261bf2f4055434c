"""A Space that runs the demo page on the artifacts that its variable KADAPTER_ARTIFACTS names.

KADAPTER_ARTIFACTS="org/kadapter-relations org/kadapter-lin" python demo/app.py
"""

import os
import sys

from kadapter.commands import app


def main() -> None:
    """Serve the page where a Space looks for it."""
    artifacts = os.environ.get("KADAPTER_ARTIFACTS", "").split()
    if not artifacts:
        sys.exit("name artifacts, separated by spaces, in the variable KADAPTER_ARTIFACTS of the Space")
    app(["demo", *artifacts, "--host", "0.0.0.0", "--port", os.environ.get("PORT", "7860")])


if __name__ == "__main__":
    main()
