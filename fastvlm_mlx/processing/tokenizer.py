"""Tokenizer: text to token ids and back, with the `tokenizers` library.

transformers would do the same and cost seconds to import. Apple's release has no
tokenizer.json; vocab.json and merges.txt then make the same Qwen2 byte-level BPE.
"""

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from fastvlm_mlx.errors import CheckpointError, quoted
from fastvlm_mlx.files.json_file import read_json, read_text
from fastvlm_mlx.files.model_file import check_model_file, unreadable
from fastvlm_mlx.processing.token_ids import check_vocabulary, read_stop_ids

# Qwen2's word boundaries: contractions, words, single digits, punctuation, spaces.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_STOPS = ("<|im_end|>", "<|endoftext|>", "</s>")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Text to ids and back. A user's text never gives a control token.

    `folder` holds tokenizer.json, or vocab.json and merges.txt; tokenizer_config.json
    beside them names the end of sequence. `vocab_size` is the language model's.

    Raises:
        CheckpointError: the files are missing or damaged.
    """

    def __init__(self, folder: str | Path, vocab_size: int | None = None):
        self.folder = Path(folder)
        self._tokenizer = read(self.folder, vocab_size)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(id for id, token in added.items() if token.special)
        self.stop_ids = self._find_stops()
        # The library keeps only special tokens out of text; so make all of them
        # special. What `decode` leaves out was settled above.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.add_special_tokens(
            [_as_special(token) for token in added.values() if not token.special]
        )
        decoder = self._tokenizer.decoder
        state = "" if decoder is None else decoder.__getstate__().decode()
        self._sentencepiece = '"ByteFallback"' in state
        if not self._sentencepiece and '"ByteLevel"' not in state:
            raise CheckpointError(
                f"{self.folder / 'tokenizer.json'}: neither byte-level BPE nor "
                "sentencepiece; use the tokenizer of a Qwen2 or Llama model"
            )
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of `text` as plain text: `<|im_start|>` in it is just characters."""
        # A terminal or a JSON body can bring half a surrogate pair.
        text = text.encode("utf-8", "replace").decode()
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens and ids beyond the vocabulary are empty."""
        stream = self.stream()
        return "".join(map(stream.push, ids)) + stream.finish()

    def stream(self) -> "TextStream":
        """A decoder that takes ids one at a time."""
        return TextStream(self)

    def id(self, token: str) -> int | None:
        """The id of one token by its exact name, control tokens included."""
        return self._tokenizer.token_to_id(token)

    def name(self, id: int) -> str:
        """The exact name of one id, "" beyond the vocabulary; see `id`."""
        return self._tokenizer.id_to_token(id) or ""

    def __len__(self) -> int:
        """The number of tokens; a model's vocabulary may be padded beyond it."""
        return self._tokenizer.get_vocab_size()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json into `folder`, whatever form it was read from."""
        read(self.folder).save(str(Path(folder) / "tokenizer.json"))

    def to_json(self) -> str:
        """The content of a tokenizer.json that makes this tokenizer."""
        return self._tokenizer.to_str()

    def token_bytes(self, id: int, *, first: bool = False) -> bytes:
        """What one id contributes to the text, as bytes of UTF-8; may be a fragment.

        The `first` token of a text may contribute less: sentencepiece marks the start
        with a space that is no part of it.
        """
        if id not in self._bytes:
            self._bytes[id] = self._token_bytes(int(id))
        data = self._bytes[id]
        return data.removeprefix(b" ") if first and self._sentencepiece else data

    def _token_bytes(self, id: int) -> bytes:
        if id in self._special or not 0 <= id < 1 << 32:
            return b""
        token = self._tokenizer.id_to_token(id) or ""
        if self._sentencepiece:
            if match := _BYTE_TOKEN.fullmatch(token):
                return bytes([int(match[1], 16)])
            return token.replace("\u2581", " ").encode()
        try:
            return bytes(_BYTE_OF[character] for character in token)
        except KeyError:  # an added token is not spelled in byte characters
            return token.encode()

    def _find_stops(self) -> frozenset[int]:
        """Ids that end an answer, from the vocabulary and the folder's own word."""
        stops = {self.id(token) for token in _STOPS} & self._special
        settings = read_json(self.folder / "tokenizer_config.json", optional=True)
        eos = settings.get("eos_token")
        if isinstance(eos, dict):
            eos = eos.get("content")
        if isinstance(eos, str):
            stops.add(self.id(eos))
        path = self.folder / "generation_config.json"
        stops.update(
            read_stop_ids(path, read_json(path, optional=True).get("eos_token_id"))
        )
        return frozenset(id for id in stops if id is not None)


class TextStream:
    """Ids in, text out, whole characters only.

    A character's bytes may come in several tokens: `push` gives "" until the last one
    is there. Bytes that are not UTF-8 become U+FFFD, as in `Tokenizer.decode`.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # sentencepiece marks the start of a text with a space that is not part of it.
        self._strip = tokenizer._sentencepiece

    def push(self, id: int) -> str:
        """The text that `id` completes, "" if none."""
        data = self._tokenizer.token_bytes(id)
        if self._strip and data:
            data = data.removeprefix(b" ")
            self._strip = False
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left: U+FFFD for an unfinished character, else ""."""
        return self._decoder.decode(b"", final=True)


def _byte_characters() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as themselves, the rest from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


def _as_special(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def read(folder: Path, vocab_size: int | None = None) -> tokenizers.Tokenizer:
    """The library's tokenizer, as the folder's files describe it.

    It neither cuts a text off nor pads it, whatever length it was trained with.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    whole, vocab, merges = (
        folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    damaged = whole
    try:
        if os.path.lexists(whole):
            text = read_text(whole)
            check_vocabulary(whole, text, vocab_size)
            tokenizer = tokenizers.Tokenizer.from_str(text)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return tokenizer
        if not (vocab.is_file() and merges.is_file()):
            raise CheckpointError(
                f"{folder}: no tokenizer.json (or vocab.json with merges.txt); "
                "copy it from the original model"
            )
        damaged = vocab
        check_model_file(vocab)
        check_model_file(merges)
        check_vocabulary(vocab, read_text(vocab), vocab_size)
        bpe = models.BPE.from_file(str(vocab), str(merges))
    except CheckpointError:
        raise
    except OSError as error:
        raise unreadable(damaged, error) from error
    # The library raises bare Exception for damaged files.
    except Exception as error:
        raise CheckpointError(
            f"{damaged}: damaged ({quoted(error)}); download it again"
        ) from error
    return _qwen2(bpe, folder)


def _qwen2(bpe: models.BPE, folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer that transformers' Qwen2Tokenizer makes of a vocabulary."""
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for id, entry in sorted(_added_tokens(folder).items()):
        token = AddedToken(entry["content"], normalized=False)
        if entry.get("special", True):
            tokenizer.add_special_tokens([_as_special(token)])
        else:
            tokenizer.add_tokens([token])
        # The library numbers added tokens itself, from the end of the vocabulary.
        if tokenizer.token_to_id(token.content) != id:
            raise CheckpointError(
                f"{folder}: the id {id} of {token.content:.60} does not follow"
                " vocab.json; copy tokenizer.json from the original model"
            )
    return tokenizer


def _added_tokens(folder: Path) -> dict[int, dict[str, Any]]:
    path = folder / "tokenizer_config.json"
    entries = read_json(path, optional=True).get("added_tokens_decoder")
    try:
        if entries:
            added = {int(id): {**entry} for id, entry in entries.items()}
        else:
            path = folder / "added_tokens.json"
            entries = read_json(path, optional=True)
            added = {int(id): {"content": t} for t, id in entries.items()}
        if all(isinstance(entry["content"], str) for entry in added.values()):
            return added
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(f"{path}: the added tokens are malformed; download it again")
