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

// Digits from which on an operand is split into halves.
inline constexpr std::size_t kLeastProduct = 64, kLeastSquare = 100, kLeastCancel = 200;
inline constexpr std::size_t kMaxHalf = (kMaxDigits / kTile + 1) / 2 * kTile;

// Whether lanes multiply twice a sum of four digits, what two splits and a squaring need. Layouts of
// more than kMinRadix bits a digit have too few digits to be split.
template <class V>
inline constexpr bool kHalves = V::kMinRadix + 3 <= V::kOperandBits;
static_assert((kMaxDigits + 4 * kTile) / 4 < kLeastProduct);

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
// The columns that a digit of b shares with the next one stay in registers.
template <class V>
inline __attribute__((always_inline)) void row(u64* t, const typename V::Word (&a)[kTile],
                                               const u64* b, std::size_t blocks) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  constexpr std::size_t kShared = V::kFused ? kTile : kTile - 1;
  Word c[kTile + 1];
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kShared; ++k) c[k] = V::load(t + k * L);
  for (std::size_t block = 0; block < blocks; ++block, t += kTile * L, b += kTile * L) {
#pragma GCC unroll 16
    for (std::size_t j = 0; j < kTile; ++j) {
      const Word y = V::load(b + j * L);
      c[kShared] = V::load(t + (j + kShared) * L);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < kTile; ++i) V::mac(c[i], c[i + 1], a[i], y);
      V::store(t + j * L, c[0]);
#pragma GCC unroll 16
      for (std::size_t k = 0; k < kShared; ++k) c[k] = c[k + 1];
    }
  }
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kShared; ++k) V::store(t + k * L, c[k]);
}

template <class V>
inline __attribute__((always_inline)) void load_tile(typename V::Word (&a)[kTile], const u64* p) {
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kTile; ++i) a[i] = V::load(p + i * V::kLanes);
}

// t[0, 2 size) = the columns of a b, by 4 x 4 tiles or, for long operands, by Karatsuba: three
// products of half the size, the third one of sums a_i + a_(h+i) of digits. Those do not carry, so
// that each column of (a_0 + a_1)(b_0 + b_1) - a_0 b_0 - a_1 b_1 is the sum of digits' products
// that the tiles would have given: it is right modulo 2**64 whatever the first term overflows, and
// columns keep their bound. `Wide` lanes take sums for digits.
template <class V>
void product(const u64* a, const u64* b, std::size_t size, u64* t);

// As `product` of a and a: half the tiles.
template <class V>
void square_columns(const u64* a, std::size_t size, u64* t);

// out[0, size) = a[0, size) + b[0, count), by words.
template <class V>
inline void add_words(const u64* a, const u64* b, std::size_t size, std::size_t count, u64* out) {
  constexpr std::size_t L = V::kLanes;
  for (std::size_t k = 0; k < count; ++k) {
    V::store(out + k * L, V::add(V::load(a + k * L), V::load(b + k * L)));
  }
  for (std::size_t k = count; k < size; ++k) V::store(out + k * L, V::load(a + k * L));
}

// t[h, size + h) += s - low - high, where low = t[0, 2 h), high = t[2 h, 2 size).
template <class V>
void add_middle(u64* t, const u64* s, std::size_t h, std::size_t size) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  u64 *upper = t + h * L, *high = t + 2 * h * L;
  const std::size_t g = size - h;
  const auto middle = [&](std::size_t k, Word top) {
    const Word b = V::load(upper + k * L), c = V::load(high + k * L);
    const Word low = V::add(V::load(t + k * L), c), above = V::add(b, top);
    V::store(upper + k * L, V::sub(V::add(b, V::load(s + k * L)), low));
    V::store(high + k * L, V::sub(V::add(c, V::load(s + (h + k) * L)), above));
  };
  for (std::size_t k = 0; k < 2 * g - h; ++k) middle(k, V::load(high + (h + k) * L));
  for (std::size_t k = 2 * g - h; k < h; ++k) middle(k, V::all(0));
}

template <class V>
inline __attribute__((always_inline)) void product_tiles(const u64* a, const u64* b,
                                                         std::size_t size, u64* t) {
  constexpr std::size_t L = V::kLanes;
  for (std::size_t k = 0; k < 2 * size; ++k) V::store(t + k * L, V::all(0));
  for (std::size_t i = 0; i < size; i += kTile) {
    typename V::Word x[kTile];
    load_tile<V>(x, a + i * L);
    row<V>(t + i * L, x, b, size / kTile);
  }
}

template <class V>
void product(const u64* a, const u64* b, std::size_t size, u64* t) {
  constexpr std::size_t L = V::kLanes;
  if constexpr (kHalves<V>) {
    if (size >= kLeastProduct) {
      using Wide = typename V::Wide;
      const std::size_t h = (size / kTile + 1) / 2 * kTile;
      alignas(64) u64 x[kMaxHalf * L], y[kMaxHalf * L], s[2 * kMaxHalf * L];
      add_words<Wide>(a, a + h * L, h, size - h, x);
      add_words<Wide>(b, b + h * L, h, size - h, y);
      product<Wide>(x, y, h, s);
      product<V>(a, b, h, t);
      product<V>(a + h * L, b + h * L, size - h, t + 2 * h * L);
      add_middle<Wide>(t, s, h, size);
      return;
    }
  }
  product_tiles<V>(a, b, size, t);
}

template <class V>
void square_columns(const u64* a, std::size_t size, u64* t) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  if constexpr (kHalves<V>) {
    if (size >= kLeastSquare) {
      using Wide = typename V::Wide;
      const std::size_t h = (size / kTile + 1) / 2 * kTile;
      alignas(64) u64 x[kMaxHalf * L], s[2 * kMaxHalf * L];
      add_words<Wide>(a, a + h * L, h, size - h, x);
      square_columns<Wide>(x, h, s);
      square_columns<V>(a, h, t);
      square_columns<V>(a + h * L, size - h, t + 2 * h * L);
      add_middle<Wide>(t, s, h, size);
      return;
    }
  }
  for (std::size_t k = 0; k < 2 * size; ++k) V::store(t + k * L, V::all(0));
  if constexpr (!kHalves<V>) {  // twice a digit is too much: double the columns
    for (std::size_t i = 0; i + kTile < size; i += kTile) {
      Word x[kTile];
      load_tile<V>(x, a + i * L);
      row<V>(t + (2 * i + kTile) * L, x, a + (i + kTile) * L, (size - i) / kTile - 1);
    }
    for (std::size_t k = 0; k < 2 * size; ++k) {
      const Word x = V::load(t + k * L);
      V::store(t + k * L, V::add(x, x));
    }
    for (std::size_t i = 0; i < size; i += kTile) {
      Word x[kTile];
      load_tile<V>(x, a + i * L);
      row<V>(t + 2 * i * L, x, a + i * L, 1);
    }
  } else {
    for (std::size_t i = 0; i < size; i += kTile) {
      Word x[kTile];
      load_tile<V>(x, a + i * L);
      u64* column = t + 2 * i * L;
      Word c[2 * kTile];
#pragma GCC unroll 16
      for (std::size_t k = 0; k < 2 * kTile; ++k) c[k] = V::load(column + k * L);
#pragma GCC unroll 16
      for (std::size_t j = 0; j < kTile; ++j) {
        V::mac(c[2 * j], c[2 * j + 1], x[j], x[j]);
        x[j] = V::add(x[j], x[j]);
#pragma GCC unroll 16
        for (std::size_t k = j + 1; k < kTile; ++k) V::mac(c[j + k], c[j + k + 1], x[j], x[k]);
      }
#pragma GCC unroll 16
      for (std::size_t k = 0; k < 2 * kTile; ++k) V::store(column + k * L, c[k]);
      row<V>(column + kTile * L, x, a + (i + kTile) * L, (size - i) / kTile - 1);
    }
  }
}

// Columns t[0, 2 K) with what is above their low digit added to the next: room for K products.
template <class V>
void carry_columns(const Lanes<V>& f, u64* t) {
  constexpr std::size_t L = V::kLanes;
  const auto mask = V::all((u64{1} << f.radix) - 1);
  auto carry = V::all(0);
  for (std::size_t k = 0; k < 2 * f.digits; ++k) {
    const auto x = V::load(t + k * L);
    V::store(t + k * L, V::add(V::both(x, mask), carry));
    carry = V::shift_right(x, f.radix);
  }
}

// Makes t[0, size) divisible by adding a multiple m of n[0, size), m's digits to m; the carry goes
// to column `size`.
template <class V>
void cancel(const Lanes<V>& f, std::size_t size, u64* m, u64* t) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  if constexpr (kHalves<V>) {
    if (size >= kLeastCancel) {
      const std::size_t h = (size / kTile + 1) / 2 * kTile, g = size - h;
      alignas(64) u64 p[2 * kMaxHalf * L];
      cancel<V>(f, h, m, t);
      product<V>(m, f.n + h * L, g, p);  // g is h, or a tile less
      add_words<V>(t + h * L, p, 2 * g, 2 * g, t + h * L);
      for (std::size_t i = g; i < h; i += kTile) {
        Word x[kTile];
        load_tile<V>(x, m + i * L);
        row<V>(t + (h + i) * L, x, f.n + h * L, g / kTile);
      }
      cancel<V>(f, g, m + h * L, t + h * L);
      product<V>(m + h * L, f.n + h * L, g, p);
      add_words<V>(t + 2 * h * L, p, 2 * g, 2 * g, t + 2 * h * L);
      if (g < h) {
        Word x[kTile];
        load_tile<V>(x, f.n + g * L);
        row<V>(t + (h + g) * L, x, m + h * L, g / kTile);
      }
      return;
    }
  }
  const Word mask = V::all((u64{1} << f.radix) - 1);
  const Word inverse = V::load(f.inverse);
  Word carry = V::all(0);
  for (std::size_t k = 0; k < size; k += kTile) {
    Word x[kTile], c[2 * kTile];
    u64* column = t + k * L;
#pragma GCC unroll 16
    for (std::size_t i = 0; i < 2 * kTile; ++i) c[i] = V::load(column + i * L);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kTile; ++i) {
      c[i] = V::add(c[i], carry);
      x[i] = V::both(V::low(c[i], inverse), mask);
      V::store(m + (k + i) * L, x[i]);
#pragma GCC unroll 16
      for (std::size_t j = 0; j < kTile; ++j) {
        V::mac(c[i + j], c[i + j + 1], x[i], V::load(f.n + j * L));
      }
      carry = V::shift_right(c[i], f.radix);
    }
#pragma GCC unroll 16
    for (std::size_t i = kTile; i < 2 * kTile; ++i) V::store(column + i * L, c[i]);
    row<V>(column + kTile * L, x, f.n + kTile * L, size / kTile - 1);
  }
  V::store(t + size * L, V::add(V::load(t + size * L), carry));
}

// out = t / R modulo n, below 2 n, for columns t < 4 n n; at most n for t < R. Destroys t.
template <class V>
void reduce(const Lanes<V>& f, u64* t, u64* out) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 m[kMaxDigits * L];
  cancel<V>(f, K, m, t);
  const Word mask = V::all((u64{1} << f.radix) - 1);
  Word carry = V::all(0);
  for (std::size_t k = 0; k < K; ++k) {
    const Word x = V::add(V::load(t + (K + k) * L), carry);
    V::store(out + k * L, V::both(x, mask));
    carry = V::shift_right(x, f.radix);
  }
}

// out = a b / R modulo n.
template <class V>
void multiply(const Lanes<V>& f, const u64* a, const u64* b, u64* out) {
  alignas(64) u64 t[2 * kMaxDigits * V::kLanes];
  if (f.digits < kLeastProduct) {
    product_tiles<V>(a, b, f.digits, t);
  } else {
    product<V>(a, b, f.digits, t);
  }
  if (carries_between(f)) carry_columns(f, t);
  reduce(f, t, out);
}

// out = a a / R modulo n.
template <class V>
void square(const Lanes<V>& f, const u64* a, u64* out) {
  alignas(64) u64 t[2 * kMaxDigits * V::kLanes];
  square_columns<V>(a, f.digits, t);
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
