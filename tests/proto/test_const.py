from tunneld.proto import const


def test_a_shared_datagram_fits_an_ethernet_path_under_ipv6():
    assert const.DATAGRAM_BYTES + 8 + 40 == 1500


def test_the_port_is_simpletuns():
    assert const.DEFAULT_PORT == 55555
