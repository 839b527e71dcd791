"""The sample configurations, as an operator would install them."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from pathlib import Path

from tunneld.keys import PrivateKey

SAMPLES = sorted((Path(__file__).parent.parent / "configs").iterdir())
PLACEHOLDER = re.compile(r'^public_key = "of (\w+)\.key"', flags=re.M)


def install(name: str, directory: Path) -> str:
    """The text of the sample with the keys put in; the files that it names are made in the directory."""
    text = (SAMPLES[0].parent / name).read_text()
    for file in re.findall(r'^(?:private|preshared)_key_file = "(.+)"', text, flags=re.M):
        (directory / file).write_text(base64.b64encode(_secret(file)).decode())
        (directory / file).chmod(0o600)
    return PLACEHOLDER.sub(lambda found: f'public_key = "{_public(f"{found[1]}.key")}"', text)


def _secret(file: str) -> bytes:
    """The key in `file`, of which each host has its own."""
    return sha256(file.encode()).digest()


def _public(file: str) -> str:
    return str(PrivateKey(bytearray(_secret(file))).public_key())
