// Products of bytes and of i32 against plain sums modulo 2^32, on every instruction set. Operands end where unreadable
// memory begins.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "backend/cpu/gemm/kernels.h"

namespace metal_candle::cpu {
namespace {

using std::int64_t;

/// Bytes whose last one is followed by a page that nobody may read.
class Fenced {
 public:
  explicit Fenced(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t body = (bytes + page - 1) / page * page;
    all_ = body + page;
    base_ = static_cast<char*>(mmap(nullptr, all_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + body, page, PROT_NONE) != 0) std::abort();
    data = base_ + body - bytes;
  }
  ~Fenced() { munmap(base_, all_); }
  Fenced(const Fenced&) = delete;
  char* data;

 private:
  char* base_;
  std::size_t all_;
};

/// by_rows .. scattered are dense or nearly; the others read elements again and again, or backwards.
enum Order { by_rows, by_cols, scattered, same_row, same_col, same_all, overlapping, backwards, kOrders };
enum class Values { any, extremes };

struct Operand2d {
  bool is_signed;
  int64_t size;  // of an element
  int64_t row, col, batch;
  std::unique_ptr<Fenced> memory;
  const char* first;

  Operand2d(bool with_sign, int64_t element, int64_t rows, int64_t cols, Order order, int64_t pad, int64_t batches,
            std::mt19937& rng, Values values)
      : is_signed(with_sign), size(element) {
    row = order == by_rows     ? cols + pad
          : order == scattered ? 3 * (cols + pad)
          : order == backwards ? -(cols + pad)
                               : 0;
    if (order == by_cols || order == overlapping) row = 1;
    if (order == same_col) row = 1 + pad;
    col = order == by_cols ? rows + pad : order == scattered ? 3 : order == backwards ? -1 : 1;
    if (order == same_col || order == same_all) col = 0;
    const int64_t span = rows > 0 && cols > 0 ? (rows - 1) * std::abs(row) + (cols - 1) * std::abs(col) + 1 : 0;
    batch = span + 2;
    const int64_t count = batches > 0 && span > 0 ? (batches - 1) * batch + span : 0;
    memory = std::make_unique<Fenced>(static_cast<std::size_t>(count * size));
    for (int64_t i = 0; i < count * size; ++i) {
      const auto random = static_cast<std::uint8_t>(rng());
      memory->data[i] = static_cast<char>(values == Values::any ? random : is_signed ? 0x80 : 0xff);
    }
    first = memory->data + (order == backwards ? (span - 1) * size : 0);
  }
  /// Modulo 2^32.
  std::uint32_t at(int64_t entry, int64_t i, int64_t j) const {
    const char* p = first + (entry * batch + i * row + j * col) * size;
    if (size == 4) {
      std::uint32_t x;
      std::memcpy(&x, p, 4);
      return x;
    }
    return is_signed ? static_cast<std::uint32_t>(static_cast<std::int8_t>(*p)) : static_cast<std::uint8_t>(*p);
  }
  MatrixRef ref() const { return {first, row, col}; }
};

struct Case {
  GemmType type;
  int64_t m, n, k, k2 = 0, batch = 1;
  Order a = by_rows, b = by_rows;
  int64_t pad = 0;
  bool pack = false, sink = false;
  Values values = Values::any;
};

std::string text(const Case& c) {
  return std::string(gemm_isa_name()) + " type " + std::to_string(static_cast<int>(c.type)) + " " +
         std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) + "+" + std::to_string(c.k2) +
         " batch " + std::to_string(c.batch) + " orders " + std::to_string(c.a) + std::to_string(c.b) +
         (c.pack ? " packed" : "") + (c.sink ? " sink" : "");
}

struct Collected {
  std::vector<std::uint32_t> c;
  std::vector<int> visits;
  int64_t m, n;
};
void collect(void* user, const GemmTile& t) {
  auto& to = *static_cast<Collected*>(user);
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c) {
      const auto at = static_cast<std::size_t>((t.batch * to.m + t.row0 + r) * to.n + t.col0 + c);
      to.c[at] = static_cast<const std::uint32_t*>(t.data)[r * t.ld + c];
      ++to.visits[at];
    }
}

std::vector<char> packed(const Case& q, const Operand2d& b) {
  const GemmShape shape{0, q.n, q.k, q.type};
  std::vector<char> out(packed_b_bytes(shape) + 64, char(0x7f));
  for (int64_t p = 0; p < packed_b_panels(shape); ++p) pack_b(shape, b.ref(), out.data(), p, p + 1);
  return out;
}

void check(const Case& q) {
  std::mt19937 rng(static_cast<unsigned>(q.m * 31 + q.n * 7 + q.k));
  const bool a_signed = is_signed(q.type, Operand::left), b_signed = is_signed(q.type, Operand::right);
  const int64_t size = element_bytes(q.type);
  const Operand2d a(a_signed, size, q.m, q.k, q.a, q.pad, q.batch, rng, q.values),
      b(b_signed, size, q.k, q.n, q.b, q.pad, q.pack ? 1 : q.batch, rng, q.values),
      a2(a_signed, size, q.m, q.k2, q.a, q.pad, 1, rng, q.values),
      b2(b_signed, size, q.k2, q.n, q.b, q.pad, 1, rng, q.values);
  const std::vector<char> pack = q.pack ? packed(q, b) : std::vector<char>{};
  const int64_t ld = q.n + 3;
  std::vector<std::int32_t> c(static_cast<std::size_t>(q.batch * q.m * ld), 0x5a5a5a5a);
  const auto count = static_cast<std::size_t>(q.batch * q.m * q.n);
  Collected got{std::vector<std::uint32_t>(count), std::vector<int>(count), q.m, q.n};
  GemmArgs g;
  g.m = q.m, g.n = q.n, g.type = q.type, g.batch = q.batch, g.c_type = GemmType::i32;
  g.segments[0] = {
      a.ref(), q.pack ? MatrixRef{pack.data(), 0, 0} : b.ref(), q.pack, q.k, a.batch, q.pack ? 0 : b.batch};
  g.segments[1] = {a2.ref(), b2.ref(), false, q.k2, 0, 0};
  g.c = c.data(), g.c_row_stride = ld, g.c_batch = q.m * ld;
  if (q.sink) g.sink = &collect, g.user = &got;
  const GemmTiling t = plan_gemm(g);
  std::vector<char> scratch(t.scratch_bytes + 64, char(0x33));
  for (int64_t job = t.jobs; job-- > 0;) run_gemm_job(g, t, job, scratch.data() + 3, job + 1 < t.jobs ? job + 1 : -1);
  for (std::size_t i = t.scratch_bytes + 3; i < scratch.size(); ++i) ASSERT_EQ(scratch[i], 0x33) << text(q);

  for (int64_t e = 0; e < q.batch; ++e)
    for (int64_t i = 0; i < q.m; ++i) {
      for (int64_t j = 0; j < q.n; ++j) {
        std::uint32_t sum = 0;
        for (int64_t k = 0; k < q.k; ++k) sum += a.at(e, i, k) * b.at(q.pack ? 0 : e, k, j);
        for (int64_t k = 0; k < q.k2; ++k) sum += a2.at(0, i, k) * b2.at(0, k, j);
        const auto at = static_cast<std::size_t>((e * q.m + i) * q.n + j);
        const std::int32_t y = c[static_cast<std::size_t>((e * q.m + i) * ld + j)];
        ASSERT_EQ(q.sink ? got.c[at] : static_cast<std::uint32_t>(y), sum) << text(q) << " at " << i << ", " << j;
        if (q.sink) {
          ASSERT_EQ(got.visits[at], 1) << text(q);
        }
      }
      for (int64_t j = q.n; j < ld; ++j)
        ASSERT_EQ(c[static_cast<std::size_t>((e * q.m + i) * ld + j)], 0x5a5a5a5a) << text(q) << ": outside of C";
    }
}

constexpr GemmType kTypes[] = {GemmType::i8, GemmType::u8, GemmType::i8_u8, GemmType::u8_i8, GemmType::i32};

class IntegersOnIsa : public testing::TestWithParam<std::tuple<GemmIsa, bool>> {
 protected:
  void SetUp() override {
    const auto [isa, dots] = GetParam();
    if (!set_gemm_isa(isa, dots)) GTEST_SKIP() << "not on this CPU";
    const bool vnni = std::string(gemm_isa_name()).ends_with("vnni");
    if (!dots) ASSERT_FALSE(vnni);
    else if (isa != GemmIsa::best && !vnni) GTEST_SKIP() << "no dot products of bytes on this CPU";
  }
  void TearDown() override { set_gemm_isa(GemmIsa::best); }
};

TEST_P(IntegersOnIsa, Shapes) {
  for (const GemmType type : kTypes)
    for (const int64_t m : {1, 2, 13, 14, 15, 33})
      for (const int64_t n : {1, 16, 33, 64, 161})
        for (const int64_t k : {1, 3, 4, 64, 301})
          for (const bool pack : {false, true}) {
            check({.type = type, .m = m, .n = n, .k = k, .pack = pack});
            if (HasFatalFailure()) return;
          }
}

TEST_P(IntegersOnIsa, StridesOfAllKinds) {
  const std::tuple<int64_t, int64_t, int64_t> shapes[] = {{1, 40, 36},  {3, 1, 9},    {6, 130, 20},
                                                          {20, 70, 41}, {40, 37, 33}, {60, 12, 44}};
  for (const GemmType type : kTypes)
    for (int o = 0; o < kOrders * kOrders; ++o)
      for (const auto& [m, n, k] : shapes) {
        Case c{.type = type, .m = m, .n = n, .k = k};
        c.a = static_cast<Order>(o / kOrders), c.b = static_cast<Order>(o % kOrders), c.pad = o % 3;
        c.pack = (o + m + n) % 3 == 0;
        if (o % 2 == m % 2) c.batch = 2, c.k2 = 6, c.sink = true;
        check(c);
        if (HasFatalFailure()) return;
      }
}

TEST_P(IntegersOnIsa, EmptyExtents) {
  for (const GemmType type : kTypes)
    for (const bool pack : {false, true})
      for (const bool sink : {false, true}) {
        check({.type = type, .m = 0, .n = 5, .k = 3, .pack = pack, .sink = sink});
        check({.type = type, .m = 5, .n = 0, .k = 3, .pack = pack, .sink = sink});
        check({.type = type, .m = 5, .n = 37, .k = 0, .pack = pack, .sink = sink});
        check({.type = type, .m = 5, .n = 37, .k = 0, .k2 = 7, .pack = pack, .sink = sink});
        check({.type = type, .m = 5, .n = 37, .k = 4, .batch = 0, .sink = sink});
      }
}

/// Several blocks of K, groups of columns and copies that are kept from job to job.
TEST_P(IntegersOnIsa, EveryBlocking) {
  for (const GemmType type : kTypes)
    for (const bool pack : {false, true}) {
      check({.type = type, .m = 120, .n = 150, .k = 1030, .pack = pack});
      check({.type = type, .m = 45, .n = 100, .k = 4500, .k2 = 8, .a = by_cols, .b = by_cols, .pack = pack});
      check({.type = type, .m = 18, .n = 72, .k = 17000, .pack = pack, .sink = true});
      check({.type = type, .m = 4, .n = 300, .k = 2044, .pack = pack, .sink = true});
      check({.type = type, .m = 250, .n = 20, .k = 700, .a = by_cols, .sink = pack});
      if (HasFatalFailure()) return;
    }
}

/// -128 by -128 and 255 by 255 so often that sums pass 2^31: they wrap and do not saturate.
TEST_P(IntegersOnIsa, SumsWrap) {
  for (const GemmType type : kTypes)
    for (const int64_t k : {33025, 140000}) {
      check({.type = type, .m = 2, .n = 33, .k = k, .values = Values::extremes});
      check({.type = type, .m = 15, .n = 3, .k = k, .b = by_cols, .pack = true, .values = Values::extremes});
    }
}

std::string isa_label(const testing::TestParamInfo<std::tuple<GemmIsa, bool>>& info) {
  const char* names[] = {"best", "portable", "ssse3", "sse4", "avx2", "avx512", "neon"};
  return std::string(names[static_cast<int>(std::get<0>(info.param))]) + (std::get<1>(info.param) ? "_dots" : "");
}

INSTANTIATE_TEST_SUITE_P(Gemm, IntegersOnIsa,
                         testing::Values(std::tuple{GemmIsa::best, true}, std::tuple{GemmIsa::portable, false},
                                         std::tuple{GemmIsa::ssse3, false}, std::tuple{GemmIsa::sse4, false},
                                         std::tuple{GemmIsa::avx2, false}, std::tuple{GemmIsa::avx2, true},
                                         std::tuple{GemmIsa::avx512, false}, std::tuple{GemmIsa::avx512, true},
                                         std::tuple{GemmIsa::neon, false}),
                         isa_label);

}  // namespace
}  // namespace metal_candle::cpu
