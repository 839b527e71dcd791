"""What README, docs/ and man/ say is what the code does."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import missing
from tunneld import __version__
from tunneld.cli.completion import walk
from tunneld.cli.main import parser
from tunneld.config import load as config_load
from tunneld.lab import ping, topology
from tunneld.lab.daemon import Daemon
from tunneld.lab.host import Host
from tunneld.proto import framing
from tunneld.proto.errors import Reason
from tunneld.proto.framing import StreamDecoder
from tunneld.proto.plain import PlainDatagramTunnel, PlainTunnel, opener_rank

ROOT = Path(__file__).resolve().parent.parent
MANUAL = (ROOT / "man/tunneld.8").read_text()
KEYS = (ROOT / "man/tunneld.toml.5").read_text()
OPERATING = (ROOT / "docs/OPERATING.md").read_text()
VECTORS = json.loads((ROOT / "docs/vectors/plain.json").read_text())


# --- the README


def blocks(text: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.S | re.M)


async def test_the_two_hosts_of_the_readme_reach_each_other(namespaces):
    """
    left 192.0.2.1 eth0 ── eth0 192.0.2.2 right, and between their tun0: 192.168.50.1 and 192.168.50.2
    """
    keys, *scripts = blocks((ROOT / "README.md").read_text())
    assert len(scripts) == 2
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        printed = {host.name: (await shell(host, keys)).strip() for host in (hosts.left, hosts.right)}
        for host, script in zip((hosts.left, hosts.right), scripts, strict=True):
            writing, run = script.rstrip().rsplit("\n", 1)
            assert run == "tunneld run office"
            for name, key in printed.items():
                writing = writing.replace(f"what the {name} host has printed", key)
            assert await shell(host, writing) == ""
            text = (host.run_dir / "office.toml").read_text()
            assert len(text.splitlines()) == 10
            await Daemon.start(host, text, name="office").wait_ready()
        await ping.wait_reachable(hosts.left, "192.168.50.2")
        assert (await ping.ping(hosts.right, "192.168.50.1")).lost == 0


async def shell(host: Host, script: str) -> str:
    """What a script prints on `host`, whose directory is its /etc/tunneld."""
    ours = script.replace("/etc/tunneld/", f"{host.run_dir}/").replace("tunneld ", f"{sys.executable} -m tunneld ")
    done = await host.run(["sh", "-ec", ours])
    assert done.code == 0, done.output
    return done.output


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert versions[0] == __version__


# --- the man pages


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "man").iterdir()))
def test_man_page_is_clean(page):
    assert groff((ROOT / "man" / page).read_text()) == ""


def test_an_unclean_man_page_is_noticed():
    assert "BOLD" in groff(".TH A 1\n.SH NAME\n.BOLD x\n")


def groff(text: str) -> str:
    """What the formatter has to complain about."""
    if shutil.which("groff") is None:
        missing("groff is not installed: apt-get install man-db")
    command = ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("page", [MANUAL, KEYS])
def test_man_page_is_of_this_version(page):
    assert f'"tunneld {__version__.rpartition(".")[0]}"' in page


def test_every_verb_and_flag_is_in_the_manual_and_back():
    commands = {" ".join(command.path): command for command in walk(parser())}
    final = {path for path in commands if path and not any(other.startswith(f"{path} ") for other in commands)}
    assert {verb: described_flags(section) for verb, section in sections(MANUAL).items()} == {
        path: set(commands[path].flags) - {"-h", "--help"} for path in final
    }


def test_every_command_of_the_pages_is_one():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("configs/*"), *ROOT.glob("systemd/*")]
    verbs = {command.path for command in walk(parser())}
    for page in pages:
        assert unknown_commands(page.read_text(), verbs) == [], page


def test_a_command_that_is_none_is_noticed():
    verbs = {("run",), ("peer",), ("peer", "reset-timestamp")}
    text = "`tunneld peer reset-timestamp A B` or `tunneld peer forget`\n```\ntunneld run x; (tunneld status)\n```\n"
    assert unknown_commands(text, verbs) == ["peer forget", "status"]


def unknown_commands(text: str, verbs: set[tuple[str, ...]]) -> list[str]:
    """The commands in the code of a page, or on a line of its comments, whose verb or action does not exist."""
    code = "\n".join(re.findall(r"^```.*?^```$|`[^`]+`|^#  +.*$", text, flags=re.S | re.M))
    found = re.findall(r"(?:^|[`(;&|#]|/bin/) *tunneld ([a-z]+)(?![\w-])(?: ([a-z-]+))?", code, flags=re.M)
    actions = {path[0] for path in verbs if len(path) > 1}
    words = [(verb, action) if verb in actions else (verb,) for verb, action in found]
    return [" ".join(each) for each in words if each not in verbs]


def test_the_synopsis_of_a_verb_names_the_flags_that_follow():
    for verb, section in sections(MANUAL).items():
        synopsis, _, rest = section.partition("\n")
        assert flags(synopsis) == described_flags(rest), verb


def sections(page: str) -> dict[str, str]:
    """The sections of the verbs: by verb, the synopsis without the verb and what follows."""
    found = re.findall(
        r"^\.SS tunneld ((?:[a-z]+ )*[a-z]+(?:-[a-z]+)*)(?![a-z|])(.*?)(?=^\.S[HS])", plain(page), flags=re.S | re.M
    )
    return dict(found)


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z]+", text))


def described_flags(section: str) -> set[str]:
    """The flags that have a paragraph of their own."""
    return set(re.findall(r"^\.TP\n\.B (--?[a-z]+)$", section, flags=re.M))


def plain(page: str) -> str:
    return page.replace(r"\-", "-").replace(r"\(dq", '"')


def test_every_key_is_in_the_manual_and_back():
    titles = {"_tunnel": "[tunnel]", "_interface": "[interface]", "_network": "[network]", "_peer": "[[peer]]"}
    assert documented_keys(KEYS) == {title: taken_keys(function) for function, title in titles.items()}


def documented_keys(page: str) -> dict[str, set[str]]:
    found = re.findall(r"^\.SS (\[.*?\]+)\n(.*?)(?=^\.S[HS])", plain(page), flags=re.S | re.M)
    return {title: set(re.findall(r"^\.TP\n\.B (\w+)$", body, flags=re.M)) for title, body in found}


def taken_keys(function: str) -> set[str]:
    """The keys that a function of config/load.py takes out of its section."""
    tree = ast.parse(inspect.getsource(getattr(sys.modules[config_load.__module__], function)))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    return {call.args[0].value for call in calls if call.func.attr in ("take", "take_list")}


def test_the_example_of_the_manual_has_no_fault(tmp_path):
    example = re.search(r"^\.nf\n(.*?)^\.fi$", plain(KEYS), flags=re.S | re.M)
    path = tmp_path / "example.toml"
    path.write_text(example[1])
    key = tmp_path / "office.key"
    key.write_text("yI5gvNMEiDSCDpIj1QvZZQjMbgQs4fXtSVK0g+hUvHM=\n")
    for private in (path, key):
        private.chmod(0o600)
    assert config_load(path).warnings == ()


# --- docs/OPERATING.md


def test_the_log_lines_that_are_explained_are_those_that_are_written():
    section = OPERATING.partition("\n## What the log says")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(.+?)` \|", section, flags=re.M)
    assert len(explained) > 20
    assert [line for line in explained if not is_written(line)] == []


def test_a_log_line_that_nobody_writes_is_noticed():
    assert is_written("peer NAME: connecting: … Connection refused …")
    assert not is_written("peer NAME: connecting: the gods are against us")


def is_written(line: str) -> bool:
    """Whether each piece of a line between its placeholders stands in a string of the source, or is the system's."""
    said = re.sub(r"^peer NAME: (listening|connecting|up|down): ", "", line)
    pieces = [piece.strip(" :;()") for piece in re.split(r"…|NAME|IF|HOST:PORT|60 s", said)]
    return all(any(piece in text for text in sayings()) for piece in pieces)


@cache
def sayings() -> list[str]:
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "tunneld").rglob("*.py"))]
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [*(text for text in constants if isinstance(text, str)), *map(os.strerror, errno.errorcode)]


def test_every_drop_reason_is_explained_and_back():
    section = OPERATING.partition("\n## Drops")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([a-z-]+)` \|", section, flags=re.M)
    assert sorted(explained) == sorted(reason.value for reason in Reason)


# --- docs/ARCHITECTURE.md


def test_every_module_has_its_place_in_the_architecture():
    rows = re.findall(r"^\|.*", (ROOT / "docs/ARCHITECTURE.md").read_text(), flags=re.M)
    named = {word for quoted in re.findall(r"`(.+?)`", "\n".join(rows)) for word in re.findall(r"\w+", quoted)}
    places = ("", "proto", "edge", "links", "netcfg")
    modules = {path.stem for place in places for path in (ROOT / "tunneld" / place).glob("[!_]*.py")}
    assert modules - named == set()


# --- docs/vectors


def octets(pieces: list) -> bytes:
    return b"".join(
        bytes.fromhex(piece) if isinstance(piece, str) else bytes.fromhex(piece["byte"]) * piece["count"]
        for piece in pieces
    )


def named(vectors: list[dict]) -> list:
    return [pytest.param(vector, id=vector["name"].replace(" ", "-")) for vector in vectors]


@pytest.mark.parametrize("step", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("vector", named(VECTORS["streams"]))
def test_stream_vector(vector, step):
    stream, decoder, records = octets(vector["stream"]), StreamDecoder(), []
    for at in range(0, len(stream), step):
        part = stream[at : at + step]
        decoder.space()[: len(part)] = part
        records += map(bytes, decoder.received_untrusted(len(part)))
        assert not decoder.more
    assert records == [octets(record) for record in vector["records"]]
    assert decoder.pending == vector["pending"]


@pytest.mark.parametrize("vector", named(VECTORS["datagrams"]))
def test_datagram_vector(vector):
    records, fault = framing.split_untrusted(octets(vector["datagram"]))
    assert [bytes(record) for record in records] == [octets(record) for record in vector["records"]]
    assert (fault and fault.reason.value) == vector["fault"]


@pytest.mark.parametrize("vector", named(VECTORS["deliveries"]))
def test_delivery_vector(vector):
    tunnel = PlainTunnel(mode="tun", max_packet=vector["max_packet"])
    packets = tunnel.to_packets_untrusted([memoryview(octets(record)) for record in vector["records"]])
    assert [bytes(packet) for packet in packets] == [octets(packet) for packet in vector["delivered"]]
    assert tunnel.drops == Counter({Reason(reason): count for reason, count in vector["drops"].items()})


@pytest.mark.parametrize("vector", named(VECTORS["sendings"]))
def test_sending_vector(vector):
    packets = [octets(packet) for packet in vector["packets"]]
    assert framing.encode(PlainTunnel(mode="tun", max_packet=1500).to_messages(packets)) == octets(vector["stream"])
    assert PlainDatagramTunnel(mode="tun", max_packet=1500).to_messages(packets) == [
        octets(one) for one in vector["datagrams"]
    ]


@pytest.mark.parametrize("vector", named(VECTORS["ties"]))
def test_tie_vector(vector):
    stays, goes = (opener_rank(tuple(vector[which])) for which in ("stays", "goes"))
    assert stays < goes
