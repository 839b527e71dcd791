"""From a file of wg-quick to a configuration that `tunneld check` takes: whole, once, and without showing a key."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from ipaddress import ip_interface, ip_network

import pytest

from tests.disks import fill, small_disk
from tunneld.cli.main import main
from tunneld.config import Endpoint, load

TUNNELD = [sys.executable, "-m", "tunneld"]

PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PRESHARED = ["FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=", "2IkIfVNTrXYkDBgHTzBtAYkBWHKmUsQ6aYtSxVbR0Fs="]
BERLIN = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PARIS = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
ROME = "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="

HUB = f"""\
[Interface]
Address = 10.7.0.1/24, fd07::1/64
ListenPort = 51820
PrivateKey = {PRIVATE}
MTU = 1380

# berlin
[Peer]
PublicKey = {BERLIN}
PresharedKey = {PRESHARED[0]}
AllowedIPs = 10.7.0.2/32, 10.20.0.0/16
Endpoint = berlin.example.org:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {PARIS}
PresharedKey = {PRESHARED[1]}
AllowedIPs = 10.7.0.3/24
"""

PHONE = f"""\
[Interface]
Address = 10.7.0.9
PrivateKey = {PRIVATE}
DNS = 10.7.0.1
[Peer]
PublicKey = {BERLIN}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 192.0.2.1:51820
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """conf(text): text as wg0.conf in a directory in which this process is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    tmp_path.chmod(0o755)

    def write(text: str, name: str = "wg0.conf") -> str:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
        return name

    previous = os.umask(0o022)
    yield write
    os.umask(previous)


def made(directory) -> dict[str, int]:
    """The files in `directory` beside the given one, and their modes."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir() if path.suffix != ".conf"}


# --- what is made


def test_a_hub_becomes_a_configuration_with_its_keys_in_files(conf, tmp_path, capfd):
    assert main(["import", conf(HUB)]) == 0
    files = {"wg0.key": 0o600, "wg0-berlin.psk": 0o600, "wg0-peer2.psk": 0o600, "wg0.toml": 0o644}
    assert made(tmp_path) == files
    assert (tmp_path / "wg0.key").read_text() == PRIVATE + "\n"
    assert (tmp_path / "wg0-peer2.psk").read_text() == PRESHARED[1] + "\n"
    printed = capfd.readouterr()
    assert printed.out.splitlines() == [f"{file}: written" for file in files]
    assert printed.err == ""

    config = load(tmp_path / "wg0.toml")
    assert (config.tunnel.protocol, config.tunnel.transport) == ("wireguard", "udp")
    assert config.tunnel.listen == Endpoint("::", 51820)
    assert config.tunnel.private_key.raw == base64.b64decode(PRIVATE)
    assert (config.interface.name, config.interface.mode, config.interface.mtu) == ("wg0", "tun", 1380)
    assert config.interface.addresses == (ip_interface("10.7.0.1/24"), ip_interface("fd07::1/64"))
    berlin, paris = config.peers
    assert (berlin.name, str(berlin.public_key), berlin.keepalive) == ("berlin", BERLIN, 25)
    assert berlin.endpoints == (Endpoint("berlin.example.org", 51820),)
    assert berlin.allowed_ips == (ip_network("10.7.0.2/32"), ip_network("10.20.0.0/16"))
    assert berlin.preshared_key.raw == base64.b64decode(PRESHARED[0])
    assert (paris.name, str(paris.public_key), paris.endpoints, paris.keepalive) == ("peer2", PARIS, (), 0)
    assert paris.allowed_ips == (ip_network("10.7.0.0/24"),)
    assert main(["check", "./wg0.toml"]) == 0


def test_a_phone_keeps_its_silence_and_its_whole_world(conf, tmp_path, capfd):
    """wg sends no keepalives unless told to, and /0 is a matter of who may send."""
    assert main(["import", conf(PHONE)]) == 0
    assert capfd.readouterr().err == "wg0.conf:4: DNS: not taken over: this version sets no name servers\n"
    config = load(tmp_path / "wg0.toml")
    assert config.peer.allowed_ips == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert config.peer.keepalive == 0
    assert config.interface.mtu == 1420
    assert config.tunnel.listen is None
    text = (tmp_path / "wg0.toml").read_text()
    assert "\nkeepalive = 0\n" in text
    assert "\n# 0.0.0.0/0 lets every address through, but this version makes no default route of it.\n" in text
    assert "\n# DNS = 10.7.0.1 # this version sets no name servers\n" in text


def test_hooks_are_comments_and_never_run(conf, tmp_path, capfd):
    hooks = f"PostUp = touch {tmp_path}/ran\nPreUp = wg set %i peer x preshared-key <(echo {PRESHARED[0]})\n"
    odd = "FwMark = 0x7\nTable = off\nSaveConfig = true\nPreDown = a\x1b[2Jb\nPostDown = é]\n"
    usual = "Table = auto\nFwMark = off\nSaveConfig = false\n"
    assert main(["import", conf(PHONE.replace("DNS = 10.7.0.1\n", hooks + odd + usual))]) == 0
    assert made(tmp_path) == {"wg0.key": 0o600, "wg0.toml": 0o600}
    told = capfd.readouterr().err.splitlines()
    assert told[:7] == [
        "wg0.conf:4: PostUp: not taken over: hooks are never run",
        "wg0.conf:5: PreUp: not taken over: hooks are never run",
        "wg0.conf:6: FwMark: not taken over: this version marks no messages",
        "wg0.conf:7: Table: not taken over: routes go to the main table",
        "wg0.conf:8: SaveConfig: not taken over: a configuration is never written back",
        "wg0.conf:9: PreDown: not taken over: hooks are never run",
        "wg0.conf:10: PostDown: not taken over: hooks are never run",
    ]
    assert told[7:] == ["wg0.toml: for your eyes alone; the unit tunneld@wg0 needs chmod 644"]
    text = (tmp_path / "wg0.toml").read_text()
    assert f"\n# PostUp = touch {tmp_path}/ran # hooks are never run\n" in text
    assert "\n# PreUp = wg set %i peer x preshared-key <(echo (a key)) # hooks are never run\n" in text
    assert "\n# PreDown = a\\x1b[2Jb # hooks are never run\n" in text
    assert "\n# PostDown = é] # hooks are never run\n" in text
    load(tmp_path / "wg0.toml")


def test_names_and_files_of_peers_differ_whatever_they_are_called(conf, tmp_path):
    peers = [
        f"# {comment}\n[Peer]\nPublicKey = {key}\nPresharedKey = {PRESHARED[0]}\nAllowedIPs = 10.0.{at}.0/24\n"
        for at, (comment, key) in enumerate([('a/b "é" \\', BERLIN), ("peer3", PARIS), ("", ROME)])
    ]
    peers.append(peers[0].replace(BERLIN, public(9)).replace("10.0.0.", "10.0.9."))
    assert main(["import", conf(f"[Interface]\nListenPort = 1024\nPrivateKey={PRIVATE}\n{''.join(peers)}")]) == 0
    config = load(tmp_path / "wg0.toml")
    assert [peer.name for peer in config.peers] == ['a/b "é" \\', "peer3", "peer3-2", 'a/b "é" \\-2']
    assert made(tmp_path).keys() - {"wg0.key", "wg0.toml"} == {
        "wg0-a-b.psk", "wg0-peer3.psk", "wg0-peer3-2.psk", "wg0-a-b-2.psk",
    }  # fmt: skip


def public(seed: int) -> str:
    from tunneld.keys import PrivateKey

    return str(PrivateKey(bytearray([seed] * 32)).public_key())


def test_what_wg_shows_has_no_addresses(conf, tmp_path):
    shown = f"[Interface]\nListenPort = 51820\nPrivateKey = {PRIVATE}\n\n[Peer]\nPublicKey = {BERLIN}\n"
    assert main(["import", conf(f"{shown}AllowedIPs = ::/0\n")]) == 0
    assert load(tmp_path / "wg0.toml").interface.addresses == ()


def test_without_a_private_key_it_is_said_where_to_put_it(conf, tmp_path, capfd):
    assert main(["import", conf(PHONE.replace(f"PrivateKey = {PRIVATE}\n", ""))]) == 0
    assert made(tmp_path) == {"wg0.toml": 0o644}
    hint = "for example: (umask 077; wg show wg0 private-key >wg0.key)"
    assert capfd.readouterr().err.splitlines()[1] == f"wg0.key: to be made, since there is no PrivateKey; {hint}"


# --- where to


def test_another_directory(conf, tmp_path, capfd):
    (tmp_path / "etc").mkdir()
    assert main(["import", conf(HUB), "--output", "etc"]) == 0
    assert set(made(tmp_path / "etc")) == {"wg0.toml", "wg0.key", "wg0-berlin.psk", "wg0-peer2.psk"}
    assert load(tmp_path / "etc/wg0.toml").name == "wg0"
    capfd.readouterr()
    assert main(["import", "wg0.conf", "--output", "none"]) == 2
    assert capfd.readouterr().err == "none: is no directory; make it with mkdir, or give another\n"


def test_a_dash_shows_the_configuration_and_no_key(conf, tmp_path, capfd):
    assert main(["import", conf(HUB), "--output", "-"]) == 0
    printed = capfd.readouterr()
    assert made(tmp_path) == {}
    assert printed.out.startswith('[tunnel]\nprotocol = "wireguard"\nprivate_key_file = "wg0.key"\n')
    assert_shows_no_key(printed.out + printed.err)


def test_what_is_there_is_kept_unless_forced(conf, tmp_path, capfd):
    conf(HUB)
    (tmp_path / "wg0-peer2.psk").write_text("precious")
    (tmp_path / "wg0.toml").symlink_to("nowhere")
    assert main(["import", "wg0.conf"]) == 2
    assert capfd.readouterr().err.splitlines() == [
        f"{file}: is there already; move it away, or use --force" for file in ("wg0-peer2.psk", "wg0.toml")
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"wg0.conf", "wg0-peer2.psk", "wg0.toml"}
    assert (tmp_path / "wg0-peer2.psk").read_text() == "precious"
    assert main(["import", "wg0.conf", "--force"]) == 0
    assert made(tmp_path)["wg0-peer2.psk"] == 0o600
    assert not (tmp_path / "wg0.toml").is_symlink()
    assert load(tmp_path / "wg0.toml").peers[1].preshared_key.raw == base64.b64decode(PRESHARED[1])


def test_a_full_disk_leaves_nothing_behind(conf, tmp_path, namespaces, capfd):
    conf(HUB)
    with small_disk(tmp_path / "disk") as disk:
        (disk / "reserve").write_bytes(bytes(4096))
        fill(disk)
        (disk / "reserve").unlink()  # room for one of the files
        assert main(["import", "wg0.conf", "--output", "disk"]) == 1
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "tunneld: disk: No space left on device; write elsewhere\n")


def test_force_replaces_no_directory(conf, tmp_path, capfd):
    (tmp_path / "wg0.toml").mkdir()
    assert main(["import", conf(PHONE), "--force"]) == 1
    assert capfd.readouterr().err == "tunneld: wg0.toml: Is a directory; write elsewhere\n"
    assert {path.name for path in tmp_path.iterdir()} == {"wg0.conf", "wg0.key", "wg0.toml"}


# --- what is refused


@pytest.mark.parametrize("name", ["wg+0.conf", "my-long-wireguard.conf", "-wg0.conf", ".conf"])
def test_a_name_that_no_tunnel_can_have(conf, name, capfd):
    assert main(["import", f"./{conf(HUB, name)}"]) == 2
    line = capfd.readouterr().err
    assert line.startswith(f"{name}: its name is that of tunnel and interface: ")
    assert line.endswith("; rename the file\n")
    assert line.count("\n") == 1


def test_a_bad_line_leaves_nothing_behind(conf, tmp_path, capfd):
    assert main(["import", conf(HUB.replace("MTU = 1380", "MTU = 99"))]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == "wg0.conf:5: MTU: must be 576..65475, and 1280 or more with IPv6\n"
    assert made(tmp_path) == {}


def test_what_only_tunneld_minds_is_told_with_the_line_of_its_own_file(conf, tmp_path, capfd):
    assert main(["import", conf(PHONE.replace("0.0.0.0/0, ::/0", "0.0.0.0/1, 128.0.0.0/1"))]) == 2
    assert "wg0.toml" in made(tmp_path)
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("wg0.toml:12: endpoint: 192.0.2.1 lies inside allowed_ips 128.0.0.0/1, which would route")


# --- secrets


def assert_shows_no_key(text: str) -> None:
    for key in (PRIVATE, *PRESHARED):
        assert not [at for at in range(len(key) - 8) if key[at : at + 8] in text]


@pytest.mark.parametrize("damage", ["", "PrivateKey = x\n", "[Foo]\n", f"{PRIVATE}\n", f"DNS {PRIVATE}\n"])
def test_nothing_that_is_printed_holds_a_piece_of_a_key(conf, tmp_path, damage):
    conf(HUB + damage)
    done = subprocess.run([*TUNNELD, "import", "wg0.conf"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if damage else 0)
    assert_shows_no_key(done.stdout + done.stderr)
    if not damage:
        assert_shows_no_key((tmp_path / "wg0.toml").read_text())
