"""Instructor: typed answers in its modes."""

import instructor
from cases import EXTRACT, case, main
from connect import client, connection
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def extract(client: instructor.Instructor) -> None:
    found = client.chat.completions.create(
        model="my-model",
        response_model=Person,
        max_retries=0,
        messages=[{"role": "user", "content": EXTRACT}],
    )
    assert found.model_dump() == {"name": "Ada", "age": 36}


def extract_in(mode: instructor.Mode) -> None:
    extract(instructor.from_openai(connection, mode=mode))


@case
def default_mode():
    extract(client)


@case
def strict_tools():
    extract_in(instructor.Mode.TOOLS_STRICT)


@case
def json_object():
    extract_in(instructor.Mode.JSON)


@case
def json_schema():
    extract_in(instructor.Mode.JSON_SCHEMA)


@case
def json_in_markdown():
    extract_in(instructor.Mode.MD_JSON)


@case
def responses():
    extract_in(instructor.Mode.RESPONSES_TOOLS)


@case
def streamed():
    *_, last = client.chat.completions.create_partial(
        model="my-model",
        response_model=Person,
        messages=[{"role": "user", "content": EXTRACT}],
    )
    assert (last.name, last.age) == ("Ada", 36)


main()
