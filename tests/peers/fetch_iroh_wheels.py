"""Put the iroh wheels of iroh_wheels.lock under .cache/iroh-wheels/<version>/, each importable by PYTHONPATH.

    python tests/peers/fetch_iroh_wheels.py

Does nothing for versions that are already there. Needs the package index once; pip checks the hashes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("iroh_wheels.lock")
CACHE = ROOT / ".cache" / "iroh-wheels"


def pins() -> dict[str, str]:
    """Version -> the requirement with its hashes, as pip wants it."""
    text = re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE)
    return {
        pin.partition("\\")[0].partition("==")[2].strip(): pin
        for pin in re.split(r"(?<=[0-9a-f])\n(?=iroh)", text)
    }


def fetch(version: str, pin: str) -> None:
    """Install one version into its folder; all or nothing."""
    target = CACHE / version
    if target.exists():
        print(f"{target}: there")
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        requirement = Path(scratch, "requirement.txt")
        requirement.write_text(pin)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--target", str(Path(scratch, "wheel"))),
                *("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(requirement)),
            ],
            check=True,
        )
        shutil.move(Path(scratch, "wheel"), target)
    print(f"{target}: fetched")


if __name__ == "__main__":
    for known, requirement in pins().items():
        fetch(known, requirement)
