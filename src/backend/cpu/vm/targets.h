// Which instruction sets the kernels are compiled for. Include before any Highway header.
//
// x86: AVX-512, AVX2, SSE4 and a scalar fallback for whatever is older; arm64: NEON.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
