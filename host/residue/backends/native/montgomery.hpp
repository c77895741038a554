// Montgomery products of several residues at a time, one a lane.
//
// A residue x modulo an odd n has K digits of `radix` bits, x = sum_k x_k 2**(radix k), and stands
// for x / R modulo n with R = 2**(radix K) >= 4 n. Operands and results are below 2 n, so that no
// product ends in a comparison: (a b + m n) / R < (4 n n + R n) / R <= 2 n.
//
// Products are made in rows of kTile digits whose columns stay in registers; columns carry
// only where m needs their low digits (P. L. Montgomery, Math. Comp. 44, 1985; the order is that of
// separated operand scanning, C. K. Koc et al., IEEE Micro 16(3), 1996, by blocks of digits). A
// column holds at most 2 K products and a carry; see `room`.
//
// Time and addresses depend on K, radix and sizes alone.

#pragma once

#include <cstring>

#include "lanes.hpp"

namespace residue {

inline constexpr std::size_t kTile = 4;         // digits of a row
inline constexpr std::size_t kStep = 2;         // K is a multiple; the last row may be as short
inline constexpr std::size_t kMaxDigits = 220;  // 6144 bits and two in digits of 28

// Digits from which on an operand is split into halves.
inline constexpr std::size_t kLeastProduct = 64, kLeastSquare = 100, kLeastCancel = 200;
constexpr std::size_t half(std::size_t size) { return (size + 2 * kTile - 1) / (2 * kTile) * kTile; }
inline constexpr std::size_t kMaxHalf = half(kMaxDigits);

// Whether lanes multiply twice a sum of four digits, what two splits and a squaring need. Layouts of
// more than kMinRadix bits a digit have too few digits to be split.
template <class V>
inline constexpr bool kHalves = V::kMinRadix + 3 <= V::kOperandBits;
static_assert((kMaxDigits + 4 * kTile) / 4 < kLeastProduct);

// Moduli of one vector of lanes, and what depends on them.
template <class V>
struct Lanes {
  std::size_t digits;  // K, a multiple of kStep
  unsigned radix;
  bool squared;  // residues are those of pairs.hpp, modulo n n
  // Digit k of lane l at [k * kLanes + l]. With squared, from digit K on: (1 - R) modulo n.
  alignas(64) u64 n[kMaxDigits * V::kLanes];
  alignas(64) u64 inverse[V::kLanes];  // -1 / n modulo 2**radix
};

// Digits of residues: `digits` of `radix` bits, in rows of `row` words in memory.
struct Layout {
  std::size_t digits, row;
  unsigned radix;
};

// Products of two digits that a column holds.
template <class V>
constexpr std::size_t room(unsigned radix) {
  return V::kTerms >> 2 * (radix - V::kMinRadix);
}

// The layout with the fewest digits for moduli of `bits` bits, or for squares of such numbers; none
// if they are more than kMaxDigits.
template <class V>
Layout layout(std::size_t bits, bool squared) {
  const std::size_t parts = squared ? 2 : 1;  // of a residue; a column holds as many products
  Layout best{};
  for (unsigned radix = V::kMinRadix; radix <= V::kMaxRadix; ++radix) {
    const std::size_t steps = (bits + (squared ? 4 : 2) + radix * kStep - 1) / (radix * kStep);
    const std::size_t digits = parts * steps * kStep;
    if (digits > room<V>(radix) || digits > kMaxDigits) continue;
    if (best.digits == 0 || digits < best.digits) {
      best = {digits, (digits + V::kLanes - 1) / V::kLanes * V::kLanes, radix};
    }
  }
  return best;
}

// t[0, T + count) += (a[0], ..., a[T-1]) times b[0, count).
// The columns that a digit of b shares with the next one stay in registers.
template <class V, std::size_t T>
inline __attribute__((always_inline)) void row(u64* t, const typename V::Word (&a)[T],
                                               const u64* b, std::size_t count) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  constexpr std::size_t kShared = V::kFused ? T : T - 1;
  Word c[T + 1];
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kShared; ++k) c[k] = V::load(t + k * L);
  const auto digit = [&](std::size_t j) __attribute__((always_inline)) {
    const Word y = V::load(b + j * L);
    c[kShared] = V::load(t + (j + kShared) * L);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < T; ++i) V::mac(c[i], c[i + 1], a[i], y);
    V::store(t + j * L, c[0]);
#pragma GCC unroll 16
    for (std::size_t k = 0; k < kShared; ++k) c[k] = c[k + 1];
  };
  for (std::size_t block = 0; block < count / kTile; ++block, t += kTile * L, b += kTile * L) {
#pragma GCC unroll 16
    for (std::size_t j = 0; j < kTile; ++j) digit(j);
  }
  for (std::size_t j = 0; j < count % kTile; ++j, t += L, b += L) digit(0);
#pragma GCC unroll 16
  for (std::size_t k = 0; k < kShared; ++k) V::store(t + k * L, c[k]);
}

template <class V, std::size_t T>
inline __attribute__((always_inline)) void load_digits(typename V::Word (&a)[T], const u64* p) {
#pragma GCC unroll 16
  for (std::size_t i = 0; i < T; ++i) a[i] = V::load(p + i * V::kLanes);
}

// What `each` does for T digits from digit i on, for all of `size` digits.
template <class F>
inline __attribute__((always_inline)) void by_rows(std::size_t size, F each) {
  std::size_t i = 0;
  for (; i + kTile <= size; i += kTile) each.template operator()<kTile>(i);
  if (i < size) each.template operator()<kStep>(i);
}

// t[0, x + y) += a[0, x) b[0, y).
template <class V>
inline __attribute__((always_inline)) void add_rows(const u64* a, std::size_t x, const u64* b,
                                                    std::size_t y, u64* t) {
  constexpr std::size_t L = V::kLanes;
  by_rows(x, [&]<std::size_t T>(std::size_t i) __attribute__((always_inline)) {
    typename V::Word digits[T];
    load_digits<V, T>(digits, a + i * L);
    row<V, T>(t + i * L, digits, b, y);
  });
}

template <class V>
inline void clear(u64* t, std::size_t size) {
  for (std::size_t k = 0; k < size; ++k) V::store(t + k * V::kLanes, V::all(0));
}

// t[0, 2 size) = the columns of a b, by rows or, for long operands, by Karatsuba: three
// products of half the size, the third one of sums a_i + a_(h+i) of digits. Those do not carry, so
// that each column of (a_0 + a_1)(b_0 + b_1) - a_0 b_0 - a_1 b_1 is the sum of digits' products
// that rows would have given: it is right modulo 2**64 whatever the first term overflows, and
// columns keep their bound. `Wide` lanes take sums for digits.
template <class V>
void product(const u64* a, const u64* b, std::size_t size, u64* t);

// t[0, 2 size) = the columns of a a: half the products.
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
void product(const u64* a, const u64* b, std::size_t size, u64* t) {
  constexpr std::size_t L = V::kLanes;
  if constexpr (kHalves<V>) {
    if (size >= kLeastProduct) {
      using Wide = typename V::Wide;
      const std::size_t h = half(size);
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
  clear<V>(t, 2 * size);
  add_rows<V>(a, size, b, size, t);
}

// t[0, 2 size) += the columns of a b.
template <class V>
void add_product(const u64* a, const u64* b, std::size_t size, u64* t) {
  if constexpr (kHalves<V>) {
    if (size >= kLeastProduct) {
      alignas(64) u64 p[2 * kMaxDigits * V::kLanes];
      product<V>(a, b, size, p);
      add_words<V>(t, p, 2 * size, 2 * size, t);
      return;
    }
  }
  add_rows<V>(a, size, b, size, t);
}

template <class V>
void square_columns(const u64* a, std::size_t size, u64* t) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  if constexpr (kHalves<V>) {
    if (size >= kLeastSquare) {
      using Wide = typename V::Wide;
      const std::size_t h = half(size);
      alignas(64) u64 x[kMaxHalf * L], s[2 * kMaxHalf * L];
      add_words<Wide>(a, a + h * L, h, size - h, x);
      square_columns<Wide>(x, h, s);
      square_columns<V>(a, h, t);
      square_columns<V>(a + h * L, size - h, t + 2 * h * L);
      add_middle<Wide>(t, s, h, size);
      return;
    }
  }
  clear<V>(t, 2 * size);
  by_rows(size, [&]<std::size_t T>(std::size_t i) __attribute__((always_inline)) {
    Word x[T], c[2 * T];
    u64* column = t + 2 * i * L;
    load_digits<V, T>(x, a + i * L);
    load_digits<V, 2 * T>(c, column);
#pragma GCC unroll 16
    for (std::size_t j = 0; j < T; ++j) {
      if constexpr (kHalves<V>) {
        V::mac(c[2 * j], c[2 * j + 1], x[j], x[j]);
        x[j] = V::add(x[j], x[j]);
      }
#pragma GCC unroll 16
      for (std::size_t k = j + 1; k < T; ++k) V::mac(c[j + k], c[j + k + 1], x[j], x[k]);
    }
#pragma GCC unroll 16
    for (std::size_t k = 0; k < 2 * T; ++k) V::store(column + k * L, c[k]);
    row<V, T>(column + T * L, x, a + (i + T) * L, size - i - T);
  });
  if constexpr (!kHalves<V>) {  // twice a digit is too much: double the columns, then add squares
    for (std::size_t k = 0; k < size; ++k) {
      const Word x = V::load(a + k * L);
      Word low = V::load(t + 2 * k * L), high = V::load(t + (2 * k + 1) * L);
      low = V::add(low, low);
      high = V::add(high, high);
      V::mac(low, high, x, x);
      V::store(t + 2 * k * L, low);
      V::store(t + (2 * k + 1) * L, high);
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

// Makes the columns t[0, T) divisible by adding a multiple of n[0, T), the digits of that to x; what
// they carry is added to `carry`.
template <class V, std::size_t T>
inline __attribute__((always_inline)) void cancel_digits(const Lanes<V>& f, u64* t,
                                                         typename V::Word (&x)[T],
                                                         typename V::Word& carry) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  const Word mask = V::all((u64{1} << f.radix) - 1);
  const Word inverse = V::load(f.inverse);
  Word c[2 * T];
  load_digits<V, 2 * T>(c, t);
#pragma GCC unroll 16
  for (std::size_t i = 0; i < T; ++i) {
    c[i] = V::add(c[i], carry);
    x[i] = V::both(V::low(c[i], inverse), mask);
#pragma GCC unroll 16
    for (std::size_t j = 0; j < T; ++j) {
      V::mac(c[i + j], c[i + j + 1], x[i], V::load(f.n + j * L));
    }
    carry = V::shift_right(c[i], f.radix);
  }
#pragma GCC unroll 16
  for (std::size_t i = T; i < 2 * T; ++i) V::store(t + i * L, c[i]);
}

// Makes t[0, size) divisible by adding a multiple m of n[0, size), m's digits to m; the carry goes
// to column `size`.
template <class V>
void cancel(const Lanes<V>& f, std::size_t size, u64* m, u64* t) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  if constexpr (kHalves<V>) {
    if (size >= kLeastCancel) {
      const std::size_t h = half(size), g = size - h;
      const u64* upper = f.n + h * L;
      cancel<V>(f, h, m, t);
      add_product<V>(m, upper, g, t + h * L);
      add_rows<V>(m + g * L, h - g, upper, g, t + (h + g) * L);
      cancel<V>(f, g, m + h * L, t + h * L);
      add_product<V>(m + h * L, upper, g, t + 2 * h * L);
      add_rows<V>(f.n + g * L, h - g, m + h * L, g, t + (h + g) * L);
      return;
    }
  }
  Word carry = V::all(0);
  by_rows(size, [&]<std::size_t T>(std::size_t k) __attribute__((always_inline)) {
    Word x[T];
    cancel_digits<V, T>(f, t + k * L, x, carry);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < T; ++i) V::store(m + (k + i) * L, x[i]);
    row<V, T>(t + (k + T) * L, x, f.n + T * L, size - T);
  });
  V::store(t + size * L, V::add(V::load(t + size * L), carry));
}

// out[0, size) = the digits of columns t[0, size) and a carry into the first.
template <class V>
void carry_digits(const Lanes<V>& f, const u64* t, std::size_t size, u64* out,
                  typename V::Word carry = V::all(0)) {
  constexpr std::size_t L = V::kLanes;
  const auto mask = V::all((u64{1} << f.radix) - 1);
  for (std::size_t k = 0; k < size; ++k) {
    const auto x = V::add(V::load(t + k * L), carry);
    V::store(out + k * L, V::both(x, mask));
    carry = V::shift_right(x, f.radix);
  }
}

// out = t / R modulo n, below 2 n, for columns t < 4 n n; at most n for t < R. Destroys t; leaves
// m = -t / n modulo R: t = R out - m n.
template <class V>
void reduce(const Lanes<V>& f, u64* t, u64* m, u64* out) {
  cancel<V>(f, f.digits, m, t);
  carry_digits(f, t + f.digits * V::kLanes, f.digits, out);
}

// As `reduce` of columns that hold `products` products each, and less than another one.
template <class V>
void carry_and_reduce(const Lanes<V>& f, std::size_t products, u64* t, u64* m, u64* out) {
  if (products + f.digits > room<V>(f.radix)) carry_columns(f, t);
  reduce(f, t, m, out);
}

// out = a b / R modulo n.
template <class V>
void multiply(const Lanes<V>& f, const u64* a, const u64* b, u64* out) {
  alignas(64) u64 t[2 * kMaxDigits * V::kLanes], m[kMaxDigits * V::kLanes];
  product<V>(a, b, f.digits, t);
  carry_and_reduce(f, f.digits, t, m, out);
}

// out = a a / R modulo n.
template <class V>
void square(const Lanes<V>& f, const u64* a, u64* out) {
  alignas(64) u64 t[2 * kMaxDigits * V::kLanes], m[kMaxDigits * V::kLanes];
  square_columns<V>(a, f.digits, t);
  carry_and_reduce(f, f.digits, t, m, out);
}

// Subtracts n from a < 2 n where it is not below n; all ones in those lanes.
template <class V>
typename V::Word make_less(const Lanes<V>& f, u64* a) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  alignas(64) u64 less[kMaxDigits * L];
  const Word mask = V::all((u64{1} << f.radix) - 1);
  Word borrow = V::all(0);
  for (std::size_t k = 0; k < f.digits; ++k) {
    const Word x = V::sub(V::sub(V::load(a + k * L), V::load(f.n + k * L)), borrow);
    V::store(less + k * L, V::both(x, mask));
    borrow = V::shift_right(x, 63);
  }
  const Word keep = V::sub(V::all(0), borrow);  // all ones where a < n
  const Word drop = V::sub(borrow, V::all(1));
  for (std::size_t k = 0; k < f.digits; ++k) {
    V::store(a + k * L, V::either(V::both(V::load(a + k * L), keep),
                                  V::both(V::load(less + k * L), drop)));
  }
  return drop;
}

// out = a / R modulo n, below n.
template <class V>
void leave(const Lanes<V>& f, const u64* a, u64* out) {
  constexpr std::size_t L = V::kLanes;
  alignas(64) u64 t[2 * kMaxDigits * L], m[kMaxDigits * L];
  clear<V>(t, 2 * f.digits);
  std::memcpy(t, a, f.digits * L * sizeof(u64));
  reduce(f, t, m, out);
  make_less(f, out);
}

}  // namespace residue
