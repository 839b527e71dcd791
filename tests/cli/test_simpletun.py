from __future__ import annotations

import pytest

from tunneld.cli.main import main, parser
from tunneld.cli.simpletun import configuration
from tunneld.config import Endpoint


def parsed(*arguments: str):
    return configuration(parser(["simpletun"]).parse_args(["simpletun", *arguments]))


def test_a_server_listens_on_every_ipv4_address():
    config = parsed("-i", "tun3", "-s")
    assert config.name == "simpletun-tun3"
    assert (config.tunnel.protocol, config.tunnel.transport) == ("plain", "tcp")
    assert config.tunnel.listen == Endpoint("0.0.0.0", 55555)
    assert config.peer.endpoints == ()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "vpn.example.org"])
def test_a_client_connects(host):
    config = parsed("-i", "tun3", "-c", host, "-p", "1234")
    assert config.tunnel.listen is None
    assert config.peer.endpoints == (Endpoint(host, 1234),)


def test_brackets_may_be_written():
    assert parsed("-i", "tun3", "-c", "[2001:db8::1]").peer.endpoints == (Endpoint("2001:db8::1", 55555),)


@pytest.mark.parametrize(("flags", "mode"), [([], "tun"), (["-u"], "tun"), (["-a"], "tap")])
def test_the_device_is_left_as_it_is(flags, mode):
    interface = parsed("-i", "t0", "-s", *flags).interface
    assert (interface.name, interface.mode, interface.addresses, interface.mtu) == ("t0", mode, (), None)
    assert (interface.persist, interface.bridge, interface.on_loss) == (False, None, "stop")


def test_debug_is_a_flag():
    assert parser(["simpletun"]).parse_args(["simpletun", "-i", "t0", "-s", "-d"]).debug


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-s"], "the following arguments are required: -i"),
        (["-i", "t0"], "one of the arguments -s -c is required"),
        (["-i", "t0", "-s", "-c", "192.0.2.1"], "argument -c: not allowed with argument -s"),
        (["-i", "t0", "-s", "-u", "-a"], "argument -a: not allowed with argument -u"),
        (["-i", "sixteen-letters!", "-s"], '-i: "sixteen-letters!": at most 15 characters, no "/" and no blank'),
        (["-i", "t0", "-s", "-p", "0"], '-p: port "0": must be 1..65535'),
        (["-i", "t0", "-s", "-p", "65536"], '-p: port "65536": must be 1..65535'),
        (["-i", "t0", "-s", "-p", "http"], '-p: port "http": must be 1..65535'),
        (["-i", "t0", "-c", "300.1.1.1"], '-c: "300.1.1.1" is not an IPv4 address; write four numbers of 0..255'),
        (["-i", "t0", "-c", ""], '-c: "" is neither an address nor a host name; write for example vpn.example.org'),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(["simpletun", *arguments])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"tunneld simpletun: {said}")
    assert printed.count("\n") == 1
