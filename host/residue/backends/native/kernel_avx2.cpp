// The kernel for AVX2.

#if defined(RESIDUE_VERIFY)
#define RESIDUE_AVX2 1
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RESIDUE_AVX2 __builtin_cpu_supports("avx2")
#pragma GCC target("avx2")
#endif

#include "batch.hpp"

namespace residue {

#if defined(RESIDUE_AVX2)
const Kernel kAvx2 = Batch<Avx2>::kernel("avx2", [] { return RESIDUE_AVX2 != 0; });
#else
const Kernel kAvx2{"avx2", [] { return false; }, {}, {}, {}, {}, {}, {}, {}, {}, {}};
#endif

}  // namespace residue
