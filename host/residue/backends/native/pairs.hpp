// Residues modulo a square n n as pairs of residues modulo n.
//
// x = x_0 + x_1 n modulo n n, with x_0 and x_1 below 2 n, each K digits, one after the other. For
// columns t, Montgomery's reduction gives r and m with t = R r - m n, so that
//
//   x y / R = r + ((x_0 y_1 + x_1 y_0 - m) / R) n modulo n n,  x_0 y_0 = R r - m n
//
// is three products and two reductions of K digits where a modulus of 2 K digits takes four and four
// of those; a squaring takes a square, a product and two reductions instead of a square of 2 K and
// four. R >= 16 n: x_0 y_1 + x_1 y_0 < 8 n n, and -m is written as (R - 1 - m) + (1 - R mod n).
//
// Time and addresses depend on K, radix and sizes alone.

#pragma once

#include "montgomery.hpp"

namespace residue {

// The column s + k L, less digit k of m: the digits of (R - 1 - m) and of (1 - R) mod n are added.
template <class V>
inline void subtract(const Lanes<V>& f, std::size_t k, typename V::Word m, u64* s) {
  constexpr std::size_t L = V::kLanes;
  const auto mask = V::all((u64{1} << f.radix) - 1);
  const auto x = V::add(V::sub(mask, m), V::load(f.n + (f.digits + k) * L));
  V::store(s + k * L, V::add(V::load(s + k * L), x));
}

// t[0, T + count) += x b and s[0, T + count) += y b: two of `row`, which wait less for each other.
template <class V, std::size_t T>
inline __attribute__((always_inline)) void two_rows(u64* t, const typename V::Word (&x)[T], u64* s,
                                                    const typename V::Word (&y)[T], const u64* b,
                                                    std::size_t count) {
  using Word = typename V::Word;
  constexpr std::size_t L = V::kLanes;
  Word c[T + 1], d[T + 1];
  for (std::size_t k = 0; k < T; ++k) c[k] = V::load(t + k * L), d[k] = V::load(s + k * L);
  for (std::size_t j = 0; j < count; ++j, t += L, s += L) {
    const Word z = V::load(b + j * L);
    c[T] = V::load(t + T * L);
    d[T] = V::load(s + T * L);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < T; ++i) {
      V::mac(c[i], c[i + 1], x[i], z);
      V::mac(d[i], d[i + 1], y[i], z);
    }
    V::store(t, c[0]);
    V::store(s, d[0]);
#pragma GCC unroll 16
    for (std::size_t k = 0; k < T; ++k) c[k] = c[k + 1], d[k] = d[k + 1];
  }
#pragma GCC unroll 16
  for (std::size_t k = 0; k < T; ++k) V::store(t + k * L, c[k]), V::store(s + k * L, d[k]);
}

// out = (t + s n) / R modulo n n, for columns t of K products and s of 2 K. Destroys both.
template <class V>
void reduce_pair(const Lanes<V>& f, u64* t, u64* s, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  if constexpr (V::kFused) {  // registers for both at a time; columns hold all products
    typename V::Word carry = V::all(0), other = V::all(0);
    by_rows(K, [&]<std::size_t T>(std::size_t k) __attribute__((always_inline)) {
      typename V::Word x[T], y[T];
      cancel_digits<V, T>(f, t + k * L, x, carry);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < T; ++i) subtract(f, k + i, x[i], s);
      cancel_digits<V, T>(f, s + k * L, y, other);
      two_rows<V, T>(t + (k + T) * L, x, s + (k + T) * L, y, f.n + T * L, K - T);
    });
    V::store(t + K * L, V::add(V::load(t + K * L), carry));
    V::store(s + K * L, V::add(V::load(s + K * L), other));
    carry_digits(f, t + K * L, K, out);
    carry_digits(f, s + K * L, K, out + K * L);
  } else {
    alignas(64) u64 m[kMaxDigits * L];
    carry_and_reduce(f, K, t, m, out);
    for (std::size_t k = 0; k < K; ++k) subtract(f, k, V::load(m + k * L), s);
    carry_and_reduce(f, 2 * K, s, m, out + K * L);
  }
}

// out = a b / R modulo n n.
template <class V>
void multiply_pairs(const Lanes<V>& f, const u64* a, const u64* b, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[kMaxDigits * L], s[kMaxDigits * L];
  product<V>(a, b + K * L, K, s);
  add_product<V>(a + K * L, b, K, s);
  product<V>(a, b, K, t);
  reduce_pair(f, t, s, out);
}

// out = a a / R modulo n n.
template <class V>
void square_pairs(const Lanes<V>& f, const u64* a, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[kMaxDigits * L], s[kMaxDigits * L];
  product<V>(a, a + K * L, K, s);
  add_words<V>(s, s, 2 * K, 2 * K, s);
  square_columns<V>(a, K, t);
  reduce_pair(f, t, s, out);
}

// out = the pair of a / R modulo n n, for a < n n of 2 K digits.
template <class V>
void split(const Lanes<V>& f, const u64* a, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[kMaxDigits * L], s[kMaxDigits * L];
  std::memcpy(t, a, 2 * K * L * sizeof(u64));
  clear<V>(s, 2 * K);
  reduce_pair(f, t, s, out);
}

// out = the pair of a / R modulo n n, both of it below n.
template <class V>
void canonical_pair(const Lanes<V>& f, const u64* a, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[kMaxDigits * L], s[kMaxDigits * L];
  clear<V>(t, 2 * K);
  clear<V>(s, 2 * K);
  std::memcpy(t, a, K * L * sizeof(u64));
  std::memcpy(s, a + K * L, K * L * sizeof(u64));
  reduce_pair(f, t, s, out);  // at most n, and at most n + 1
  u64* high = out + K * L;
  const auto one = V::both(make_less(f, out), V::all(1));  // n is one more of the other
  carry_digits(f, high, K, high, one);
  make_less(f, high);
}

// out = a / R modulo n n, below n n, of 2 K digits.
template <class V>
void leave_pairs(const Lanes<V>& f, const u64* a, u64* out) {
  constexpr std::size_t L = V::kLanes;
  const std::size_t K = f.digits;
  alignas(64) u64 t[kMaxDigits * L], pair[kMaxDigits * L];
  canonical_pair(f, a, pair);
  clear<V>(t, 2 * K);
  std::memcpy(t, pair, K * L * sizeof(u64));
  add_product<V>(pair + K * L, f.n, K, t);
  carry_digits(f, t, 2 * K, out);
}

// out = the pair of (1 + x n) / R modulo n n, for x below n.
template <class V>
void binomial_pair(const Lanes<V>& f, const u64* x, u64* out) {
  constexpr std::size_t L = V::kLanes;
  alignas(64) u64 t[kMaxDigits * L], s[kMaxDigits * L];
  product<V>(x, f.n, f.digits, t);
  V::store(t, V::add(V::load(t), V::all(1)));
  clear<V>(s, 2 * f.digits);
  reduce_pair(f, t, s, out);
}

}  // namespace residue
