"""Hugging Face's tokenizers on one thread: make("whole:FOLDER") encodes FOLDER/text at once, make("pieces:FOLDER") in
pieces of 4,000 characters by the call that leaves offsets out; FOLDER holds tokenizer.json."""
import importlib.metadata
import os

from common import Missing

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
from tokenizers import Tokenizer  # noqa: E402

VERSION = f"tokenizers {importlib.metadata.version('tokenizers')}"
PIECE = 4000


def make(name):
    way, folder = name.split(":", 1)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with open(os.path.join(folder, "text"), encoding="utf-8", newline="") as f:
        text = f.read()
    if way == "whole":
        return lambda: tokenizer.encode(text, add_special_tokens=False)
    if way == "pieces":
        pieces = [text[i:i + PIECE] for i in range(0, len(text), PIECE)]
        return lambda: tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
    raise Missing
