// The matrix products that a piece of work cannot do without, each timed bare at its shape: the ceiling of the whole.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "suite/product.h"
#include "suite/suite.h"
#include "suite/transformer.h"

namespace bench {

struct Needed {
  std::string name;
  Product product;
  double times;  // how often, or what part of it is needed
};

/// Forward and backward of a block whose base weights get no gradient.
std::vector<Needed> products_of(const BlockShape& shape, mc::DType dtype);

struct Bare {
  double own = 0, onednn = 0, better = 0, flops = 0;
};

/// Times each of them, by our own GEMM and by oneDNN, and sums. Adds a row for each to the report.
Bare bare_time(Suite& suite, const std::string& section, const std::vector<Needed>& products);

/// The kernels that took longest in one run of the work, for a note.
std::string longest_kernels(const std::function<void()>& work);

}  // namespace bench
