// The processor's own instructions, for what Highway 1.0 has no target for. Only where __x86_64__ is defined.
#pragma once

#include <hwy/base.h>

HWY_DIAGNOSTICS(push)  // g++ 12's own header starts from undefined vectors
HWY_DIAGNOSTICS_OFF(disable : 4701, ignored "-Wmaybe-uninitialized")
HWY_DIAGNOSTICS_OFF(disable : 4701, ignored "-Wuninitialized")
#if defined(__x86_64__)
#include <immintrin.h>
#endif
HWY_DIAGNOSTICS(pop)
