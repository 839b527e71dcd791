from tunneld.proto.errors import BadPacket, ConfigError, ConfigErrors, Reason


def test_reasons_have_names_of_their_own_for_show():
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert str(BadPacket(Reason.TRUNCATED)) == "truncated"


def test_a_configuration_error_is_file_line_key_message():
    assert (
        str(ConfigError("a.toml", 3, "mtu", "too small; write 576 or more"))
        == "a.toml:3: mtu: too small; write 576 or more"
    )
    assert str(ConfigError("a.toml", 0, "", "not found; create it")) == "a.toml: not found; create it"


def test_all_faults_are_told_at_once():
    errors = [ConfigError("a", 1, "x", "m"), ConfigError("a", 2, "y", "n")]
    assert str(ConfigErrors(errors)) == "a:1: x: m\na:2: y: n"
