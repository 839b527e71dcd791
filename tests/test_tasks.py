from __future__ import annotations

import asyncio

import pytest

from tunneld.tasks import bare


async def fail(error: BaseException) -> None:
    raise error


async def run(*errors: BaseException) -> None:
    with bare(OSError, KeyError):
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))


async def test_what_is_expected_comes_out_as_it_is():
    error = OSError("gone")
    with pytest.raises(OSError, match="gone") as raised:
        await run(error)
    assert raised.value is error
    assert raised.value.__cause__ is None


async def test_of_several_the_first_comes_out():
    with pytest.raises(OSError, match="gone"):
        await run(OSError("gone"), KeyError("key"))


async def test_a_group_inside_a_group_is_opened_too():
    with pytest.raises(KeyError), bare(KeyError):
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("key")])])


@pytest.mark.parametrize("also", [(), (OSError("gone"),)])
async def test_a_bug_stays_in_its_group(also):
    with pytest.raises(ExceptionGroup) as raised:
        await run(ValueError("bug"), *also)
    assert len(raised.value.exceptions) == 1 + len(also)


async def test_a_lone_exception_and_none_pass():
    with pytest.raises(ValueError, match="lone"), bare(OSError):
        raise ValueError("lone")
    await run()
