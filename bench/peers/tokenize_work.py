"""One run of Hugging Face's tokenizers on one thread: tokenize_work.py TOKENIZER.json TEXT; prints ids, seconds of
encode and of encode_batch_fast over pieces of 4,000 characters."""
import os
import sys
import time

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
from tokenizers import Tokenizer  # noqa: E402

tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_truncation()
tokenizer.no_padding()
with open(sys.argv[2], encoding="utf-8") as f:
    text = f.read()
a = time.perf_counter()
ids = len(tokenizer.encode(text, add_special_tokens=False).ids)
b = time.perf_counter()
tokenizer.encode_batch_fast([text[i:i + 4000] for i in range(0, len(text), 4000)], add_special_tokens=False)
c = time.perf_counter()
print(ids, b - a, c - b)
