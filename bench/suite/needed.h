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

/// Each of them as a contest of our own GEMM and oneDNN, whose rounds take turns with those of the whole.
class BareProducts {
 public:
  BareProducts(Suite& suite, std::vector<Needed> products);
  /// As many rounds as the options say, of the whole and of each product.
  void run(Contest& whole);

  struct Sum {
    double own = 0, onednn = 0, better = 0, flops = 0;  // seconds, and operations
  };
  Sum sum() const;
  /// How many times as long as the better of each product a contestant of the whole took: the median of the rounds.
  double times(const Contest& whole, const std::string& contestant) const;
  /// Adds a row for each product.
  void report(const std::string& section) const;

 private:
  struct Timed {
    Needed need;
    Contest contest;
    std::string better() const { return contest.fastest(""); }
  };
  Suite& suite_;
  std::vector<Timed> products_;
};

/// The kernels that took longest in one run of the work, for a note.
std::string longest_kernels(const std::function<void()>& work);

}  // namespace bench
