"""The benchmarks' work in MLX on the CPU, where it has it."""
import importlib.metadata

import mlx.core as mx

from common import Missing

VERSION = f"MLX {importlib.metadata.version('mlx')}"
TYPES = {"f32": mx.float32, "bf16": mx.bfloat16}

mx.set_default_device(mx.cpu)
mx.random.seed(0)


def normal(*shape, dtype="f32"):
    a = mx.random.normal(shape).astype(TYPES[dtype])
    mx.eval(a)
    return a


def linear(k, n, m, dtype):
    w, x = normal(int(k), int(n), dtype=dtype), normal(int(m), int(k), dtype=dtype)
    return lambda: mx.eval(x @ w)


def rows(op, way, r, c):
    x, w, g = normal(int(r), int(c)), normal(int(c)), normal(int(r), int(c))
    known = {
        "softmax": lambda x: mx.softmax(x, -1),
        "rms_norm": lambda x: mx.fast.rms_norm(x, w, 1e-6),
        "silu_mul": mx.compile(lambda x: x * mx.sigmoid(x) * w),
    }
    if op not in known:
        raise Missing
    f = known[op]
    if way == "fwd":
        return lambda: mx.eval(f(x))
    return lambda: mx.eval(*mx.vjp(f, [x], [g])[1])


def tiny(which):
    """`record` makes the chain and drops it; `evaluate` makes it and computes it."""
    x = normal(16)

    def chain():
        y = x
        for _ in range(1000):
            y = y * 1.0001 + 0.1
        return y

    return chain if which == "record" else lambda: mx.eval(chain())


def seeds(op, *shape):
    shape = [int(s) for s in shape]
    if op == "add_mul":
        a, b = normal(*shape), normal(*shape)
        return lambda: mx.eval((a + b) * 2)
    if op == "matmul":
        a, b = normal(shape[0], shape[0]), normal(shape[0], shape[0])
        return lambda: mx.eval(a @ b)
    if op == "softmax":
        a = normal(*shape)
        return lambda: mx.eval(mx.softmax(a, -1))
    if op == "rms_norm":
        a, one = normal(*shape), mx.ones(shape[-1])
        return lambda: mx.eval(mx.fast.rms_norm(a, one, 1e-6))
    if op == "lora":
        d, r = shape
        x, a, b = normal(1, d), normal(d, r), normal(r, d)
        return lambda: mx.eval((x @ a) @ b * 2.0)
    raise Missing


WORK = {f.__name__: f for f in (linear, rows, tiny, seeds)}


def make(name):
    what, *arguments = name.split(":")
    if what not in WORK:
        raise Missing
    return WORK[what](*arguments)
