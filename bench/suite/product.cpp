#include "suite/product.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include "backend/cpu/gemm/gemm.h"
#include "suite/suite.h"
#include "suite/team.h"

#if MC_BENCH_ONEDNN
#include <dnnl.hpp>
#endif

namespace bench {
namespace {

namespace mc = metal_candle;
using mc::DType;
using mc::cpu::GemmType;

/// Zeroed memory at a page's start that frees itself.
struct Buffer {
  explicit Buffer(std::size_t bytes)
      : data(static_cast<char*>(std::aligned_alloc(4096, (bytes + 4096) / 4096 * 4096))) {
    std::memset(data.get(), 0, bytes);
  }
  char* get() const { return data.get(); }
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data;
};

void fill(char* to, std::int64_t count, DType dtype) {
  std::minstd_rand random(7);
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(random()) / 1073741824.0f - 1.0f;
    if (dtype == DType::i8) {
      to[i] = static_cast<char>(value * 127);
    } else if (dtype == DType::f32) {
      std::memcpy(to + 4 * i, &value, 4);
    } else {
      const mc::bf16 half(value);
      std::memcpy(to + 2 * i, &half, 2);
    }
  }
}

struct Operands {
  explicit Operands(const Product& p)
      : a(bytes(p, p.m * p.k)), b(bytes(p, p.k * p.n)), c((p.dtype == DType::i8 ? 4 : 1) * bytes(p, p.m * p.n)) {
    fill(a.get(), p.batch * p.m * p.k, p.dtype);
    fill(b.get(), p.batch * p.k * p.n, p.dtype);
  }
  static std::size_t bytes(const Product& p, std::int64_t count) {
    return static_cast<std::size_t>(p.batch * count) * mc::size_of(p.dtype);
  }
  Buffer a, b, c;
};

#if MC_BENCH_ONEDNN
class OneDnn {
 public:
  explicit OneDnn(const Product& p) : data_(p), stream_(engine()) {
    using dnnl::memory;
    using kind = memory::data_type;
    const kind type = p.dtype == DType::f32 ? kind::f32 : p.dtype == DType::i8 ? kind::s8 : kind::bf16;
    const kind c_type = type == kind::s8 ? kind::s32 : type;
    const auto describe = [&](std::int64_t rows, std::int64_t cols, bool transposed) {
      using tag = memory::format_tag;
      if (p.batch == 1) return memory::desc({rows, cols}, type, transposed ? tag::ba : tag::ab);
      return memory::desc({p.batch, rows, cols}, type, transposed ? tag::acb : tag::abc);
    };
    const memory::desc a = describe(p.m, p.k, p.a_transposed), b_here = describe(p.k, p.n, p.b_transposed);
    const memory::desc b = p.constant ? memory::desc({p.k, p.n}, type, memory::format_tag::any) : b_here;
    const memory::desc c_here = describe(p.m, p.n, false);
    const memory::desc c(c_here.dims(), c_type, p.batch == 1 ? memory::format_tag::ab : memory::format_tag::abc);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc how(engine(), a, b, c);
#else
    const dnnl::matmul::primitive_desc how(dnnl::matmul::desc(a, b, c), engine());
#endif
    matmul_ = dnnl::matmul(how);
    memory weight(b_here, engine(), data_.b.get());
    if (how.weights_desc() != b_here) {
      memory packed(how.weights_desc(), engine());
      dnnl::reorder(weight, packed).execute(stream_, weight, packed);
      stream_.wait();
      weight = packed;
    }
    arguments_ = {{DNNL_ARG_SRC, memory(a, engine(), data_.a.get())},
                  {DNNL_ARG_WEIGHTS, weight},
                  {DNNL_ARG_DST, memory(c, engine(), data_.c.get())}};
  }
  void run() {
    matmul_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  static dnnl::engine& engine() {
    static dnnl::engine e(dnnl::engine::kind::cpu, 0);
    return e;
  }
  Operands data_;
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  std::unordered_map<int, dnnl::memory> arguments_;
};
#endif

class Own {
 public:
  explicit Own(const Product& p) : data_(p) {
    const GemmType type = p.dtype == DType::f32 ? GemmType::f32 : p.dtype == DType::i8 ? GemmType::i8 : GemmType::bf16;
    const mc::cpu::MatrixRef a{data_.a.get(), p.a_transposed ? 1 : p.k, p.a_transposed ? p.m : 1};
    const mc::cpu::MatrixRef b{data_.b.get(), p.b_transposed ? 1 : p.n, p.b_transposed ? p.k : 1};
    arguments_.m = p.m;
    arguments_.n = p.n;
    arguments_.type = type;
    arguments_.c_type = type == GemmType::i8 ? GemmType::i32 : type;
    arguments_.batch = p.batch;
    arguments_.c = data_.c.get();
    arguments_.c_row_stride = p.n;
    arguments_.c_batch = p.m * p.n;
    arguments_.segments[0] = {a, b, false, p.k, p.m * p.k, p.k * p.n};
    if (p.constant) {
      const mc::cpu::GemmShape shape{p.m, p.n, p.k, type};
      packed_ = std::make_unique<Buffer>(mc::cpu::packed_b_bytes(shape));
      mc::cpu::pack_b(shape, b, packed_->get(), 0, mc::cpu::packed_b_panels(shape));
      arguments_.segments[0].b = {packed_->get(), 0, 0};
      arguments_.segments[0].b_packed = true;
    }
    tiling_ = mc::cpu::plan_gemm(arguments_);
    for (int i = 0; i < team().size(); ++i) scratch_.emplace_back(tiling_.scratch_bytes + 64);
    job_ = [this](int thread) {
      for (std::int64_t i, before = -1; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tiling_.jobs; before = i)
        mc::cpu::run_gemm_job(arguments_, tiling_, i, scratch_[static_cast<std::size_t>(thread)].get(), before);
    };
  }
  void run() {
    next_.store(0, std::memory_order_relaxed);
    team().run(job_);
  }

 private:
  Operands data_;
  std::unique_ptr<Buffer> packed_;
  mc::cpu::GemmArgs arguments_;
  mc::cpu::GemmTiling tiling_;
  std::vector<Buffer> scratch_;
  std::atomic<std::int64_t> next_{0};
  std::function<void(int)> job_;
};

Product find_best_shape(DType dtype) {
  Product best;
  double rate = 0;
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{512, 2048, 2048},
                                {1024, 2048, 2048},
                                {2048, 2048, 2048},
                                {512, 4096, 4096},
                                {2048, 4096, 4096},
                                {512, 4864, 896},
                                {1024, 1024, 1024}}) {
    const Product p{m, n, k, dtype, true};
    const auto work = onednn_product(p);
    if (!work) return p;
    work();
    for (int i = 0; i < 3; ++i) {
      const double begin = now();
      work();
      const double r = p.flops() / (now() - begin);
      if (r > rate) rate = r, best = p;
    }
  }
  return best;
}

}  // namespace

std::string Product::str() const {
  return fmt::format("{}x{}x{}{} {}", m, n, k, batch > 1 ? fmt::format(" x{}", batch) : "", mc::name(dtype));
}

std::function<void()> onednn_product([[maybe_unused]] const Product& product) {
#if MC_BENCH_ONEDNN
  return [p = std::make_shared<OneDnn>(product)] { p->run(); };
#else
  return {};
#endif
}

std::function<void()> own_product(const Product& product) {
  return [p = std::make_shared<Own>(product)] { p->run(); };
}

const Product& best_onednn_shape(DType dtype) {
  static const Product f32 = find_best_shape(DType::f32), bf16 = find_best_shape(DType::bf16);
  return dtype == DType::f32 ? f32 : bf16;
}

}  // namespace bench
