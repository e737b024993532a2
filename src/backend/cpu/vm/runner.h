// One walk through a body: the block at hand, where its operands are, and the stage and column it has come to. Two of
// them with scratch memory of their own take turns where a program's stages are to overlap.
#pragma once

#include <cstring>

#include "hwy/cache_control.h"

#include "backend/cpu/vm/body.h"

namespace metal_candle::cpu::vm {

/// What is read after this block, cache line by cache line, shared out among the instructions that come before. Where a
/// kernel walks along one row it fetches its share on the way; for blocks of several rows `some` does.
class Fetch {
 public:
  void clear() { at_ = arrays_ = 0; }
  void add(const char* first, std::int64_t step, std::int64_t stride) {
    if (arrays_ < kMost) p_[arrays_++] = {first, step, stride};
  }
  /// Columns [0, cols) of that many rows, while `calls` instructions run over a piece each.
  void spread(std::int64_t cols, int rows, std::int64_t calls, int piece) {
    rows_ = rows;
    at_ = done_ = 0;
    std::int64_t bytes = 0;
    for (int i = 0; i < arrays_; ++i) bytes += cols * p_[i].step;
    cols_ = cols;
    const std::int64_t vectors = calls * piece / kLanes;
    step_ = std::min<std::int64_t>(64, (bytes + vectors * 8 - 1) / (vectors * 8) * 8);
    each_ = (cols + calls * kLanes - 1) / (calls * kLanes) * kLanes;
  }
  bool empty() const { return arrays_ == 0; }
  /// Before an instruction runs over f.
  HWY_INLINE void some(Frame& f) {
    if (f.rows == 1) {
      if (at_ == arrays_) {
        f.ahead_step = 0;
        return;
      }
      const Array& a = p_[at_];
      f.ahead = a.first + done_;
      f.ahead_step = step_;
      done_ += f.cols / kLanes * step_;
      if (done_ >= cols_ * a.step) ++at_, done_ = 0;
    } else {
      lines(f);
    }
  }

 private:
  // Inline: g++ 12 takes a function that only prefetches for one without effect, and drops its calls.
  HWY_INLINE void lines(Frame& f) {
    f.ahead_step = 0;
    const std::int64_t end = std::min(done_ + each_, cols_);
    for (int i = 0; i < arrays_ && done_ < end; ++i) {
      const char* p = p_[i].first;
      for (int r = 0; r < rows_; ++r, p += p_[i].stride)
        for (std::int64_t b = done_ * p_[i].step; b < end * p_[i].step; b += 64) __builtin_prefetch(p + b, 0, 3);
    }
    done_ = end;
  }

  static constexpr int kMost = 4;
  struct Array {
    const char* first;
    std::int64_t step, stride;  // bytes between columns, between rows
  } p_[kMost];
  int arrays_ = 0, rows_ = 0, at_ = 0;  // at_: the array at hand
  std::int64_t cols_ = 0, each_ = 0;    // columns in all, with each call
  std::int64_t step_ = 0, done_ = 0;    // bytes a vector; bytes of the array at hand, or columns of all
};

class Runner {
 public:
  /// `scratch` is aligned to a cache line and has b.scratch bytes.
  Runner(const Body& body, void* const* buffers, const std::uint64_t* slots, char* scratch,
         std::atomic<int>* index_error)
      : b_(body), scratch_(scratch) {
    bases_ = reinterpret_cast<Base*>(scratch_);
    origins_ = reinterpret_cast<char**>(bases_ + b_.moving.size() + 1);
    bases_[0] = {scratch_, 0};
    f_.bases = bases_;
    f_.buffers = buffers;
    f_.index_error = index_error;
    f_.row_pitch = b_.pitch;
    if (!b_.constants.empty()) std::memcpy(scratch_ + b_.constants_offset, b_.constants.data(), b_.constants.size());
    for (const SlotUse& use : b_.slots) put_slot(use, slots[use.slot]);
    f_.rows = f_.cols = 1;
    f_.row0 = f_.col0 = 0;
    f_.ahead = scratch_;
    execute(b_.init);
  }

  /// Where the tile would begin, were it a whole result: element (0, 0).
  void set_tile(const float* tile, std::int64_t ld, std::int64_t row0, std::int64_t col0) {
    tile_ = reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(tile) -
                                    static_cast<std::uintptr_t>((row0 * ld + col0) * 4));
    tile_row_ = ld * 4;
  }

  /// Takes up a block: rows [row, row + n) × columns [c0, c1).
  void open(std::int64_t row, int n, std::int64_t c0, std::int64_t c1) {
    f_.row0 = row;
    for (int d = b_.dims - 1; d >= 0; --d) {
      index_[d] = row % b_.extents[d];
      row /= b_.extents[d];
    }
    rows_ = n;
    c0_ = c0;
    c1_ = c1;
    stage_ = 0;
    enter();
  }
  int stage() const { return stage_; }
  bool done() const { return stage_ == static_cast<int>(b_.stages.size()); }

  /// The next columns of the stage at hand. A stage over no columns has a piece, too: its reductions have values.
  void piece(Fetch& fetch) {
    const StageCode& stage = b_.stages[static_cast<std::size_t>(stage_)];
    f_.col0 = col_;
    f_.cols = static_cast<int>(std::min<std::int64_t>(b_.piece_cols, end_ - col_));
    for (int i = stage.moving.begin; i < stage.moving.end; ++i)
      bases_[1 + i].ptr = origins_[i] + col_ * b_.moving[i].step;
    if (tile_ != nullptr) fetch_next_tile(stage);
    if (fetch.empty()) {
      f_.ahead_step = 0;
      execute(stage.loop);
    } else {
      const Instr* end = b_.code.data() + stage.loop.end;
      for (const Instr* i = b_.code.data() + stage.loop.begin; i != end; ++i) {
        fetch.some(f_);
        i->fn(*i, f_);
      }
    }
    col_ += b_.piece_cols;
    if (col_ < end_) return;
    leave();
    enter();
  }

  /// What the first stage reads of the `rows` rows after this block. The block has just been opened.
  void fetch_rows(Fetch& fetch, std::int64_t rows, std::int64_t cols, std::int64_t calls) const {
    fetch.clear();
    if (rows <= 0) return;
    for (int i : b_.ahead)
      fetch.add(origins_[i] + rows_ * bases_[1 + i].stride, b_.moving[i].step, bases_[1 + i].stride);
    fetch.spread(cols, static_cast<int>(rows), calls, b_.piece_cols);
  }
  /// The columns of this block's first stage from where it is now, less one block of columns.
  void fetch_columns(Fetch& fetch) const {
    fetch.clear();
    const std::int64_t from = col_ + b_.block_cols, to = std::min(from + b_.block_cols, end_);
    if (stage_ != 0 || from >= to) return;
    for (int i : b_.ahead) fetch.add(origins_[i] + from * b_.moving[i].step, b_.moving[i].step, bases_[1 + i].stride);
    fetch.spread(to - from, rows_, b_.block_calls, b_.piece_cols);
  }
  bool at_block() const { return (col_ - c0_) % b_.block_cols == 0; }

  char* scratch() const { return scratch_; }

 private:
  void put_slot(const SlotUse& use, std::uint64_t bits) {
    char* to = scratch_ + use.offset;
    double real;
    std::memcpy(&real, &bits, 8);
    const float single = static_cast<float>(real);
    const auto narrow = static_cast<std::int32_t>(static_cast<std::int64_t>(bits));
    switch (use.type) {
      case RegType::f32: std::memcpy(to, &single, 4); break;
      case RegType::f64:
      case RegType::i64: std::memcpy(to, &bits, 8); break;
      case RegType::i32: std::memcpy(to, &narrow, 4); break;
    }
  }

  void execute(Range range) {
    const Instr* end = b_.code.data() + range.end;
    for (const Instr* i = b_.code.data() + range.begin; i != end; ++i) i->fn(*i, f_);
  }

  void execute_rows(Range range, int rows) {
    if (range.begin == range.end) return;
    f_.rows = 1;
    f_.cols = rows;
    f_.ahead_step = 0;
    execute(range);
  }

  /// To the next stage that walks along columns.
  void enter() {
    for (; !done(); ++stage_) {
      const StageCode& stage = b_.stages[static_cast<std::size_t>(stage_)];
      end_ = std::min(stage.cols, c1_);
      f_.col0 = col_ = c0_;
      f_.stage_cols = stage.cols;
      execute_rows(stage.pre, rows_);
      place(stage);
      f_.rows = rows_;
      if (stage.loop.begin != stage.loop.end) return;
      if (c0_ == 0) execute_rows(stage.post, rows_);
    }
  }
  void leave() {
    if (c0_ == 0) execute_rows(b_.stages[static_cast<std::size_t>(stage_)].post, rows_);
    ++stage_;
  }

  /// Tiles of the same rows mostly follow one another along the columns.
  HWY_INLINE void fetch_next_tile(const StageCode& stage) {
    const std::int64_t begin = col_ + f_.cols, end = std::min(begin + f_.cols, stage.cols);
    for (int i : b_.ahead) {
      const Moving& m = b_.moving[i];
      const char* p = origins_[i];
      for (int r = 0; r < rows_; ++r, p += bases_[1 + i].stride)
        for (std::int64_t at = begin * m.step; at < end * m.step; at += 64) __builtin_prefetch(p + at, 0, 2);
    }
  }

  /// The operands of a stage at the block's first row and column 0.
  void place(const StageCode& stage) {
    for (int i = stage.moving.begin; i < stage.moving.end; ++i) {
      const Moving& m = b_.moving[i];
      char*& origin = origins_[i];
      if (!m.access) {
        origin = scratch_ + m.offset;
        bases_[1 + i].stride = m.stride;
        continue;
      }
      const Access& a = *m.access;
      if (tile_ != nullptr && a.buffer == b_.tile_buffer) {
        origin = tile_ + f_.row0 * tile_row_;
        bases_[1 + i].stride = tile_row_;
        continue;
      }
      std::int64_t at = a.offset;
      for (int d = 0; d < a.dims; ++d) at += index_[d] * a.strides[d];
      origin = static_cast<char*>(f_.buffers[a.buffer]) + at * a.size;
      bases_[1 + i].stride = a.dims ? a.strides[a.dims - 1] * a.size : 0;
    }
  }

  const Body& b_;
  char* scratch_;
  Base* bases_;
  char** origins_;
  Frame f_{};
  std::int64_t index_[kMaxDims];
  int rows_ = 0, stage_ = 0;                          // of the block; the stage it has come to
  std::int64_t c0_ = 0, c1_ = 0, col_ = 0, end_ = 0;  // columns of the block, of the stage's next piece
  char* tile_ = nullptr;
  std::int64_t tile_row_ = 0;  // bytes
};

}  // namespace metal_candle::cpu::vm
