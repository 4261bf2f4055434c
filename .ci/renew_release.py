"""Write the digest of all files that travel to the Hub into the line RELEASE of configuration_kadapter.py."""

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "configuration_kadapter.py"
LINE = re.compile(r'^RELEASE = "\w*"', re.MULTILINE)


def digest() -> str:
    """Return a digest of what travels, with any kind of plug-ins, but for the line that holds it."""
    total = hashlib.sha256()
    for path in sorted(ROOT.glob("*_kadapter.py")):
        total.update(f"{path.name}\n{LINE.sub('', path.read_text(encoding='utf-8'))}".encode())
    return total.hexdigest()[:16]


def main() -> None:
    """Renew the line."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    CONFIGURATION.write_text(LINE.sub(f'RELEASE = "{digest()}"', text), encoding="utf-8")


if __name__ == "__main__":
    main()
