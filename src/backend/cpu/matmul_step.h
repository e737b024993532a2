// A matmul step: the product's jobs, and its epilogue on each finished tile.
//
// Where an epilogue cannot run on tiles (it reduces, gathers, or is in f64) the product goes to memory of its own
// first, and the epilogue is a second round.
#pragma once

#include <vector>

#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/matmul_shape.h"
#include "backend/cpu/packed_weight.h"
#include "backend/cpu/program_step.h"

namespace metal_candle::cpu {

/// What an epilogue reads and writes row by row: asked for while the product is being made.
struct FetchedRows {
  int buffer;
  std::int64_t offset, row, element;  // bytes
};

class MatmulCallStep final : public Step {
 public:
  MatmulCallStep(const Plan& plan, const PlanStep& step);

  int rounds() const override { return second_ ? 2 : 1; }
  std::int64_t tasks(int round) const override;
  std::size_t scratch_bytes() const override;
  std::size_t shared_bytes() const override;
  double nanoseconds() const override { return nanoseconds_; }
  bool fallible() const override { return second_ && second_->fallible(); }
  bool binds() const override { return true; }
  void foretell(const Bindings& bindings, PackingForecast& forecast) const override;
  bool bind(const RunFrame& frame) override;
  void run(const RunFrame& frame, int round, std::int64_t task, void* scratch, std::int64_t before) override;
  std::int64_t pieces_to_fetch() const override;
  void fetch(std::int64_t piece) const override;
  std::string take_failure() override { return second_ ? second_->take_failure() : std::string(); }

 private:
  void lower_epilogue(const Plan& plan, const KernelProgram& program);
  void find_fetched(const Plan& plan, const KernelProgram& program);
  bool tile_epilogue(const KernelProgram& program) const;
  void choose_packing(const Plan& plan);
  void place_entries(std::size_t i);
  void plan_product();
  bool find_packed(const RunFrame& frame);
  const char* find_packed(const RunFrame& frame, std::size_t i);
  void run_gemm(const RunFrame& frame, std::int64_t task, char* scratch, std::int64_t before);
  void run_plain(std::int64_t task);
  bool streams() const { return tiling_.streams_b && outer_ == 1; }
  std::int64_t stretch(std::int64_t index) const;
  std::int64_t element() const { return element_bytes(type_); }

  const MatmulStep& step_;
  const DType dtype_;
  const GemmType type_;  // of what is multiplied
  DType product_dtype_;  // what is written: the dtype, or f32 for an epilogue's own round
  MatmulShape shape_;
  bool plain_ = false;  // i64: not the GEMM's
  double nanoseconds_ = 0;

  std::unique_ptr<RowProgram> tile_program_;
  std::vector<FetchedRows> fetched_;
  std::unique_ptr<ProgramStep> second_;
  std::size_t gemm_scratch_ = 0;

  // The product: the innermost batch extent is the GEMM's, the others are walked by tasks.
  GemmArgs args_;
  GemmTiling tiling_;
  std::int64_t outer_ = 1;
  std::int64_t fetch_bytes_ = 0;  // of a weight that is worth fetching before the product begins
  struct Weight {
    int leaf = -1;  // packed if there is one
    Packing packing = Packing::always;
    WeightView view;
    std::vector<std::int64_t> strides;  // per extent, in bytes of the packed form
  } weights_[2];

  // Per run.
  const char* bases_[4] = {};  // of a, b, a2, b2
  const char* packed_[2] = {};
  char* out_ = nullptr;
  std::int64_t threads_ = 1;
};

}  // namespace metal_candle::cpu
