// The kernel for AVX512-IFMA.

#if defined(RESIDUE_VERIFY) || defined(RESIDUE_EMULATE_AVX512)
#define RESIDUE_AVX512IFMA 1
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RESIDUE_AVX512IFMA \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma"))
#pragma GCC target("avx512f,avx512ifma")
#endif

#include "batch.hpp"

namespace residue {

#if defined(RESIDUE_AVX512IFMA)
const Kernel kAvx512Ifma =
    Batch<Avx512Ifma>::kernel("avx512ifma", [] { return RESIDUE_AVX512IFMA != 0; });
#else
const Kernel kAvx512Ifma{"avx512ifma", [] { return false; }, {}, {}, {}, {}, {}, {}, {}, {}, {}};
#endif

}  // namespace residue
