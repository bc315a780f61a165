"""Prompts to tokens, such that no text of a client becomes a control token.

A raw prompt and a text to score are plain text, whole. In a conversation the control
tokens must be those that the signed template wrote, and never those that a message
spells out, although the template hands back one string:

  1. Guard: in every message, each character that begins the spelling of some control
     token (for Gemma: "<" and "[") is replaced by a private-use character that
     occurs in none of them.
  2. Render the template. Whatever it does with a message (trim, concatenate, repeat),
     no spelling of a control token that begins in a message can come out of it.
  3. Cut the result at the spellings of control tokens: these are the template's own.
  4. Undo the guard in the parts between, and tokenize each as plain text.

So a template sees other characters than "<" in messages: one that looks for "</think>"
in an earlier answer does not find it, and leaves that answer as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from runtime.engine.backend import Vocabulary
from runtime.engine.errors import FailureReason, InvalidRequest, TemplateError
from runtime.engine.template import ChatTemplate
from runtime.engine.types import ChatMessage, Prompt, TextPrompt

# Supplementary Private Use Areas A and B, in blocks of one guard alphabet each.
_PRIVATE_USE = range(0xF0000, 0x10FF00, 0x100)
_MAX_GUARDED = 0x100


class PromptEncoder:
    """Turns prompts into tokens for one model; safe from any thread."""

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate | None) -> None:
        """Raises TemplateError when the control tokens' spellings cannot be guarded."""
        self._vocabulary = vocabulary
        self._template = template
        self._controls = vocabulary.control_tokens
        initials = sorted({spelling[0] for spelling in self._controls})
        if len(initials) > _MAX_GUARDED:
            raise TemplateError("the model's control tokens begin with too many characters")
        self._initials = "".join(initials)
        self._initial = re.compile(f"[{re.escape(self._initials)}]" if initials else "(?!)")
        self._lengths = sorted({len(spelling) for spelling in self._controls}, reverse=True)

    def encode_text(self, text: str) -> list[int]:
        """BOS, where the model wants one, and the text's tokens."""
        tokens = self._vocabulary.tokenize(text)
        bos = self._vocabulary.bos
        return tokens if bos is None else [bos, *tokens]

    def encode(self, prompt: Prompt) -> tuple[list[int], str]:
        """A prompt's tokens, and the name of the request's field that it came in.

        Raises:
            InvalidRequest: the template refuses the conversation, or there is none.
        """
        if isinstance(prompt, TextPrompt):
            return self.encode_text(prompt.text), "prompt"
        return self._encode_chat(prompt.messages), "chat.messages"

    def _encode_chat(self, messages: tuple[ChatMessage, ...]) -> list[int]:
        if self._template is None:
            raise InvalidRequest(
                "chat", "the model has no chat template", FailureReason.UNSUPPORTED
            )
        alphabet = self._guard_alphabet(message.content for message in messages)
        guard = str.maketrans(self._initials, alphabet)
        unguard = str.maketrans(alphabet, self._initials)
        guarded = [(message.role, message.content.translate(guard)) for message in messages]
        try:
            rendered = self._template.render(guarded)
        except TemplateError as refused:
            raise InvalidRequest("chat.messages", str(refused)) from None
        tokens: list[int] = []
        for part in self._cut(rendered):
            if isinstance(part, int):
                tokens.append(part)
            elif part:
                tokens.extend(self._vocabulary.tokenize(part.translate(unguard)))
        bos = self._vocabulary.bos
        if bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def _guard_alphabet(self, contents: Iterable[str]) -> str:
        """As many private-use characters as there are initials, in none of the texts."""
        used = {ord(char) & ~0xFF for content in contents for char in set(content)}
        for base in _PRIVATE_USE:
            if base not in used:
                return "".join(chr(base + index) for index in range(len(self._initials)))
        raise InvalidRequest("chat.messages", "the messages use every private-use block")

    def _cut(self, rendered: str) -> Iterable[str | int]:
        """Plain parts and control tokens in order; the longest spelling wins."""
        start = 0
        for match in self._initial.finditer(rendered):
            begin = match.start()
            if begin < start:
                continue
            for length in self._lengths:
                token = self._controls.get(rendered[begin : begin + length])
                if token is not None:
                    yield rendered[start:begin]
                    yield token
                    start = begin + length
                    break
        yield rendered[start:]
