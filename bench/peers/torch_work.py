"""The benchmarks' work in PyTorch: make("rows:softmax:fwd:128:1024", "eager" or "compile") gives a function."""
import math

import torch
import torch.nn.functional as F

from common import THREADS, Missing

VERSION = f"PyTorch {torch.__version__}"
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

torch.set_num_threads(THREADS)
torch.manual_seed(0)


def without_grad(f):
    def work():
        with torch.no_grad():
            f()

    return work


def backward_of(f, parameters, dy):
    """Forward, then the gradients of `parameters` for the output gradient dy (None: of a scalar)."""

    def work():
        for p in parameters:
            p.grad = None
        f().backward(dy)

    return work


def linear(wrap, k, n, m, dtype):
    k, n, m = int(k), int(n), int(m)
    w = torch.randn(n, k).to(TYPES[dtype])
    x = torch.randn(m, k).to(TYPES[dtype])
    f = wrap(lambda x, w: F.linear(x, w))
    return without_grad(lambda: f(x, w))


def int_mm(wrap, m, n, k):
    x, w = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((int(m), int(k)), (int(k), int(n))))
    f = wrap(torch._int_mm)
    return without_grad(lambda: f(x, w))


def rms_by_hand(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w


def softmax_by_hand(x, w):
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def mean_and_peak(x, w):
    return (x - x.mean(-1, keepdim=True)) / (x.abs().amax(-1, keepdim=True) + 1e-6)


ROWS = {
    "softmax": lambda x, w: torch.softmax(x, -1),
    "rms_norm": lambda x, w: F.rms_norm(x, (x.shape[-1],), w, 1e-6),
    "silu_mul": lambda x, w: F.silu(x) * w,
    "gelu": lambda x, w: F.gelu(x * w + w, approximate="tanh"),
    "softmax_by_hand": softmax_by_hand,
    "rms_by_hand": rms_by_hand,
}
WEIGHT_GRAD = {"rms_norm", "gelu", "rms_by_hand"}


def rows(wrap, op, way, r, c):
    if op not in ROWS:
        raise Missing
    f = wrap(ROWS[op])
    x, w = torch.randn(int(r), int(c)), torch.randn(int(c))
    if way == "fwd":
        return without_grad(lambda: f(x, w))
    x.requires_grad_(True)
    w.requires_grad_(op in WEIGHT_GRAD)
    return backward_of(lambda: f(x, w), [x, w], torch.randn(int(r), int(c)))


def programs(wrap, which, r, c, d):
    r, c, d = int(r), int(c), int(d)
    x = torch.randn(r, c)
    if which == "two_reductions":
        f = wrap(mean_and_peak)
        return without_grad(lambda: f(x, None))
    if which == "two_outputs":
        y, w = torch.randn(r, c), torch.randn(c)

        def both(x, y, w):
            h = x + y
            return h, rms_by_hand(h, w)

        f = wrap(both)
        return without_grad(lambda: f(x, y, w))
    table = torch.randn(c, d)
    f = wrap(lambda x, table: F.embedding(x.argmax(-1), table) * 2.0)
    return without_grad(lambda: f(x, table))


def cross_entropy(wrap, r, v):
    x = torch.randn(int(r), int(v), requires_grad=True)
    t = torch.randint(0, int(v), (int(r),))
    f = wrap(F.cross_entropy)
    return backward_of(lambda: f(x, t), [x], None)


def lora(wrap, k, n, dtype, adapted):
    """What PEFT's LoRA layer does, the adapters in the base's type."""
    k, n, t, rows_, rank = int(k), int(n), TYPES[dtype], 1024, 16
    w = torch.randn(n, k).to(t)
    x, dy = torch.randn(rows_, k).to(t).requires_grad_(True), torch.randn(rows_, n).to(t)
    if adapted == "frozen":
        f = wrap(lambda x: F.linear(x, w))
        return backward_of(lambda: f(x), [x], dy)
    a = torch.randn(rank, k).to(t).requires_grad_(True)
    b = torch.randn(n, rank).to(t).requires_grad_(True)
    f = wrap(lambda x, a, b: F.linear(x, w) + F.linear(F.linear(x, a), b) * 2.0)
    return backward_of(lambda: f(x, a, b), [x, a, b], dy)


def tiny(wrap):
    x = torch.randn(16)

    def chain(y):
        for _ in range(1000):
            y = y * 1.0001 + 0.1
        return y

    f = wrap(chain)
    return without_grad(lambda: f(x))


def seeds(wrap, op, *shape):
    shape = [int(s) for s in shape]
    if op == "add_mul":
        a, b = torch.randn(*shape), torch.randn(*shape)
        f = wrap(lambda: (a + b) * 2)
    elif op == "matmul":
        a, b = torch.randn(shape[0], shape[0]), torch.randn(shape[0], shape[0])
        f = wrap(lambda: torch.matmul(a, b))
    elif op == "softmax":
        a = torch.randn(*shape)
        f = wrap(lambda: torch.softmax(a, -1))
    elif op == "rms_norm":
        a = torch.randn(*shape)
        f = wrap(lambda: F.rms_norm(a, (shape[-1],), eps=1e-6))
    elif op == "complex":
        a, b, c = torch.randn(3, 4), torch.randn(4, 4), torch.randn(4)
        f = wrap(lambda: F.rms_norm(torch.softmax(2 * (a @ b + c), -1), (4,), eps=1e-6))
    elif op == "lora":
        d, r = shape
        x, a, b = torch.randn(1, d), torch.randn(r, d), torch.randn(d, r)
        f = wrap(lambda: ((x @ a.T) @ b.T) * 2.0)
    else:
        raise Missing
    return without_grad(f)


class LoraLinear(torch.nn.Module):
    def __init__(self, k, n, t):
        super().__init__()
        self.w = torch.nn.Parameter((torch.randn(n, k) / math.sqrt(k)).to(t), requires_grad=False)
        self.a = torch.nn.Parameter((torch.randn(16, k) / math.sqrt(k)).to(t))
        self.b = torch.nn.Parameter((torch.randn(n, 16) / 4).to(t))

    def forward(self, x):
        return F.linear(x, self.w) + F.linear(F.linear(x, self.a), self.b) * 2.0


def rms_of_llama(x, w):
    t, x = x.dtype, x.float()
    return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)).to(t)


def turned(x, cos, sin):
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Block(torch.nn.Module):
    """A block of SmolLM2-135M as transformers and PEFT compute it."""

    def __init__(self, t):
        super().__init__()
        h, kv, f = 576, 192, 1536
        self.q, self.k, self.v, self.o = (LoraLinear(h, n, t) for n in (h, kv, kv, h))
        self.gate, self.up, self.down = LoraLinear(h, f, t), LoraLinear(h, f, t), LoraLinear(f, h, t)
        self.norms = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(h, dtype=t), requires_grad=False) for _ in range(2)])
        angle = torch.outer(torch.arange(512).float(), 1e5 ** (-torch.arange(0, 64, 2).float() / 64)).repeat(1, 2)
        self.cos, self.sin = angle.cos().to(t), angle.sin().to(t)

    def forward(self, x):
        b, s, _ = x.shape
        n = rms_of_llama(x, self.norms[0])
        q, k, v = (f(n).view(b, s, -1, 64).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = turned(q, self.cos, self.sin), turned(k, self.cos, self.sin)
        a = F.scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, s, -1))
        n = rms_of_llama(x, self.norms[1])
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


def block(wrap, dtype):
    t = TYPES[dtype]
    model = Block(t)
    x, dy = torch.randn(2, 512, 576).to(t).requires_grad_(True), torch.randn(2, 512, 576).to(t)
    f = wrap(model)
    return backward_of(lambda: f(x), [x, *(p for p in model.parameters() if p.requires_grad)], dy)


WORK = {f.__name__: f for f in (linear, int_mm, rows, programs, cross_entropy, lora, tiny, seeds, block)}


def make(name, kind):
    what, *arguments = name.split(":")
    work = WORK.get(what)
    if work is None:
        import demo_work  # transformers takes seconds to import
        import lm_work

        work = {**lm_work.WORK, "demo": demo_work.demo}.get(what)
    if work is None:
        raise Missing
    if kind == "compile":
        torch._dynamo.reset()
        return work(lambda f: torch.compile(f, dynamic=False), *arguments)
    return work(lambda f: f, *arguments)
