"""What a command's work is given: the client, and the one way to print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from upweight.cli import table

if TYPE_CHECKING:
    from pydantic import BaseModel

    from upweight import Client

T = TypeVar("T", bound="BaseModel")
Row = Sequence[str]


class Shell:
    """One command's connection and output: tables for people, JSON for programs."""

    def __init__(self, url: str | None, api_key: str | None, as_json: bool) -> None:
        self.url, self.api_key, self.as_json = url, api_key, as_json

    @cached_property
    def client(self) -> Client:
        """The client; opened when it is needed, so that help and mistakes cost nothing."""
        from upweight import Client

        return Client(self.url, self.api_key, progress=False if self.as_json else None)

    def close(self) -> None:
        """Closes what was opened."""
        if "client" in self.__dict__:
            self.client.close()

    def document(self, content: Any) -> None:
        """One JSON document on one line."""
        dump = getattr(content, "model_dump", None)
        plain = dump(mode="json") if dump else content
        print(json.dumps(plain, ensure_ascii=False), flush=True)

    def list(
        self,
        records: Iterable[T],
        heads: Row,
        row: Callable[[T], Row],
        nothing: str,
        spare: Row = (),
    ) -> None:
        """Records: a table, or a JSON document a line as they come. `spare`: as `table.show` has it."""
        if self.as_json:
            for record in records:
                self.document(record)
            return
        rows = [row(record) for record in records]
        if rows:
            table.show(heads, rows, spare=spare)
        else:
            self.say(nothing)

    def record(self, record: Any, pairs: Iterable[tuple[str, str]]) -> None:
        """One record: a line a field that says something, or one JSON document."""
        if self.as_json:
            self.document(record)
        else:
            table.show((), [pair for pair in pairs if pair[1]])

    def say(self, words: str) -> None:
        """To the person, beside the output."""
        if not self.as_json:
            print(words, file=sys.stderr)
