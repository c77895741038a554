// Vectors of lanes: each lane holds a digit, or a column of digits' products, of its own residue.
//
// A lane type V has
//   kLanes       residues of a vector
//   kMinRadix, kMaxRadix   bits that a digit may have
//   kOperandBits bits of an operand that are multiplied
//   kTerms       products of two digits of kMinRadix bits that a column of 64 bits holds
//   Word         kLanes unsigned 64-bit integers
//   kFused       whether mac adds to two columns
//   Wide         lanes for sums of digits, whose columns may overflow; where kOperandBits has room
//   mac(lo, hi, a, b)   adds a b to columns: all of it to lo, or its 52 low bits to lo and the rest
//                to hi
//   low(a, b)    at least the low kMaxRadix bits of the product of the low digits of a and b
//   transpose(x) word l of x[k] and word k of x[l] change places
// and what goes without saying. Nothing branches, or forms an address, on what is in a lane.

#pragma once

#include <cstddef>
#include <cstdint>

#if defined(RESIDUE_EMULATE_AVX512)
#include "emulated_avx512.hpp"
#elif defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(RESIDUE_VERIFY)
#include "checked.hpp"
#endif

namespace residue {

using u64 = std::uint64_t;

#if defined(RESIDUE_VERIFY)

using Portable = Checked<2, 28, 29, 32, 255, false>;
using Avx2 = Checked<4, 28, 29, 32, 255, false>;
using Avx512Ifma = Checked<8, 52, 52, 52, 2047, true>;

#else

// Two lanes: products of 32-bit halves, digits of 28 or 29 bits.
struct Portable {
  static constexpr std::size_t kLanes = 2;
  static constexpr unsigned kMinRadix = 28, kMaxRadix = 29, kOperandBits = 32;
  static constexpr std::size_t kTerms = 255;
  static constexpr bool kFused = false;
  using Wide = Portable;

#if defined(__SSE2__)
  using Word = __m128i;

  static Word load(const u64* p) { return _mm_loadu_si128(reinterpret_cast<const Word*>(p)); }
  static void store(u64* p, Word x) { _mm_storeu_si128(reinterpret_cast<Word*>(p), x); }
  static Word all(u64 x) { return _mm_set1_epi64x(static_cast<long long>(x)); }
  static Word add(Word a, Word b) { return _mm_add_epi64(a, b); }
  static Word sub(Word a, Word b) { return _mm_sub_epi64(a, b); }
  static Word both(Word a, Word b) { return _mm_and_si128(a, b); }
  static Word either(Word a, Word b) { return _mm_or_si128(a, b); }
  static Word shift_right(Word a, unsigned n) {
    return _mm_srl_epi64(a, _mm_cvtsi32_si128(static_cast<int>(n)));
  }
  static Word low(Word a, Word b) { return _mm_mul_epu32(a, b); }
  static void transpose(Word (&x)[kLanes]) {
    const Word first = x[0];
    x[0] = _mm_unpacklo_epi64(first, x[1]);
    x[1] = _mm_unpackhi_epi64(first, x[1]);
  }
#else
  struct Word {
    u64 lane[kLanes];
  };

  static Word load(const u64* p) { return {{p[0], p[1]}}; }
  static void store(u64* p, Word x) { p[0] = x.lane[0], p[1] = x.lane[1]; }
  static Word all(u64 x) { return {{x, x}}; }
  static Word add(Word a, Word b) { return {{a.lane[0] + b.lane[0], a.lane[1] + b.lane[1]}}; }
  static Word sub(Word a, Word b) { return {{a.lane[0] - b.lane[0], a.lane[1] - b.lane[1]}}; }
  static Word both(Word a, Word b) { return {{a.lane[0] & b.lane[0], a.lane[1] & b.lane[1]}}; }
  static Word either(Word a, Word b) { return {{a.lane[0] | b.lane[0], a.lane[1] | b.lane[1]}}; }
  static Word shift_right(Word a, unsigned n) { return {{a.lane[0] >> n, a.lane[1] >> n}}; }
  static Word low(Word a, Word b) {
    return {{u64{static_cast<std::uint32_t>(a.lane[0])} * static_cast<std::uint32_t>(b.lane[0]),
             u64{static_cast<std::uint32_t>(a.lane[1])} * static_cast<std::uint32_t>(b.lane[1])}};
  }
  static void transpose(Word (&x)[kLanes]) {
    const u64 kept = x[0].lane[1];
    x[0].lane[1] = x[1].lane[0];
    x[1].lane[0] = kept;
  }
#endif
  static void mac(Word& lo, Word&, Word a, Word b) { lo = add(lo, low(a, b)); }
};

#if defined(RESIDUE_AVX2)

// Four lanes, as Portable.
struct Avx2 {
  using Word = __m256i;
  static constexpr std::size_t kLanes = 4;
  static constexpr unsigned kMinRadix = 28, kMaxRadix = 29, kOperandBits = 32;
  static constexpr std::size_t kTerms = 255;
  static constexpr bool kFused = false;
  using Wide = Avx2;

  static Word load(const u64* p) { return _mm256_loadu_si256(reinterpret_cast<const Word*>(p)); }
  static void store(u64* p, Word x) { _mm256_storeu_si256(reinterpret_cast<Word*>(p), x); }
  static Word all(u64 x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  static Word add(Word a, Word b) { return _mm256_add_epi64(a, b); }
  static Word sub(Word a, Word b) { return _mm256_sub_epi64(a, b); }
  static Word both(Word a, Word b) { return _mm256_and_si256(a, b); }
  static Word either(Word a, Word b) { return _mm256_or_si256(a, b); }
  static Word shift_right(Word a, unsigned n) {
    return _mm256_srl_epi64(a, _mm_cvtsi32_si128(static_cast<int>(n)));
  }
  static Word low(Word a, Word b) { return _mm256_mul_epu32(a, b); }
  static void mac(Word& lo, Word&, Word a, Word b) { lo = add(lo, low(a, b)); }
  static void transpose(Word (&x)[kLanes]) {
    const Word a = _mm256_unpacklo_epi64(x[0], x[1]), b = _mm256_unpackhi_epi64(x[0], x[1]);
    const Word c = _mm256_unpacklo_epi64(x[2], x[3]), d = _mm256_unpackhi_epi64(x[2], x[3]);
    x[0] = _mm256_permute2x128_si256(a, c, 0x20);
    x[1] = _mm256_permute2x128_si256(b, d, 0x20);
    x[2] = _mm256_permute2x128_si256(a, c, 0x31);
    x[3] = _mm256_permute2x128_si256(b, d, 0x31);
  }
};

#endif

#if defined(RESIDUE_AVX512IFMA)

// Eight lanes: fused products of 52 bits.
struct Avx512Ifma {
  using Word = __m512i;
  static constexpr std::size_t kLanes = 8;
  static constexpr unsigned kMinRadix = 52, kMaxRadix = 52, kOperandBits = 52;
  static constexpr std::size_t kTerms = 2047;
  static constexpr bool kFused = true;

  static Word load(const u64* p) { return _mm512_loadu_si512(p); }
  static void store(u64* p, Word x) { _mm512_storeu_si512(p, x); }
  static Word all(u64 x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static Word add(Word a, Word b) { return _mm512_add_epi64(a, b); }
  static Word sub(Word a, Word b) { return _mm512_sub_epi64(a, b); }
  static Word both(Word a, Word b) { return _mm512_and_si512(a, b); }
  static Word either(Word a, Word b) { return _mm512_or_si512(a, b); }
  static Word shift_right(Word a, unsigned n) {
    return _mm512_srl_epi64(a, _mm_cvtsi32_si128(static_cast<int>(n)));
  }
  static Word low(Word a, Word b) { return _mm512_madd52lo_epu64(_mm512_setzero_si512(), a, b); }
  static void mac(Word& lo, Word& hi, Word a, Word b) {
    lo = _mm512_madd52lo_epu64(lo, a, b);
    hi = _mm512_madd52hi_epu64(hi, a, b);
  }
  static void transpose(Word (&x)[kLanes]) {
    Word y[kLanes];  // pairs of rows
    for (std::size_t i = 0; i < kLanes; i += 2) {
      y[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
      y[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
    }
    for (std::size_t i = 0; i < 2; ++i) {  // columns of the parity i
      const Word a = _mm512_shuffle_i64x2(y[i], y[i + 2], 0x88);
      const Word b = _mm512_shuffle_i64x2(y[i], y[i + 2], 0xdd);
      const Word c = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0x88);
      const Word d = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0xdd);
      x[i] = _mm512_shuffle_i64x2(a, c, 0x88);
      x[i + 2] = _mm512_shuffle_i64x2(b, d, 0x88);
      x[i + 4] = _mm512_shuffle_i64x2(a, c, 0xdd);
      x[i + 6] = _mm512_shuffle_i64x2(b, d, 0xdd);
    }
  }
};

#endif
#endif  // RESIDUE_VERIFY

}  // namespace residue
