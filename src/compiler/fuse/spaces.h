// Spaces: how shapes and strides lie in a kernel's rows × columns.
#pragma once

#include <cstdint>
#include <span>

#include "metal_candle/graph.hpp"

namespace metal_candle {

/// Rows and columns of a node that fixes them: reductions, gathers of rows. False for those that fit any split.
bool fixed_space(const ComputationGraph& graph, const GraphNode& node, std::int64_t& rows, std::int64_t& cols);
bool is_column_reduction(const ComputationGraph& graph, const GraphNode& node);
/// How many results a column reduction has in each column: it adds up the rows between two of them.
std::int64_t column_batch(const ComputationGraph& graph, const GraphNode& node);
/// A gather of whole rows.
bool is_take(const GraphNode& node);

/// Whether strides over `shape` walk a dense buffer in order / in order of rows of `cols` elements.
bool walks_elements(const Shape& shape, const Shape& strides);
bool walks_rows(const Shape& shape, const Shape& strides, std::int64_t cols);
/// Whether some run of trailing axes has exactly `cols` elements.
bool columns_cut(const Shape& shape, std::int64_t cols);
/// Whether the axes that make up the columns lie at one stride.
bool uniform_columns(const Shape& shape, const Shape& strides, std::int64_t cols);

/// A view of an iota as counting: whether, for elements `offset` + Σ place·strides of `iota`, the index along its axis is
/// `first` + Σ place·steps. It is not where a stride leads over an end of the axis (a flattened iota starts anew there).
bool iota_steps(const GraphNode& iota, std::int64_t offset, const Shape& shape, const Shape& strides, Shape& steps,
                std::int64_t& first);

/// What a member of a unit iterates over.
struct Space {
  Shape shape;
  bool row = false;  // one value a row: `shape` is the rows alone
  bool operator==(const Space&) const = default;
};
/// Whether the extents of all spaces cut `rows` rows (0: every element is a row) in one chain of factors.
bool cut_in_one_chain(std::span<const Space> a, std::span<const Space> b, std::int64_t rows);

}  // namespace metal_candle
