"""A conversation with a model: its messages, and an answer while it arrives."""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vgate.commands.command import CommandError
from vgate.commands.server import Server
from vgate.commands.text import DIM, duration, is_terminal, latency, plain, styled

_PATH = "/v1/chat/completions"


class Conversation:
    """Keeps what was said, and asks for the next answer.

    `options` are further fields of each request, such as `temperature`.
    """

    def __init__(self, server: Server, model: str, options: Mapping[str, Any]) -> None:
        self.model = model
        self.system = ""
        self.messages: list[dict[str, str]] = []
        self._server = server
        self._options = options

    def ask(self, text: str) -> None:
        """Print the answer to a text. Without one, because of an error, nothing was said.

        Raises:
            KeyboardInterrupt: The answer was stopped; what came of it counts as said.
        """
        self._answer([*self.messages, {"role": "user", "content": text}], {})

    def retry(self) -> None:
        """Print another answer in the place of the last one."""
        if not self.messages:
            raise CommandError("there is nothing to retry yet")
        # An answer from the server's cache would be the same.
        self._answer(self.messages[:-1], {"Cache-Control": "no-cache"})

    def clear(self) -> None:
        """Forget what was said, but not the system prompt."""
        self.messages = []

    def save(self, path: Path) -> None:
        """Write the conversation to a new file: JSON if its name says so, else Markdown."""
        messages = self._with_system(self.messages)
        if path.suffix == ".json":
            document = {"model": self.model, "messages": messages}
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        else:
            text = "".join(f"**{said['role']}**\n\n{said['content']}\n\n" for said in messages)
        try:
            with path.expanduser().open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise CommandError(f"{path} exists already: give another name") from None
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror}") from None

    def _answer(self, messages: list[dict[str, str]], headers: Mapping[str, str]) -> None:
        body = {
            **self._options,
            "model": self.model,
            "messages": self._with_system(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = Answer()
        try:
            with contextlib.closing(self._server.stream(_PATH, body, headers)) as events:
                for event in events:
                    answer.take(event)
        except CommandError:
            answer.end_line()
            raise
        except KeyboardInterrupt:
            answer.stopped = True
        answer.end()
        # What the model has said before it was stopped was said.
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        if answer.stopped:
            raise KeyboardInterrupt

    def _with_system(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}, *messages] if self.system else messages


class Answer:
    """Prints an answer as it arrives: on a terminal with its reasoning, and with what it took."""

    def __init__(self) -> None:
        self.text = ""
        self.stopped = False
        self._began = time.monotonic()
        self._first: float | None = None
        self._thinks = False
        self._reason = ""
        self._usage: Mapping[str, Any] = {}
        self._rich = is_terminal()

    def take(self, event: Mapping[str, Any]) -> None:
        """Print what an event of the stream brings."""
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices", ()):
            self._reason = choice.get("finish_reason") or self._reason
            delta = choice.get("delta", {})
            if thought := delta.get("reasoning_content"):
                self._write(thought, thinks=True)
            if content := delta.get("content"):
                self.text += content
                self._write(content, thinks=False)

    def _write(self, text: str, *, thinks: bool) -> None:
        self._first = self._first or time.monotonic()
        if not self._rich:
            if not thinks:
                sys.stdout.write(text)
        else:
            if self._thinks and not thinks:
                sys.stdout.write("\n\n")
            shown = "\n".join(plain(line.replace("\t", "    ")) for line in text.split("\n"))
            sys.stdout.write(styled(shown, DIM) if thinks else shown)
        self._thinks = thinks
        sys.stdout.flush()

    def end_line(self) -> None:
        """End the line that the last piece has left open."""
        if self._first is not None and (self._rich or not self.text.endswith("\n")):
            sys.stdout.write("\n")
            sys.stdout.flush()

    def end(self) -> None:
        """Print what it took."""
        self.end_line()
        if self._rich and self._first is not None:
            sys.stdout.write(styled(self._summary(self._first), DIM) + "\n")
            sys.stdout.flush()

    def _summary(self, first: float) -> str:
        now = time.monotonic()
        parts = []
        if tokens := self._usage.get("completion_tokens"):
            parts.append(f"{tokens:,} tokens")
            if tokens > 1 and now > first:
                parts.append(f"{(tokens - 1) / (now - first):,.0f} tokens/s")
        parts += [f"first after {latency(first - self._began)}", duration(now - self._began)]
        if prompt := self._usage.get("prompt_tokens"):
            parts.append(f"prompt {prompt:,}")
        if self.stopped:
            parts.append("stopped")
        elif self._reason == "length":
            parts.append("cut off: the context or --max-tokens is full")
        return f"({', '.join(parts)})"
