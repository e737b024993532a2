// What bare_block.cpp and bare_step.cpp are made of: bare products with LoRA terms, fused loops over rows, the library's
// attention and cross entropy kernels, rounds of work. AVX-512 with AVX512_BF16 only; include within a region that is
// compiled for them.

constexpr float kScale = 2, kEpsilon = 1e-5f;  // of the adapters and the norms, as in transformer.cpp
constexpr std::int64_t kRowsOfTask = 32;

struct Work {
  std::int64_t tasks;
  std::function<void(std::int64_t task, void* scratch)> run;
};

enum Part { kProducts, kAttention, kLoops, kHead, kParts };
constexpr const char* kPartNames[] = {"products", "attention", "loops", "cross entropy"};

/// Rounds of work; what is in one is independent of each other.
class Schedule {
 public:
  void round(Part part, std::vector<Work> works) {
    parts_.push_back(part);
    std::int64_t tasks = 0;
    for (const Work& w : works) tasks += w.tasks;
    tasks_.push_back(static_cast<std::uint32_t>(tasks));
    rounds_.push_back(std::move(works));
  }
  void scratch(std::size_t bytes) { bytes_ = std::max(bytes_, bytes); }
  void run() {
    while (scratch_.size() < static_cast<std::size_t>(mc::threads()))
      scratch_.push_back(mc::base::pool_allocate(bytes_));
    const auto task = [](void* self, int thread, int round, std::uint32_t index) {
      static_cast<Schedule*>(self)->task(thread, round, index);
    };
    began_.resize(tasks_.size() + 1);
    mc::base::run_rounds({tasks_.data(), static_cast<int>(tasks_.size()), task, this}, mc::threads());
    began_.back() = now();
  }
  std::string parts() const {
    double took[kParts] = {};
    for (std::size_t r = 0; r < parts_.size(); ++r) took[parts_[r]] += began_[r + 1] - began_[r];
    std::string text = "bare kernels:";
    for (const int part : {kProducts, kAttention, kLoops, kHead})
      if (took[part] > 0) text += fmt::format(" {} {:.2f} ms,", kPartNames[part], took[part] * 1e3);
    text.pop_back();
    return text;
  }

 private:
  void task(int thread, int round, std::int64_t index) {
    if (index == 0) began_[static_cast<std::size_t>(round)] = now();
    for (const Work& w : rounds_[static_cast<std::size_t>(round)]) {
      if (index < w.tasks) return w.run(index, scratch_[static_cast<std::size_t>(thread)]);
      index -= w.tasks;
    }
  }
  std::vector<std::vector<Work>> rounds_;
  std::vector<std::uint32_t> tasks_;
  std::vector<Part> parts_;
  std::vector<double> began_;
  std::vector<void*> scratch_;
  std::size_t bytes_ = 64;
};

template <class L>
class BareParts {
 protected:
  using T = typename L::T;
  using Sink = std::function<void(const GemmTile&)>;

  /// A projection: weights [in, out] packed for both directions, and what its passes make.
  struct Linear {
    std::int64_t in, out;
    const void *forward, *backward;  // packed
    const T *a, *b;
    T *u, *du;   // s·x·A, s·dy·Bᵀ
    T *da, *db;  // the adapter's gradients
  };

  explicit BareParts(const BlockShape& s) : s_(s), rows_(s.sequences * s.tokens) { make_tables(); }
  BareParts(const BareParts&) = delete;

  // --- memory ---

  static T* memory(std::int64_t elements) {
    auto* p = static_cast<T*>(mc::base::pool_allocate(static_cast<std::size_t>(elements) * sizeof(T) + 64));
    std::fill(p, p + elements, T(0.0f));
    return p;
  }
  T* tokens(std::int64_t width) { return memory(rows_ * width); }
  static float* numbers(std::int64_t n) {
    return static_cast<float*>(mc::base::pool_allocate(static_cast<std::size_t>(n) * sizeof(float)));
  }

  struct Strides {
    std::int64_t row, col;
  };
  const void* packed(const void* w, std::int64_t n, std::int64_t k, Strides s) {
    const mc::cpu::GemmShape shape{rows_, n, k, L::kGemm};
    void* to = mc::base::pool_allocate(packed_b_bytes(shape));
    pack_b(shape, {w, s.row, s.col}, to, 0, packed_b_panels(shape));
    return to;
  }

  // --- products ---

  static GemmSegment segment(std::int64_t k, MatrixRef a, MatrixRef b, bool is_packed = false) {
    GemmSegment s;
    s.k = k, s.a = a, s.b = b, s.b_packed = is_packed;
    return s;
  }
  /// What a tile becomes, and the arrays, as wide as the product, that this reads or writes there.
  struct Epilogue {
    Sink sink;
    std::vector<const T*> touched;
  };
  struct Product {
    GemmArgs args;
    GemmTiling tiling;
    Epilogue then;
    void fetch(const GemmTile& t) const {
      for (const T* array : then.touched) {
        const T* p = array + t.row0 * args.n + t.col0;
        for (std::int64_t r = 0; r < t.rows; ++r, p += args.n)
          for (std::int64_t c = 0; c < t.cols; c += 64 / static_cast<std::int64_t>(sizeof(T)))
            __builtin_prefetch(p + c, 0, 2);
      }
    }
  };
  Work product(std::int64_t m, std::int64_t n, GemmSegment first, GemmSegment second, T* c, Epilogue then = {}) {
    products_.push_back({});
    Product& p = products_.back();
    p.args.m = m, p.args.n = n, p.args.type = p.args.c_type = L::kGemm;
    p.args.segments[0] = first, p.args.segments[1] = second;
    p.args.c = c, p.args.c_row_stride = n;
    if (then.sink) {
      p.then = std::move(then);
      p.args.c = nullptr;
      p.args.user = &p;
      p.args.sink = [](void* user, const GemmTile& t) { static_cast<Product*>(user)->then.sink(t); };
      p.args.fetch = [](void* user, const GemmTile& t) { static_cast<Product*>(user)->fetch(t); };
    }
    p.tiling = plan_gemm(p.args);
    schedule_.scratch(p.tiling.scratch_bytes);
    return {p.tiling.jobs, [&p](std::int64_t task, void* scratch) { run_gemm_job(p.args, p.tiling, task, scratch); }};
  }

  /// f(tile's vector, row, column) for all of a tile; columns come in whole vectors here.
  template <class F>
  static void each(const GemmTile& t, F f) {
    const auto* data = static_cast<const float*>(t.data);
    for (std::int64_t r = 0; r < t.rows; ++r)
      for (std::int64_t c = 0; c < t.cols; c += 16) f(_mm512_loadu_ps(data + r * t.ld + c), t.row0 + r, t.col0 + c);
  }
  Epilogue scaled(T* c, std::int64_t n) {
    return {[=](const GemmTile& t) {
              each(t, [=](__m512 v, std::int64_t r, std::int64_t col) {
                L::store(_mm512_mul_ps(v, lanes(kScale)), c + r * n + col);
              });
            },
            {c}};
  }
  Epilogue added(const T* to, T* c, std::int64_t n) {
    return {[=](const GemmTile& t) {
              each(t, [=](__m512 v, std::int64_t r, std::int64_t col) {
                L::store(_mm512_add_ps(v, L::load(to + r * n + col)), c + r * n + col);
              });
            },
            {to, c}};
  }

  Work low(const Linear& l, const T* x) {  // u = s·x·A
    return product(rows_, s_.rank, segment(l.in, {x, l.in, 1}, {l.a, s_.rank, 1}), {}, nullptr, scaled(l.u, s_.rank));
  }
  Work full(const Linear& l, const T* x, T* y, Epilogue then = {}) {  // y = x·W + u·B
    return product(rows_, l.out, segment(l.in, {x, l.in, 1}, {l.forward, 0, 0}, true),
                   segment(s_.rank, {l.u, s_.rank, 1}, {l.b, l.out, 1}), y, std::move(then));
  }
  Work low_back(const Linear& l, const T* dy) {  // du = s·dy·Bᵀ
    return product(rows_, s_.rank, segment(l.out, {dy, l.out, 1}, {l.b, 1, l.out}), {}, nullptr, scaled(l.du, s_.rank));
  }
  Work full_back(const Linear& l, const T* dy, T* dx, Epilogue then = {}) {  // dx = dy·Wᵀ + du·Aᵀ
    return product(rows_, l.in, segment(l.out, {dy, l.out, 1}, {l.backward, 0, 0}, true),
                   segment(s_.rank, {l.du, s_.rank, 1}, {l.a, 1, s_.rank}), dx, std::move(then));
  }
  Work grad_a(const Linear& l, const T* x) {  // dA = xᵀ·du
    return product(l.in, s_.rank, segment(rows_, {x, 1, l.in}, {l.du, s_.rank, 1}), {}, l.da);
  }
  Work grad_b(const Linear& l, const T* dy) {  // dB = uᵀ·dy
    return product(s_.rank, l.out, segment(rows_, {l.u, 1, s_.rank}, {dy, l.out, 1}), {}, l.db);
  }

  // --- loops over rows ---

  /// f(row) for all tokens, a few of them a task.
  Work by_rows(std::function<void(std::int64_t begin, std::int64_t end)> f) {
    return {(rows_ + kRowsOfTask - 1) / kRowsOfTask, [f = std::move(f), n = rows_](std::int64_t task, void*) {
              f(task * kRowsOfTask, std::min(n, (task + 1) * kRowsOfTask));
            }};
  }

  Work norm(const T* x, const T* weight, T* y, float* scale) {
    return by_rows([=, this](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = s_.hidden;
      for (std::int64_t r = begin; r < end; ++r) {
        const T* row = x + r * n;
        __m512 sum[2] = {lanes(0), lanes(0)};
        for (std::int64_t c = 0; c < n; c += 32)
          for (int i = 0; i < 2; ++i) {
            const __m512 v = L::load(row + c + 16 * i);
            sum[i] = _mm512_fmadd_ps(v, v, sum[i]);
          }
        const float total = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
        scale[r] = 1 / std::sqrt(total / static_cast<float>(n) + kEpsilon);
        for (std::int64_t c = 0; c < n; c += 16)
          L::store(_mm512_mul_ps(_mm512_mul_ps(L::load(row + c), lanes(scale[r])), L::load(weight + c)), y + r * n + c);
      }
    });
  }

  /// dx = scale·g - x·scale³·mean(g·x) + rest with g = (Σ dy)·weight·factor.
  template <std::size_t kCount>
  Work norm_back(std::array<const T*, kCount> dy, const T* x, const T* weight, const float* scale, const T* rest, T* dx,
                 float factor = 1) {
    return by_rows([=, this](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = s_.hidden;
      alignas(64) float g[1024];
      for (std::int64_t at = begin * n; at < end * n; at += n) {
        __m512 sum = lanes(0);
        for (std::int64_t c = 0; c < n; c += 16) {
          __m512 v = L::load(dy[0] + at + c);
          for (std::size_t i = 1; i < kCount; ++i) v = _mm512_add_ps(v, L::load(dy[i] + at + c));
          v = _mm512_mul_ps(_mm512_mul_ps(v, L::load(weight + c)), lanes(factor));
          sum = _mm512_fmadd_ps(v, L::load(x + at + c), sum);
          _mm512_store_ps(g + c, v);
        }
        const float s = scale[at / n], mean = _mm512_reduce_add_ps(sum) / static_cast<float>(n);
        const __m512 less = lanes(-mean * s * s * s);
        for (std::int64_t c = 0; c < n; c += 16) {
          const __m512 v = _mm512_fmadd_ps(_mm512_load_ps(g + c), lanes(s), L::load(rest + at + c));
          L::store(_mm512_fmadd_ps(L::load(x + at + c), less, v), dx + at + c);
        }
      }
    });
  }

  void make_tables() {
    const std::int64_t half = s_.head / 2;
    for (std::int64_t t = 0; t < s_.tokens; ++t)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(t) * std::pow(1e5, -static_cast<double>(i) / static_cast<double>(half));
        cosine_.push_back(static_cast<float>(std::cos(angle)));
        sine_.push_back(static_cast<float>(std::sin(angle)));
      }
  }
  /// Rotates in place; `sign` -1 turns back.
  Work rope(T* x, std::int64_t heads, float sign) {
    return by_rows([=, this](std::int64_t begin, std::int64_t end) {
      const std::int64_t half = s_.head / 2;
      for (std::int64_t r = begin; r < end; ++r) {
        const float *cosine = cosine_.data() + r % s_.tokens * half, *sine = sine_.data() + r % s_.tokens * half;
        T* row = x + r * heads * s_.head;
        for (std::int64_t h = 0; h < heads; ++h, row += s_.head)
          for (std::int64_t c = 0; c < half; c += 16) {
            const __m512 a = L::load(row + c), b = L::load(row + half + c), cos = _mm512_loadu_ps(cosine + c);
            const __m512 sin = _mm512_mul_ps(lanes(sign), _mm512_loadu_ps(sine + c));
            L::store(_mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)), row + c);
            L::store(_mm512_fmadd_ps(a, sin, _mm512_mul_ps(b, cos)), row + half + c);
          }
      }
    });
  }

  // --- kernels of the library: attention, cross entropy ---

  void kernel_rounds(Part part, const mc::CpuKernel& kernel, const mc::Attrs& attrs, std::vector<mc::KernelTensor> in,
                     std::vector<mc::KernelTensor> out) {
    calls_.push_back({std::move(in), std::move(out), attrs, nullptr});
    Call& c = calls_.back();
    const auto call = [&c](void* scratch) {
      return mc::KernelCall{c.in, c.out, c.attrs, scratch, c.shared, [](const char*) {}};
    };
    if (kernel.shared) c.shared = shared_memory(kernel.shared(call(nullptr)));
    schedule_.scratch(kernel.scratch(call(nullptr)));
    for (int pass = 0; pass < kernel.passes; ++pass)
      schedule_.round(
          part, {{kernel.tasks(call(nullptr), pass),
                  [&kernel, call, pass](std::int64_t task, void* scratch) { kernel.run(call(scratch), pass, task); }}});
  }
  /// One for all calls of a kernel, which follow one another.
  void* shared_memory(std::size_t bytes) {
    if (bytes > shared_bytes_) shared_ = mc::base::pool_allocate(shared_bytes_ = bytes);
    return shared_;
  }
  mc::KernelTensor heads(T* data, std::int64_t count) const {
    const mc::Shape shape{s_.sequences, s_.tokens, count, s_.head};
    const std::int64_t row = count * s_.head;
    return {data, L::kDtype, shape, mc::Shape{s_.tokens * row, row, s_.head, 1}};
  }

  /// With dh = dy·Wᵀ of `down` in the tile: the activation h, and the gradients of gate and up.
  Epilogue activation(const T* gate, const T* up, T* h, T* dgate, T* dup) {
    return {[=, this](const GemmTile& t) {
              each(t, [=, this](__m512 dh, std::int64_t r, std::int64_t col) {
                const std::int64_t at = r * s_.inner + col;
                const __m512 g = L::load(gate + at), u = L::load(up + at), s = sigmoid(g), silu = _mm512_mul_ps(g, s);
                L::store(_mm512_mul_ps(silu, u), h + at);
                L::store(_mm512_mul_ps(dh, silu), dup + at);
                const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(lanes(1), s), lanes(1)));
                L::store(_mm512_mul_ps(_mm512_mul_ps(dh, u), slope), dgate + at);
              });
            },
            {gate, up, h, dgate, dup}};
  }

  // --- a layer ---

  enum { kQ, kK, kV, kO, kGate, kUp, kDown };
  /// What a forward pass leaves for the backward pass.
  struct Layer {
    std::vector<Linear> linears;
    const T *x, *norm1, *norm2;
    T *n1, *n2, *h, *seen, *q, *k, *v, *gate, *up;
    float *scale1, *scale2, *lse;
    const Linear& of(int which) const { return linears[static_cast<std::size_t>(which)]; }
  };
  void make_room(Layer& l) {
    const std::int64_t hidden = s_.hidden;
    l.n1 = tokens(hidden), l.n2 = tokens(hidden), l.h = tokens(hidden), l.seen = tokens(hidden), l.q = tokens(hidden);
    l.k = tokens(s_.kv()), l.v = tokens(s_.kv()), l.gate = tokens(s_.inner), l.up = tokens(s_.inner);
    l.scale1 = numbers(rows_), l.scale2 = numbers(rows_), l.lse = numbers(rows_ * s_.heads);
  }
  /// Of the backward pass, the same for all layers.
  struct Passing {
    T *act, *dgate, *dup, *part[3], *dh, *dseen, *dq, *dk, *dv;
  };
  void make_room(Passing& b) {
    const std::int64_t hidden = s_.hidden;
    b.act = tokens(s_.inner), b.dgate = tokens(s_.inner), b.dup = tokens(s_.inner);
    for (T*& part : b.part) part = tokens(hidden);
    b.dh = tokens(hidden), b.dseen = tokens(hidden), b.dq = tokens(hidden), b.dk = tokens(s_.kv()),
    b.dv = tokens(s_.kv());
  }
  mc::KernelTensor lse(const Layer& l) const {
    return {l.lse, mc::DType::f32, mc::Shape{s_.heads, rows_}, mc::Shape{rows_, 1}};
  }

  /// From n1 to n2 and the narrow products of gate and up.
  void attend(const Layer& l) {
    schedule_.round(kProducts, {low(l.of(kQ), l.n1), low(l.of(kK), l.n1), low(l.of(kV), l.n1)});
    schedule_.round(kProducts, {full(l.of(kQ), l.n1, l.q), full(l.of(kK), l.n1, l.k), full(l.of(kV), l.n1, l.v)});
    schedule_.round(kLoops, {rope(l.q, s_.heads, 1), rope(l.k, s_.kv_heads, 1)});
    kernel_rounds(kAttention, mc::cpu::attention_kernel, rule_.attrs(),
                  {heads(l.q, s_.heads), heads(l.k, s_.kv_heads), heads(l.v, s_.kv_heads)},
                  {heads(l.seen, s_.heads), lse(l)});
    schedule_.round(kProducts, {low(l.of(kO), l.seen)});
    schedule_.round(kProducts, {full(l.of(kO), l.seen, nullptr, added(l.x, l.h, s_.hidden))});
    schedule_.round(kLoops, {norm(l.h, l.norm2, l.n2, l.scale2)});
    schedule_.round(kProducts, {low(l.of(kGate), l.n2), low(l.of(kUp), l.n2)});
  }

  /// From dy, whose narrow product with `down` is there, to the adapters' gradients and dx, if it is wanted. With y: the
  /// layer's result as well, which no forward pass has made.
  void go_back(const Layer& l, const Passing& b, const T* dy, T* dx, T* y) {
    schedule_.round(kProducts, {full_back(l.of(kDown), dy, nullptr, activation(l.gate, l.up, b.act, b.dgate, b.dup))});
    std::vector<Work> works{low_back(l.of(kGate), b.dgate), low_back(l.of(kUp), b.dup)};
    if (y != nullptr) works.push_back(low(l.of(kDown), b.act));
    schedule_.round(kProducts, works);
    works = {full_back(l.of(kGate), b.dgate, b.part[0]), full_back(l.of(kUp), b.dup, b.part[1])};
    if (y != nullptr) works.push_back(full(l.of(kDown), b.act, nullptr, added(l.h, y, s_.hidden)));
    for (Work& w : std::vector<Work>{grad_a(l.of(kDown), b.act), grad_b(l.of(kGate), b.dgate), grad_b(l.of(kUp), b.dup),
                                     grad_a(l.of(kGate), l.n2), grad_a(l.of(kUp), l.n2), grad_b(l.of(kDown), dy)})
      works.push_back(std::move(w));
    schedule_.round(kProducts, works);
    schedule_.round(kLoops, {norm_back<2>({b.part[0], b.part[1]}, l.h, l.norm2, l.scale2, dy, b.dh)});
    schedule_.round(kProducts, {low_back(l.of(kO), b.dh)});
    schedule_.round(kProducts, {full_back(l.of(kO), b.dh, b.dseen), grad_b(l.of(kO), b.dh), grad_a(l.of(kO), l.seen)});
    kernel_rounds(kAttention, mc::cpu::attention_grad_kernel, rule_.attrs(),
                  {heads(l.q, s_.heads), heads(l.k, s_.kv_heads), heads(l.v, s_.kv_heads), heads(l.seen, s_.heads),
                   lse(l), heads(b.dseen, s_.heads)},
                  {heads(b.dq, s_.heads), heads(b.dk, s_.kv_heads), heads(b.dv, s_.kv_heads)});
    schedule_.round(kProducts, {rope(b.dq, s_.heads, -1), rope(b.dk, s_.kv_heads, -1), low_back(l.of(kV), b.dv),
                                grad_b(l.of(kV), b.dv)});
    schedule_.round(kProducts, {low_back(l.of(kQ), b.dq), low_back(l.of(kK), b.dk), grad_b(l.of(kQ), b.dq),
                                grad_b(l.of(kK), b.dk)});
    works.clear();
    if (dx != nullptr)
      works = {full_back(l.of(kQ), b.dq, b.part[0]), full_back(l.of(kK), b.dk, b.part[1]),
               full_back(l.of(kV), b.dv, b.part[2])};
    for (const int which : {kQ, kK, kV}) works.push_back(grad_a(l.of(which), l.n1));
    schedule_.round(kProducts, works);
    if (dx == nullptr) return;
    schedule_.round(kLoops, {norm_back<3>({b.part[0], b.part[1], b.part[2]}, l.x, l.norm1, l.scale1, b.dh, dx)});
  }

  // --- results ---

  void compare(const std::string& name, const mc::LazyTensor& right, const T* ours) const {
    const std::vector<float> want = mc::cast(right, mc::DType::f32).eval().template to_vector<float>();
    compare(name, want, [&](std::size_t i) { return static_cast<float>(ours[i]); });
  }
  template <class Ours>
  void compare(const std::string& name, const std::vector<float>& want, Ours ours) const {
    double error = 0, size = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double d = static_cast<double>(ours(i)) - static_cast<double>(want[i]);
      error += d * d;
      size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    }
    const double relative = std::sqrt(error / size);
    if (!(relative < tolerance_))
      throw std::runtime_error(fmt::format("bare kernels: {} differs by {:.3g} of its size", name, relative));
  }

  struct Call {
    std::vector<mc::KernelTensor> in, out;
    mc::Attrs attrs;
    void* shared;
  };
  const BlockShape s_;
  const std::int64_t rows_;
  const mc::ops::AttentionRule rule_ = [this] {
    mc::ops::AttentionRule rule(mc::Attrs{0, 1, 0, 0, 0});
    rule.scale = 1 / std::sqrt(static_cast<double>(s_.head)), rule.softcap = 0;
    return rule;
  }();
  double tolerance_ = L::kDtype == mc::DType::f32 ? 1e-4 : 3e-2;  // of a result's size
  Schedule schedule_;
  std::deque<Product> products_;  // stable addresses
  std::deque<Call> calls_;
  void* shared_ = nullptr;
  std::size_t shared_bytes_ = 0;
  std::vector<float> cosine_, sine_;
};
