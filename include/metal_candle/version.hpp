// Which build this is, and which of its kernels run: what results depend on to the bit beside inputs and seeds.
//
//   std::cout << mc::version() << ", " << mc::instruction_set() << '\n';      // 0.1.0, AVX3, products AVX3+bf16+vnni
//
// Any thread may ask.
#pragma once

#include <string>
#include <string_view>

namespace metal_candle {

/// "0.1.0"
std::string_view version();
/// What the kernels of this process are made for, chosen by the processor it runs on.
std::string instruction_set();

}  // namespace metal_candle
