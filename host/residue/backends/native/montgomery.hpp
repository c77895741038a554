// Montgomery products of several residues at a time, one a lane.
//
// A residue x modulo an odd n has K digits of `radix` bits, x = sum_k x_k 2**(radix k), and stands
// for x / R modulo n with R = 2**(radix K) >= 4 n. Operands and results are below 2 n, so that no
// product ends in a comparison: (a b + m n) / R < (4 n n + R n) / R <= 2 n.
//
// Products are made in tiles of kTile x kTile digits whose columns stay in registers; columns carry
// only where m needs their low digits (P. L. Montgomery, Math. Comp. 44, 1985; the order is that of
// separated operand scanning, C. K. Koc et al., IEEE Micro 16(3), 1996, by blocks of digits). A
// column holds at most 2 K products and a carry; see `carries_between`.
//
// Time and addresses depend on K, radix and sizes alone.

#pragma once

#include "lanes.hpp"

namespace residue {

inline constexpr std::size_t kTile = 4;
inline constexpr std::size_t kMaxDigits = 220;  // 6144 bits and two in digits of 28

// Moduli of one vector of lanes, and what depends on them.
template <class V>
struct Lanes {
  std::size_t digits;  // K, a multiple of kTile
  unsigned radix;
  alignas(64) u64 n[kMaxDigits * V::kLanes];  // digit k of lane l at [k * kLanes + l]
  alignas(64) u64 inverse[V::kLanes];         // -1 / n modulo 2**radix
};

// Digits for moduli of some bits: K of `radix` bits, in rows of `row` words in memory.
struct Layout {
  std::size_t digits, row;
  unsigned radix;
};

// The layout with the fewest digits; none if they are more than kMaxDigits.
template <class V>
Layout layout(std::size_t bits) {
  Layout best{};
  for (unsigned radix = V::kMinRadix; radix <= V::kMaxRadix; ++radix) {
    const std::size_t tiles = (bits + 2 + radix * kTile - 1) / (radix * kTile);
    const std::size_t digits = tiles * kTile;
    const std::size_t most = V::kTerms >> 2 * (radix - V::kMinRadix);
    if (digits > most || digits > kMaxDigits) continue;
    if (best.digits == 0 || digits < best.digits) {
      best = {digits, (digits + V::kLanes - 1) / V::kLanes * V::kLanes, radix};
    }
  }
  return best;
}

// Whether columns must carry between product and reduction, as they hold K products only.
template <class V>
bool carries_between(const Lanes<V>& f) {
  return f.radix > V::kMinRadix || 2 * f.digits > V::kTerms;
}

// t[0, kTile (blocks + 1)) += (a[0], ..., a[kTile-1]) times b[0, kTile blocks).
// The columns that two tiles share stay in registers.
template <class V>
inline __attribute__((always_inline)) void row(u64* t, const typename V::Word (&a)[kTile],
                                               const u64* b, std::size_t blocks) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  Word c[2 * kTile];
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kTile; ++k) c[k] = V::load(t + k * L);
  for (std::size_t block = 0; block < blocks; ++block, t += kTile * L, b += kTile * L) {
#pragma GCC unroll 16
    for (std::size_t k = kTile; k < 2 * kTile; ++k) c[k] = V::load(t + k * L);
#pragma GCC unroll 16
    for (std::size_t j = 0; j < kTile; ++j) {
      const Word y = V::load(b + j * L);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < kTile; ++i) V::mac(c[i + j], c[i + j + 1], a[i], y);
    }
#pragma GCC unroll 16
    for (std::size_t k = 0; k < kTile; ++k) V::store(t + k * L, c[k]);
#pragma GCC unroll 16
    for (std::size_t k = 0; k < kTile; ++k) c[k] = c[k + kTile];
  }
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kTile; ++k) V::store(t + k * L, c[k]);
}

template <class V>
inline __attribute__((always_inline)) void load_tile(typename V::Word (&a)[kTile], const u64* p) {
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kTile; ++i) a[i] = V::load(p + i * V::kLanes);
}

// Columns t[0, 2 K) to digits.
template <class V>
void carry_columns(const Lanes<V>& f, u64* t) {
  constexpr std::size_t L = V::kLanes;
  const auto mask = V::all((u64{1} << f.radix) - 1);
  auto carry = V::all(0);
  for (std::size_t k = 0; k < 2 * f.digits; ++k) {
    const auto x = V::add(V::load(t + k * L), carry);
    V::store(t + k * L, V::both(x, mask));
    carry = V::shift_right(x, f.radix);
  }
}

// out = t / R modulo n, below 2 n, for columns t < 4 n n; at most n for t < R. Destroys t.
template <class V>
void reduce(const Lanes<V>& f, u64* t, u64* out) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  const Word mask = V::all((u64{1} << f.radix) - 1);
  const Word inverse = V::load(f.inverse);
  Word carry = V::all(0);
  for (std::size_t k = 0; k < K; k += kTile) {
    Word m[kTile], c[2 * kTile];
    u64* column = t + k * L;
#pragma GCC unroll 16
    for (std::size_t i = 0; i < 2 * kTile; ++i) c[i] = V::load(column + i * L);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kTile; ++i) {
      c[i] = V::add(c[i], carry);
      m[i] = V::both(V::low(c[i], inverse), mask);
#pragma GCC unroll 16
      for (std::size_t j = 0; j < kTile; ++j) {
        V::mac(c[i + j], c[i + j + 1], m[i], V::load(f.n + j * L));
      }
      carry = V::shift_right(c[i], f.radix);
    }
#pragma GCC unroll 16
    for (std::size_t i = kTile; i < 2 * kTile; ++i) V::store(column + i * L, c[i]);
    row<V>(column + kTile * L, m, f.n + kTile * L, K / kTile - 1);
  }
  for (std::size_t k = 0; k < K; ++k) {
    const Word x = V::add(V::load(t + (K + k) * L), carry);
    V::store(out + k * L, V::both(x, mask));
    carry = V::shift_right(x, f.radix);
  }
}

// out = a b / R modulo n.
template <class V>
void multiply(const Lanes<V>& f, const u64* a, const u64* b, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[2 * kMaxDigits * L];
  for (std::size_t k = 0; k < 2 * K; ++k) V::store(t + k * L, V::all(0));
  for (std::size_t i = 0; i < K; i += kTile) {
    typename V::Word x[kTile];
    load_tile<V>(x, a + i * L);
    row<V>(t + i * L, x, b, K / kTile);
  }
  if (carries_between(f)) carry_columns(f, t);
  reduce(f, t, out);
}

// out = a a / R modulo n: half the tiles of the product.
template <class V>
void square(const Lanes<V>& f, const u64* a, u64* out) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[2 * kMaxDigits * L];
  for (std::size_t k = 0; k < 2 * K; ++k) V::store(t + k * L, V::all(0));
  for (std::size_t i = 0; i + kTile < K; i += kTile) {
    Word x[kTile];
    load_tile<V>(x, a + i * L);
    row<V>(t + (2 * i + kTile) * L, x, a + (i + kTile) * L, (K - i) / kTile - 1);
  }
  for (std::size_t k = 0; k < 2 * K; ++k) {
    const Word x = V::load(t + k * L);
    V::store(t + k * L, V::add(x, x));
  }
  for (std::size_t i = 0; i < K; i += kTile) {
    Word x[kTile];
    load_tile<V>(x, a + i * L);
    row<V>(t + 2 * i * L, x, a + i * L, 1);
  }
  if (carries_between(f)) carry_columns(f, t);
  reduce(f, t, out);
}

// out = a / R modulo n, below n.
template <class V>
void leave(const Lanes<V>& f, const u64* a, u64* out) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[2 * kMaxDigits * L];
  for (std::size_t k = 0; k < K; ++k) {
    V::store(t + k * L, V::load(a + k * L));
    V::store(t + (K + k) * L, V::all(0));
  }
  reduce(f, t, out);
  const Word mask = V::all((u64{1} << f.radix) - 1);
  Word borrow = V::all(0);
  for (std::size_t k = 0; k < K; ++k) {
    const Word x = V::sub(V::sub(V::load(out + k * L), V::load(f.n + k * L)), borrow);
    V::store(t + k * L, V::both(x, mask));
    borrow = V::shift_right(x, 63);
  }
  const Word keep = V::sub(V::all(0), borrow);  // all ones where out < n
  const Word drop = V::sub(borrow, V::all(1));
  for (std::size_t k = 0; k < K; ++k) {
    V::store(out + k * L, V::either(V::both(V::load(out + k * L), keep),
                                    V::both(V::load(t + k * L), drop)));
  }
}

}  // namespace residue
