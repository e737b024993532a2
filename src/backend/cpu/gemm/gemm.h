// Matrix products on the CPU: C[m,n] = A[m,k]·B[k,n] (+ A2·B2), cut in jobs that any number of threads may run.
//
// The promise everything here serves: an element of C is ONE chain of fused multiply-adds over k = 0..K-1, started at
// zero and rounded once a step. Vector lanes run over n (or over m, which is the same chain), never over k. So a row's
// bits do not depend on how many rows, columns, jobs or threads there are, on blocking (a K block starts from the f32
// value the block before it left), or on which side was packed; a GEMV is a GEMM with m = 1. In bf16 on CPUs with
// vdpbf16ps the chain runs over pairs of k, two products a step; elsewhere bf16 and f16 are widened to f32 exactly.
// Sums of integers are modulo 2^32, so their order is of no meaning: bytes go by fours where there is vpdpbusd and by
// pairs of 16 bits elsewhere.
//
// A product is planned (a pure function of shapes and strides), then its jobs run in any order on any thread:
//
//   GemmTiling t = plan_gemm(args);                        // addresses in args may still be missing here
//   parallel_for(t.jobs, [&](job) { run_gemm_job(args, t, job, scratch_of_this_thread); });  // t.scratch_bytes each
//
// Nothing here allocates, locks or starts a thread. Pointers need no alignment; scratch and packed buffers run best at
// 64 bytes. Any stride works for inputs; which ones are fast is said at MatrixRef.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_candle::cpu {

enum class GemmType : std::uint8_t { f32, bf16, f16, f64, i32, i8, u8, i8_u8, u8_i8 };  // the last: A's type, B's

struct GemmShape {
  std::int64_t m = 0, n = 0, k = 0;
  GemmType type = GemmType::f32;  // of A and B; for sums see sum_type
};

/// f64 for f64, i32 for integers, else f32.
GemmType sum_type(GemmType type);

/// A matrix somewhere, strides in elements. An operand is cheap when one of its strides is 1: A by rows or transposed,
/// B by rows or transposed. Anything else is gathered, right but slow.
struct MatrixRef {
  const void* data = nullptr;
  std::int64_t row_stride = 0, col_stride = 1;
};

// --- A constant B, packed once -------------------------------------------------------------------------------------
// Panels of vector width × 2 columns, k-major, zero padded. The layout belongs to this process: it depends on the ISA.

std::size_t packed_b_bytes(const GemmShape& shape);  // m is not read
std::int64_t packed_b_panels(const GemmShape& shape);
/// Packs panels [panel_begin, panel_end); calls for distinct panels may run in parallel.
void pack_b(const GemmShape& shape, MatrixRef b, void* packed, std::int64_t panel_begin, std::int64_t panel_end);

// The same panels squeezed: every bit of them in three quarters of the bytes, for a B that is read from memory again and
// again. Not for every shape and type, nor for every B.

bool squeezes_b(const GemmShape& shape);
std::size_t squeezed_b_bytes(const GemmShape& shape);
/// As pack_b; `scratch` holds a packed panel (packed_b_bytes / packed_b_panels). False: B has too many values that are
/// unlike their neighbours, and what was written is of no use.
bool squeeze_b(const GemmShape& shape, MatrixRef b, void* squeezed, std::int64_t panel_begin, std::int64_t panel_end,
               void* scratch);

// --- The product ---------------------------------------------------------------------------------------------------

/// One range of K. Segments accumulate in order into the same chain, so a LoRA term (A2 = s·x·A [m,r], B2 = B [r,n])
/// costs r/K of the product and no pass over C.
struct GemmSegment {
  MatrixRef a, b;
  bool b_packed = false;  // b.data is what pack_b made for {n, k, type}; b's strides are ignored
  std::int64_t k = 0;
  std::int64_t a_batch = 0,
               b_batch = 0;  // elements from one batch entry to the next, 0 = shared (b_batch: bytes if packed)
  bool b_squeezed = false;   // with b_packed: b.data is what squeeze_b made
};

/// A finished piece of C: rows × cols sums, still in cache.
struct GemmTile {
  std::int64_t batch, row0, rows, col0, cols;
  const void* data;
  std::int64_t ld;  // elements
};
/// Called by run_gemm_job, once for each piece; pieces of one product are disjoint and cover C.
using GemmSink = void (*)(void* user, const GemmTile& tile);
/// Called while the sums of a piece, or of a part of one, are about to be computed (there is no data yet): time to ask
/// for the memory that the sink will touch.
using GemmFetch = void (*)(void* user, const GemmTile& tile);

struct GemmArgs {
  std::int64_t m = 0, n = 0;
  GemmType type = GemmType::f32;
  GemmSegment segments[2];  // the second has k = 0 when there is none
  std::int64_t batch = 1;   // a shared B with a dense A is better folded into m by the caller
  // Without a sink, C is written as c_type, rounded to nearest even; sums of integers as they are. Its columns are
  // contiguous.
  void* c = nullptr;
  GemmType c_type = GemmType::f32;
  std::int64_t c_row_stride = 0, c_batch = 0;
  GemmSink sink = nullptr;
  GemmFetch fetch = nullptr;  // only with a sink
  void* user = nullptr;
};

struct KernelSet;

/// How a product is cut. Plain data; `jobs` and `scratch_bytes` are for the caller.
struct GemmTiling {
  std::int64_t jobs = 0;
  std::size_t scratch_bytes = 0;  // for each running thread

  enum class Side : std::uint8_t { direct, rows, panels };  // read in place; copied by rows; copied k-major
  const KernelSet* kernels = nullptr;
  bool swapped = false;  // computes Cᵀ = Bᵀ·Aᵀ: the vector lanes run over m. The fields below speak of Cᵀ then
  bool direct_c = false;    // kernels write C itself
  bool streams_b = false;   // B is packed, and its memory is read once
  bool joined = false;      // both segments in one kernel call
  bool whole_c = false;     // C scratch holds a whole tile (more than one K block), not just one group of columns
  bool whole_b = false;     // B is packed for the whole width of the tile at once
  bool in_rows = false;     // kernels read two rows of B a step and pair them
  bool rows_outer = false;  // row tiles in the outer loop, panels in the inner one
  bool gathers_a = false;   // A is copied for its rows' distance alone; a thread stays with a block of rows
  bool holds_a = false;     // scratch has all of A's copy when a tile is done,
  bool holds_b = false;     // and all of B's,
  bool spread_b = false;    // groups of columns side by side
  bool offset_b = false;    // B's bytes are 128 off: see PackKind::quads_off
  Side a_side[2] = {}, b_side[2] = {};          // one per segment; b_side is of no meaning for a packed B
  int width = 0;                                // log2 of the vectors side by side in a kernel
  std::int64_t row_tile = 0;                    // rows a kernel call takes at most
  std::int64_t block_rows = 0, block_cols = 0;  // a tile of C
  std::int64_t row_blocks = 0, col_blocks = 0, tiles_per_job = 1;
  std::int64_t block_steps = 0;  // k steps a block
  std::int64_t steps_ahead = 0;  // from what a kernel reads of B to what it asks for
  std::size_t b_scratch = 0, c_scratch = 0, t_scratch = 0, less_scratch = 0;  // behind A's
  std::size_t a_second = 0, b_second = 0;  // the second segment's copies, behind the first one's
};

GemmTiling plan_gemm(const GemmArgs& args);
/// `before`: the job of this very product that was the last to use this scratch, or -1. What it copied and this one reads
/// too is not copied again.
void run_gemm_job(const GemmArgs& args, const GemmTiling& tiling, std::int64_t job, void* scratch,
                  std::int64_t before = -1);

// --- Instruction sets ----------------------------------------------------------------------------------------------

enum class GemmIsa : std::uint8_t { best, portable, ssse3, sse4, avx2, avx512, neon };
/// For tests: restricts what is used from now on, in this process. False if this CPU lacks it. Packed buffers and
/// tilings made before are void. Not to be called while products run.
bool set_gemm_isa(GemmIsa isa, bool dots = true);  // dots: dot products of bf16 pairs and of bytes, where there are any
/// "AVX3+bf16+vnni", ...
const char* gemm_isa_name();

}  // namespace metal_candle::cpu
