"""What a handler's form is, from the object alone."""

import functools

import pytest

import streamfn
from streamfn.events import arrow
from streamfn.mapping.calling import Instance, is_async, marked, shape
from streamfn.mapping.handler import InitError, load_handler


def plain(event, context):
    pass


async def coroutine(event, context):
    pass


def wrapping(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


class Called:
    def __call__(self, event, context):
        pass

    async def method(self, event, context):
        pass


class CalledLater(Called):
    async def __call__(self, event, context):
        pass


class Uncalled:
    pass


@pytest.mark.parametrize(
    ("handler", "later"),
    [
        (plain, False),
        (print, False),
        (Called(), False),
        (Called, False),
        (Uncalled, False),
        (wrapping(plain), False),
        (coroutine, True),
        (functools.partial(functools.partial(coroutine, 1), 2), True),
        (wrapping(wrapping(coroutine)), True),
        (functools.partial(wrapping(coroutine)), True),
        (Called().method, True),
        (CalledLater(), True),
        (CalledLater, True),
        (functools.partial(CalledLater()), True),
        (streamfn.arrow_handler(coroutine), True),
        (streamfn.arrow_handler(plain), False),
    ],
)
def test_a_handler_is_asynchronous_if_what_it_calls_in_the_end_is(handler, later):
    assert is_async(shape(handler)) is later


@pytest.mark.parametrize("decorate", [lambda each: each, wrapping, functools.partial])
def test_an_arrow_handler_is_known_through_what_is_around_it(decorate):
    assert marked(decorate(streamfn.arrow_handler(plain)), arrow.MARK)
    assert not marked(decorate(plain), arrow.MARK)


def test_a_class_is_made_where_its_instances_can_be_called_and_called_itself_otherwise():
    assert shape(Called) == Instance(Called)
    assert shape(Uncalled) is Uncalled
    assert isinstance(Instance(CalledLater).make(), CalledLater)
    assert Instance(Called, "method").make().__func__ is Called.method


def test_a_function_that_wraps_itself_is_looked_at_for_a_while_only():
    def endless(event, context):
        pass

    endless.__wrapped__ = endless
    assert not is_async(endless)


def test_a_handler_s_name_may_lead_into_a_class():
    here = __name__
    assert load_handler(f"{here}:Called.method") == Instance(Called, "method")
    assert load_handler(f"{here}.Called") == Instance(Called)
    with pytest.raises(InitError, match=r"Handler 'Called\.missing' missing on module"):
        load_handler(f"{here}:Called.missing")
