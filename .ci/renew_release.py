"""Write the digest of all files that travel with an artifact into the line RELEASE of configuration_kadapter.py."""

import re
from pathlib import Path

from kadapter.artifacts_kadapter import CODE, release_digest

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Renew the line."""
    path = ROOT / "configuration_kadapter.py"
    text = path.read_text(encoding="utf-8")
    digest = release_digest({name: ROOT / name for name in CODE})
    path.write_text(re.sub(r'^RELEASE = "\w*"', f'RELEASE = "{digest}"', text, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    main()
