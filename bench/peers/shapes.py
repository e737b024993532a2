"""The model shapes that the language-model benchmarks name, with random weights on every side."""

# hidden, layers, heads, key/value heads, mlp width, vocabulary, llama.cpp's architecture, bias on q k v, rope base
SHAPES = {
    "smol": dict(hidden=576, layers=30, heads=9, kv=3, mlp=1536, vocab=49152, arch="llama", bias=False, base=1e5),
    "qwen": dict(hidden=896, layers=24, heads=14, kv=2, mlp=4864, vocab=151936, arch="qwen2", bias=True, base=1e6),
}
