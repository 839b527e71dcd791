"""`tunneld bench` as people start it, in a process of its own; only shorter, and with one tunnel instead of four."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunneld.cli.main import main

SHORT = """
import sys
from tunneld.lab import sandbox
mode = sandbox.enter()
sandbox.enter = lambda: mode
from tunneld.lab.bench import rig, rounds
rounds.QUICK = rounds.Settings(rounds=1, seconds=0.04)
rig.VARIANTS = (rig.Variant({variant}),)
from tunneld.cli.main import main
sys.exit(main(["bench", "--quick", *sys.argv[1:]]))
"""


def start(*words: str, variant: Sequence[str] = ("plain", "udp", "tun")) -> subprocess.Popen[str]:
    code = SHORT.format(variant=", ".join(map(repr, variant)))
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.usefixtures("namespaces")
def test_it_prints_tables_and_writes_json(tmp_path: Path):
    file = tmp_path / "bench.json"
    bench = start("--json", str(file))
    out, err = bench.communicate(timeout=50)
    assert (bench.returncode, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert [line.split()[:2] for line in out.splitlines()].count(["bare", "veth"]) == 4
    assert out.count("\nplain udp tun ") == 5
    document = json.loads(file.read_text())
    assert document["settings"]["rounds"] == 1
    assert list(document["ways"]) == ["bare veth", "plain udp tun"]
    assert all(value > 0 for value in document["ways"]["bare veth"]["rounds"][0]["figures"].values())


@pytest.mark.usefixtures("namespaces")
def test_a_failure_is_exit_1_without_a_table(tmp_path: Path):
    bench = start("--json", str(tmp_path / "bench.json"), variant=("plain", "udp", "tin"))
    out, err = bench.communicate(timeout=50)
    assert (bench.returncode, out) == (1, "")
    assert err.startswith("tunneld: bench: tunneld run bench0.toml has ended on right\n")
    assert 'mode: "tin" is not known' in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("namespaces")
def test_ctrl_c_takes_everything_along():
    bench = start("--rounds", "1000")
    children: list[int] = []
    while len(children) < 5 and bench.poll() is None:
        children = [int(pid) for pid in Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()]
    bench.send_signal(signal.SIGINT)
    _, err = bench.communicate(timeout=50)
    assert (bench.returncode, err) == (130, "interrupted; the hosts and all in them are gone\n")
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize("count", ["0", "-1", "1001", "many", "1.5"])
def test_a_wrong_number_of_rounds_is_usage(capsys, count):
    with pytest.raises(SystemExit) as caught:
        main(["bench", f"--rounds={count}"])
    assert caught.value.code == 2
    assert "is no number from 1 to 1000" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/nowhere/bench.json", "/tmp"])
def test_a_file_that_cannot_be_written_is_told_before_the_measuring(path, capsys):
    assert main(["bench", "--json", path]) == 2
    assert capsys.readouterr().err == f"tunneld: {path}: cannot be written; choose another --json FILE\n"


def test_registering_the_verb_loads_nothing_heavy():
    heavy = "{'asyncio', 'ctypes', 'tunneld.lab'}"
    code = f"import sys; import tunneld.cli.bench; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
