"""What the table of bad configurations leaves over; the files themselves are the matter of tests/test_keys.py."""

from __future__ import annotations

import pytest

from tests.config.bad import PRIVATE, secret
from tunneld.config import keyfiles
from tunneld.config.fields import Fault
from tunneld.keys import load_private_key


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Where a private and a preshared key lie."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    tmp_path.chmod(0o755)
    for name, content in (("left.key", PRIVATE), ("a.psk", secret(10))):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def test_a_key_file_stands_beside_the_configuration_or_has_a_path(directory):
    private = keyfiles.private_key(directory)
    assert private("left.key") == private(str(directory / "left.key")) == load_private_key("left.key", directory)
    preshared = keyfiles.preshared_key(directory, private("left.key"))
    assert preshared("a.psk").raw == bytes([10]) * 32


def test_a_credential_of_systemd_has_a_bare_name(directory, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert keyfiles.private_key(elsewhere)("left.key") is not None
    with pytest.raises(Fault, match=r"not found; add LoadCredential=no[.]key:FILE to the unit"):
        keyfiles.private_key(elsewhere)("no.key")


def test_without_a_directory_nothing_is_read_but_the_value_is_judged():
    for field in (keyfiles.private_key(None), keyfiles.preshared_key(None, None)):
        assert field("no.key") is None
        with pytest.raises(Fault, match="this is a key itself"):
            field(PRIVATE)
        with pytest.raises(Fault, match="expected text, got the number 3"):
            field(3)


@pytest.mark.parametrize(
    "written", [PRIVATE, f" {PRIVATE}\n", f"{PRIVATE[:39]}=", f"{PRIVATE[:43]}==", "/" + PRIVATE[1:]]
)
def test_what_may_be_a_key_is_not_shown(directory, written):
    with pytest.raises(Fault) as fault:
        keyfiles.private_key(directory)(written)
    assert str(fault.value).startswith("this is a key itself; put it in a file")
    assert PRIVATE[1:30] not in str(fault.value)


@pytest.mark.parametrize("written", ["a=", "/etc/tunneld/keys/of/the/office/in/berlin/left", "x" * 43])
def test_a_path_is_not_taken_for_a_key(directory, written):
    with pytest.raises(Fault, match="not found"):
        keyfiles.private_key(directory)(written)


def test_a_preshared_key_is_compared_only_with_a_private_key_that_is_known(directory):
    private = load_private_key("left.key", directory)
    with pytest.raises(Fault, match="equals the private key"):
        keyfiles.preshared_key(directory, private)("left.key")
    assert keyfiles.preshared_key(directory, None)("left.key") is not None
