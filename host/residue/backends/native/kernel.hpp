// What a kernel offers: operations on rows of digits, as function pointers.

#pragma once

#include "pairs.hpp"

namespace residue {

// Moduli in rows of digits: one for all residues (`count` 1), or one for each. `squared` ones are
// given by their roots n, and their residues are pairs.
struct Moduli {
  std::size_t digits, row;  // of a residue
  unsigned radix;
  bool squared;
  std::size_t count;
  const u64* n;        // (count, row); squared: a pair of n and (1 - R) mod n
  const u64* inverse;  // (count), -1 / n modulo 2**radix
  const u64* one;      // (count, row), R modulo the modulus
};

// Residues in rows of digits, `count` of them or one for all.
struct Rows {
  const u64* digits;
  std::size_t count;
};

struct Exponents {
  const u64* limbs;  // (count, width), little-endian
  std::size_t count, width, bits;
};

// Segments of a gathered product: of rows index[offsets[s]] to index[offsets[s + 1] - 1]. They are
// computed in the given order, kLanes at a time, each as long as the longest of those.
// Segments of one length can be more: with `squarings`, what is there of a product is squared so
// many times before each further factor (Horner's rule); with `prefixes`, the result is the product
// of the products of all prefixes, which is that of the i-th last factor to the power i (buckets).
// With exponents there is no index but the digits of theirs, of `window` bits: segment s is the
// product of rows (i << window) + (digit i of exponent s), i in [0, offsets[1]) (a comb).
struct Segments {
  const std::int64_t* index;
  const std::int64_t* offsets;
  const std::int64_t* order;
  std::size_t begin, end;  // of `order`
  std::size_t squarings;
  bool prefixes;
  const Exponents* exponents;
  unsigned window;
};

// Every function but `product` takes time and addresses that depend on sizes alone; those of
// `product` depend on index and offsets too. Results may be operands.
struct Kernel {
  const char* name;
  bool (*available)();
  Layout (*layout)(std::size_t bits, bool squared);
  std::size_t lanes;
  // out[i] = a[i] b[i] / R
  void (*multiply)(const Moduli&, Rows a, Rows b, u64* out, std::size_t n);
  // out[i] = a[i] ** (2 ** times)
  void (*square)(const Moduli&, Rows a, std::size_t times, u64* out, std::size_t n);
  // out[i] = the residue of a[i], which is a plain number below the modulus, times scale[i] / R; a
  // pair is divided by R once more
  void (*enter)(const Moduli&, Rows a, Rows scale, u64* out, std::size_t n);
  // out[i] = a[i] / R, below the modulus, a plain number
  void (*leave)(const Moduli&, Rows a, u64* out, std::size_t n);
  // out[i] = a[i] ** exponents[i], by windows; false if there is no memory.
  bool (*power)(const Moduli&, Rows a, Exponents, unsigned window, u64* out, std::size_t n);
  // out[i << window | d] = a[i] ** d for d < 2 ** window
  void (*powers)(const Moduli&, Rows a, unsigned window, u64* out, std::size_t n);
  // out[s] = the product of segment s
  void (*product)(const Moduli&, const u64* a, const Segments&, u64* out);

  // Of moduli n n alone, as pairs:
  // out[i] = the residue of 1 + m[i] n; scale as for `enter`; n > 2**63
  void (*binomials)(const Moduli&, const std::int64_t* m, Rows scale, u64* out, std::size_t n);
  // out[i] = the residue of the sum of a[t stride / row + i] weights[t] / R for t below weights.count <= 3,
  // a being plain numbers below the modulus and weights residues
  void (*weighted_sum)(const Moduli&, const u64* a, std::size_t stride, Rows weights, Rows scale,
                       u64* out, std::size_t n);
  // out[i] = the pair of a[i] / R, both of it below n
  void (*pairs)(const Moduli&, Rows a, u64* out, std::size_t n);
};

extern const Kernel kPortable, kAvx2, kAvx512Ifma;

}  // namespace residue
