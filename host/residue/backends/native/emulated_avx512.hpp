// The AVX-512 intrinsics that lanes.hpp uses, in plain C++ after Intel's description of each, so
// that the code for AVX512-IFMA runs, slowly, on processors without it.

#pragma once

#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace emulated {

struct Vector {
  std::uint64_t lane[8];
};

template <class F>
Vector each(F f) {
  Vector result;
  for (int i = 0; i < 8; ++i) result.lane[i] = f(i);
  return result;
}

constexpr std::uint64_t kMask52 = (std::uint64_t{1} << 52) - 1;

inline unsigned __int128 product52(const Vector& a, const Vector& b, int i) {
  return static_cast<unsigned __int128>(a.lane[i] & kMask52) * (b.lane[i] & kMask52);
}
inline Vector loadu(const void* p) {
  Vector x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void storeu(void* p, const Vector& x) { std::memcpy(p, &x, sizeof x); }
inline Vector set1(long long x) {
  return each([=](int) { return static_cast<std::uint64_t>(x); });
}
inline Vector add(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vector sub(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vector and_(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline Vector or_(const Vector& a, const Vector& b) {
  return each([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline Vector srl(const Vector& a, __m128i count) {
  const auto n = static_cast<std::uint64_t>(_mm_cvtsi128_si64(count));
  return each([&](int i) { return n > 63 ? 0 : a.lane[i] >> n; });
}
inline Vector madd52lo(const Vector& c, const Vector& a, const Vector& b) {
  return each([&](int i) {
    return c.lane[i] + (static_cast<std::uint64_t>(product52(a, b, i)) & kMask52);
  });
}
inline Vector madd52hi(const Vector& c, const Vector& a, const Vector& b) {
  return each([&](int i) {
    return c.lane[i] + static_cast<std::uint64_t>(product52(a, b, i) >> 52);
  });
}
inline Vector unpacklo(const Vector& a, const Vector& b) {
  return each([&](int i) { return i % 2 ? b.lane[i - 1] : a.lane[i]; });
}
inline Vector unpackhi(const Vector& a, const Vector& b) {
  return each([&](int i) { return i % 2 ? b.lane[i] : a.lane[i + 1]; });
}
inline Vector shuffle_i64x2(const Vector& a, const Vector& b, int control) {
  return each([&](int i) {
    const Vector& from = i < 4 ? a : b;
    return from.lane[2 * (control >> (i / 2 * 2) & 3) + i % 2];
  });
}

}  // namespace emulated

#define __m512i emulated::Vector
#define _mm512_loadu_si512 emulated::loadu
#define _mm512_storeu_si512 emulated::storeu
#define _mm512_set1_epi64 emulated::set1
#define _mm512_setzero_si512() emulated::set1(0)
#define _mm512_add_epi64 emulated::add
#define _mm512_sub_epi64 emulated::sub
#define _mm512_and_si512 emulated::and_
#define _mm512_or_si512 emulated::or_
#define _mm512_srl_epi64 emulated::srl
#define _mm512_madd52lo_epu64 emulated::madd52lo
#define _mm512_madd52hi_epu64 emulated::madd52hi
#define _mm512_unpacklo_epi64 emulated::unpacklo
#define _mm512_unpackhi_epi64 emulated::unpackhi
#define _mm512_shuffle_i64x2 emulated::shuffle_i64x2
